"""The help of a command, made of its settings' docstrings."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from comem.command_line import LISTS, Option, docstring, options
from comem.registry import locate

#: The options of every command.
COMMON = (
    ("--config, -c FILE", "settings as YAML, or the name of a recipe; it may say `extends: FILE`"),
    ("--plugin FILE_OR_MODULE", "rows of your own (benchmarks, modes, …); may be repeated"),
    ("--verbose, -v", "log what is done, with times"),
    ("--debug", "show the traceback of an error"),
    ("--help, -h", "show this"),
)


def help_text(
    name: str, summary: str, cls: type, extra: type | None = None, examples: Sequence[str] = ()
) -> str:
    """What `comem NAME --help` shows: usage, the docstrings of settings and fields, examples."""
    known = options(cls) + (options(extra) if extra else ())
    places = [option for option in known if option.positional]
    words = [_value(place) if place.required else f"[{_value(place)}]" for place in places]
    needed = [f"{o.label} {o.placeholder}" for o in known if o.required and not o.positional]
    usage = " ".join([f"usage: comem {name}", *words, *needed, "[--option VALUE | key=value …]"])
    parts = [*_wrapped(usage, "    "), "", *_wrapped(summary)]
    if told := docstring(cls).long_description:
        parts += ["", *_wrapped(told)]
    groups: dict[str, list[Option]] = {}
    for option in known:
        groups.setdefault("arguments" if option.positional else option.group or "options", []).append(option)
    for title, listed in groups.items():
        parts += ["", f"{title}:", *columns((_names(option), _told(option)) for option in listed)]
    parts += ["", "of every command:", *columns(COMMON)]
    if examples:
        parts += ["", "examples:", *(f"  {line}" for line in examples)]
    return "\n".join(parts) + "\n"


def columns(rows: Iterable[tuple[str, str]], left: int = 26) -> Iterator[str]:
    """Names and what they mean, the second wrapped in a column of its own."""
    for name, meaning in rows:
        lines = textwrap.wrap(meaning, max(_width() - left, 30), break_on_hyphens=False) or [""]
        head = f"  {name}".ljust(left)
        if len(head) > left or not head.endswith(" "):
            yield head.rstrip()
            head = " " * left
        yield (head + lines[0]).rstrip()
        yield from (" " * left + line for line in lines[1:])


def _names(option: Option) -> str:
    if option.positional:
        return _value(option)
    names = ", ".join(option.names)
    if option.flag:
        return names if option.default is False else names.replace("--", "--[no-]", 1)
    return f"{names} {_value(option)}"


def _value(option: Option) -> str:
    return option.placeholder + (" …" if option.several else "")


def _told(option: Option) -> str:
    """The help of one option, its choices and its default."""
    notes = []
    if option.choices:
        notes.append(f"one of: {', '.join(locate(option.choices))}")
    if option.required and not option.positional:
        notes.append("required")
    if option.flag and option.default is not False:
        notes.append({True: "default: on"}.get(option.default, ""))
    elif not option.flag and not option.required and option.default not in (None, "", (), []):
        shown = option.default
        notes.append(f"default: {' '.join(map(str, shown)) if isinstance(shown, LISTS) else shown}")
    ends = [f"({note})" for note in notes if note]
    return " ".join([option.help.removesuffix(".") if ends else option.help, *ends]).strip()


def _wrapped(text: str, indent: str = "") -> list[str]:
    """Paragraphs at the terminal's width."""
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        lines += [""] if lines else []
        lines += textwrap.wrap(paragraph, _width(), subsequent_indent=indent, break_on_hyphens=False)
    return lines


def _width() -> int:
    return min(max(shutil.get_terminal_size().columns, 60), 100)
