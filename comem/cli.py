"""The `comem` command: one sub-command per job, each loaded only when it is called."""

from __future__ import annotations

import inspect
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from comem import __version__
from comem.command_help import COMMON, columns, help_text
from comem.command_line import UsageError, parse
from comem.commands import COMMANDS, Command
from comem.io.console import bar
from comem.registry import UnknownNameError, load_plugin, locate, nearest
from comem.training.interrupt import Interrupted

HELP = {"--help", "-h"}
USER_ERROR = 2  # something that the caller can mend
INTERRUPTED = 130  # as a shell reports SIGINT


@dataclass(frozen=True)
class Common:
    """The options of every command."""

    debug: bool
    verbose: bool
    plugins: tuple[str, ...]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command; its exit code."""
    words, common = _common(list(sys.argv[1:] if argv is None else argv))
    try:
        for plugin in common.plugins:  # before the command's own words: they may name its rows
            load_plugin(plugin)
        name, rest = _command(words)
        asked = bool(HELP & set(words))
        if name is None or asked:
            _write(describe(name))
            if asked:
                raise SystemExit(0)
            return USER_ERROR if words else 0
        _set_up_logging(common.verbose)
        with _threads_in_words(common.debug):
            return run_command(name, rest)
    except KeyboardInterrupt:
        _say("interrupted; run the same command again to go on")
        return INTERRUPTED
    except Interrupted as stop:
        _say(str(stop))
        return stop.exit_code
    except BrokenPipeError:  # the reader of a pipe has gone (… | head): nobody is left to tell
        sys.stderr.close()
        return 1
    except Exception as error:
        said = _in_words(error)
        if common.debug or not said:
            raise
        _say(f"error: {said}")
        return USER_ERROR


def _common(words: list[str]) -> tuple[list[str], Common]:
    """The words without the options that every command has, and these; they may stand anywhere."""
    rest: list[str] = []
    plugins: list[str] = []
    debug = verbose = False
    while words and words[0] != "--":
        word = words.pop(0)
        if word == "--debug":
            debug = True
        elif word in ("--verbose", "-v"):
            verbose = True
        elif word == "--plugin":
            plugins += words[:1]
            del words[:1]
        elif word.startswith("--plugin="):
            plugins.append(word.partition("=")[2])
        else:
            rest.append(word)
    return rest + words, Common(debug, verbose, tuple(plugins))


def _command(words: list[str]) -> tuple[str | None, list[str]]:
    """The command that the first words name, and the other words; None for a group, or no words at all.

    Raises:
        UnknownNameError: no such sub-command (the nearest ones are offered).
        UsageError: an option where a sub-command should stand.
    """
    if words[:1] == ["--version"]:
        _write(f"comem {__version__}\n")
        raise SystemExit(0)
    named = list(takewhile(lambda word: not word.startswith("-"), words))
    for length in range(len(named), 0, -1):
        name = " ".join(named[:length])
        if name in COMMANDS:
            if _members(name) and len(named) > length:
                COMMANDS.check(" ".join(named[: length + 1]))
            return name, words[length:]
    if named:
        known = [name for name in COMMANDS if " " not in name]
        raise UnknownNameError(f"unknown sub-command {named[0]!r}; {nearest(named[0], known)}")
    if words and not HELP & set(words):
        raise UsageError(f"{words[0]} stands before the sub-command; write comem SUB-COMMAND {words[0]}")
    return None, words


def describe(name: str | None) -> str:
    """What --help shows of the command of that name, of a group, or of all."""
    if name is None:
        rows = [(key, command.summary) for key, command in COMMANDS.items() if " " not in key]
        title = "CoMEM: continuous memory for vision-language models."
    else:
        command = COMMANDS[name]
        title = _sentence(command.summary)
        if command.settings:
            return help_text(name, title, *_classes(command), command.examples)
        rows = [(key, COMMANDS[key].summary) for key in _members(name)]
    usage = f"usage: comem {name or 'SUB-COMMAND'} …"
    end = "comem SUB-COMMAND --help explains one, with examples. New here? comem quickstart --fast"
    examples = ["", "examples:", *(f"  {each}" for each in COMMANDS[name].examples)] if name else []
    lines = [usage, "", title, "", "sub-commands:", *columns(rows), *examples, "", "of every command:"]
    return "\n".join([*lines, *columns((*COMMON, ("--version", "show the version"))), "", end, ""])


def _members(group: str) -> list[str]:
    return [key for key in COMMANDS if key.startswith(f"{group} ")]


def run_command(name: str, words: list[str]) -> int:
    """Parse a command's own words, run it, show its result; the exit code.

    Raises:
        ValueError: whatever is wrong with words, settings or data.
    """
    command = COMMANDS[name]
    if not command.settings:
        _write(describe(name))
        return USER_ERROR
    cls, extra = _classes(command)
    settings: Any
    more: Any
    settings, more = parse(cls, words, command.recipes, extra)
    planned = bool(command.plan) and more.dry_run
    work: Callable[..., Any] = locate(command.plan if planned else command.run)
    facts = {"progress": bar} if "progress" in inspect.signature(work).parameters else {}
    result = work(settings, *([more] if extra and (planned or not command.plan) else []), **facts)
    return int((locate(command.show)(result, settings) if command.show else None) or 0)


def _classes(command: Command) -> tuple[type, type | None]:
    return locate(command.settings), locate(command.extra) if command.extra else None


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _write(text: str) -> None:
    sys.stdout.write(text)


_NO_MEMORY = (
    "can't allocate memory", "Cannot allocate memory", "failed to map segment", "out of memory",
    "can't start new thread", "Failed to launch worker thread", "could not create a primitive",
)  # fmt: skip


def _in_words(error: Exception) -> str:
    """The message of an error that the caller can mend; nothing for one of ours.

    Torch, and the loader of shared libraries, have errors of their own for too little memory.
    """
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in _NO_MEMORY):
        return (
            f"not enough memory ({_one_line(error)[:300]}); what was finished is kept: close other programs, "
            "or lower the batch size or the number of workers, and run the same command again"
        )
    return _one_line(error) if isinstance(error, ValueError | OSError) else ""


@contextmanager
def _threads_in_words(debug: bool) -> Iterator[None]:
    """An error in a library's own thread is a line, not a traceback; the command says what came of it."""

    def say(args: threading.ExceptHookArgs) -> None:
        name = args.thread.name if args.thread else "a thread"
        logging.getLogger(__name__).warning("%s: %s: %s", name, args.exc_type.__name__, args.exc_value)

    before = threading.excepthook
    threading.excepthook = before if debug else say
    try:
        yield
    finally:
        threading.excepthook = before


_LONGEST = 2000  # characters


def _one_line(error: Exception) -> str:
    """The message without line breaks, its middle left out where a name in it is endless.

    An OSError without a message names its kind.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 400]} … {text[-400:]}"


def _say(text: str) -> None:
    """One line on stderr, red on a terminal."""
    from rich.console import Console

    Console(stderr=True, soft_wrap=True).print(f"comem: {text}", style="red", markup=False, highlight=False)


def _set_up_logging(verbose: bool) -> None:
    """Warnings always; with --verbose everything of ours, and the time."""
    style = "%(asctime)s %(levelname)s %(name)s: %(message)s" if verbose else "%(levelname)s: %(message)s"
    logging.basicConfig(level=logging.WARNING, format=style, datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("comem").setLevel(logging.INFO if verbose else logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
