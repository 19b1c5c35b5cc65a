"""The `comem` command: one sub-command per job, each loaded only when it is called.

A sub-command `x` lives in the module that its row names, as two functions: `add_x_arguments(parser)` and
`run_x(args) -> int | None`, the exit code. Both may do without the name where a module has one command only.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

from comem import __version__
from comem.tables import Table, UnknownNameError

USER_ERROR = 2  # as argparse: something that the caller can mend
INTERRUPTED = 130  # as a shell reports SIGINT


@dataclass(frozen=True)
class Command:
    """Where a sub-command lives (`module`) and what it does, in one line.

    `examples` are shown by --help where the module brings none of its own.
    """

    module: str
    summary: str
    examples: tuple[str, ...] = ()


COMMANDS: Table[Command] = Table(
    "sub-command",
    {
        "quickstart": Command("comem.quickstart.commands", "the whole method on the embedded world"),
        "toy": Command(
            "comem.toy.commands",
            "build the embedded world's data folder",
            ("comem toy build data/toy", "comem toy build data/toy --size 500 --languages en es"),
        ),
        "corpus": Command(
            "comem.retrieval.corpus.commands", "build a knowledge base from WIT or from your own files"
        ),
        "index": Command(
            "comem.retrieval.commands",
            "embed a knowledge base with CLIP and index it",
            (
                "comem index build --corpus wit.tsv.gz --embedder ViT-L-14:openai --output wit-index",
                "comem index build --corpus data/toy/wit.tsv.gz --embedder toy --output data/toy/index",
                "comem index search --index data/toy/index --image data/toy/images/T00001_1.png",
            ),
        ),
        "retrieve": Command(
            "comem.retrieval.commands",
            "find knowledge items for the images of questions",
            (
                "comem retrieve --index data/toy/index --questions data/toy/test.jsonl -k 3 \\",
                "    --output runs/retrieved.jsonl",
            ),
        ),
        "data": Command("comem.data.commands", "check, convert and synthesise training data"),
        "train": Command("comem.training.commands", "train the memory encoder (LoRA and Q-Former)"),
        "merge": Command("comem.training.commands", "fold LoRA into a self-contained encoder"),
        "convert": Command(
            "comem.compat.commands", "the authors' checkpoints: what is in one, and our encoder folder of it"
        ),
        "bank": Command("comem.bank.commands", "memories on disk: build, info, verify, export, merge"),
        "encode": Command("comem.commands", "encode knowledge items into a memory bank"),
        "predict": Command("comem.eval.predict", "answer questions: baseline, rag or comem"),
        "evaluate": Command(
            "comem.eval.commands",
            "score predictions (needs no GPU, no torch)",
            (
                "comem evaluate infoseek --predictions answers.jsonl --references infoseek_val.jsonl",
                "comem evaluate viquae --predictions a.jsonl --references test.jsonl --compare b.jsonl",
                "comem evaluate okvqa --predictions a.json --references val.json --scorer paper",
                "comem evaluate toy --predictions runs/rag/predictions.jsonl \\",
                "    --references data/toy/test.jsonl --output report.json",
            ),
        ),
        "oven": Command("comem.linking.commands", "link answers to Wikidata ids, as OVEN's score needs"),
        "report": Command("comem.report.commands", "runs beside the paper's numbers: HTML page and figure"),
        "profile": Command(
            "comem.profiling.commands", "what answering costs: seconds, memory, operations, by mode"
        ),
        "parity": Command("comem.commands", "compare our modules with recorded outputs of the authors'"),
    },
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command; its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = next((word for word in words if not word.startswith("-")), None)
    debug = "--debug" in words
    try:
        parser, module = build_parser(name)
        args = parser.parse_args(words)
        if module is None or name is None:
            parser.print_help()
            return 0 if not words else USER_ERROR
        _set_up_logging(args.verbose)
        return int(_function(module, f"run_{name}", "run")(args) or 0)
    except KeyboardInterrupt:
        _say("interrupted; run the same command again to go on")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe has gone (… | head): nobody is left to tell
        sys.stderr.close()
        return 1
    except (ValueError, OSError) as error:
        if debug:
            raise
        _say(f"error: {_one_line(error)}")
        return USER_ERROR


def build_parser(name: str | None) -> tuple[argparse.ArgumentParser, ModuleType | None]:
    """The parser; only the sub-command called `name` gets its arguments, so that the others cost nothing.

    Raises:
        UnknownNameError: no such sub-command (the nearest ones are offered).
    """
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    common.add_argument("--verbose", "-v", action="store_true", help="log what is done, with times")
    parser = argparse.ArgumentParser(
        prog="comem",
        parents=[common],
        description="CoMEM: continuous memory for vision-language models.",
        epilog="comem SUB-COMMAND --help explains one, with examples. New here? comem quickstart --fast",
    )
    parser.set_defaults(verbose=False, debug=False)
    parser.add_argument("--version", action="version", version=f"comem {__version__}")
    chosen = COMMANDS[name] if name is not None else None
    group = parser.add_subparsers(title="sub-commands", metavar="SUB-COMMAND")
    module: ModuleType | None = None
    for key, command in COMMANDS.items():
        child = group.add_parser(
            key,
            help=command.summary,
            description=_sentence(command.summary),
            parents=[common],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if command is chosen:
            module = importlib.import_module(command.module)
            _function(module, f"add_{key}_arguments", "add_arguments")(child)
            if command.examples and not child.epilog:
                child.epilog = "\n  ".join(["examples:", *command.examples])
    return parser, module


def _function(module: ModuleType, *names: str) -> Callable[..., int | None]:
    """The first of the functions that the module has."""
    return next(getattr(module, name) for name in names if hasattr(module, name))


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _one_line(error: Exception) -> str:
    """The message without line breaks; an OSError without one names its kind."""
    if isinstance(error, UnknownNameError):
        return " ".join(str(error.args[0]).split())
    return " ".join(str(error).split()) or type(error).__name__


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
