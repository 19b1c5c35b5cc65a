#!/usr/bin/env python3
"""Wraps the paragraphs of Markdown pages at 100 columns.

Usage: python scripts/dev/wrap_docs.py [--check] [PAGE…]

Tables, code, headings and comments stay as they are, and so does a paragraph whose lines are short enough.
Code in backticks is not torn apart. Without pages: all of them.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 100
_GLUE = "\x00"  # a space at which no line ends
_ITEM = re.compile(r"( *)([-*+]|\d+\.) +")
_FENCE = re.compile(r" *(```|~~~)")
_AS_IT_IS = re.compile(r" *(\||#|<|>|!\[|:::|$)|    ")  # tables, headings, HTML, quotes, figures, code
_MARKER = re.compile(
    r" (?=([-+*#>|]|\d+[.)])( |$))"
)  # would begin a list, heading or table on a line of its own


def pages() -> list[Path]:
    """All pages of the project."""
    patterns = ("*.md", "docs/**/*.md", "patch/*.md", "examples/**/*.md", ".github/*.md")
    return sorted({path for pattern in patterns for path in ROOT.glob(pattern)})


def wrap(text: str) -> str:
    """The page with its long paragraphs wrapped."""
    lines: list[str] = []
    block: list[str] = []  # the paragraph or list item at hand
    fence = ""
    for line in text.splitlines():
        mark = _FENCE.match(line)
        kept = bool(fence or mark) or (_AS_IT_IS.match(line) and not _continues(block, line))
        if kept or _ITEM.match(line):
            lines += _wrapped(block)
            block = []
        (lines if kept else block).append(line)
        if mark and (not fence or mark[1] == fence):
            fence = "" if fence else mark[1]
    return "\n".join([*lines, *_wrapped(block)]) + "\n"


def _continues(block: Sequence[str], line: str) -> bool:
    """Whether an indented line goes on with a list item."""
    return bool(block and line.strip() and line.startswith("    ") and _ITEM.match(block[0]))


def _wrapped(block: Sequence[str]) -> list[str]:
    if all(len(line) <= WIDTH for line in block):
        return list(block)
    item = _ITEM.match(block[0])
    first = item[0] if item else re.match(" *", block[0])[0]  # type: ignore[index]
    text = " ".join([block[0][len(first) :], *(line.strip() for line in block[1:])])
    text = re.sub(r"(`+)[^`].*?\1", lambda code: code[0].replace(" ", _GLUE), text)
    text = _MARKER.sub(_GLUE, text)
    filled = textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(_GLUE, " ") for line in filled]


def main(words: Sequence[str]) -> int:
    """Wrap the pages; with --check only say which are not wrapped, and exit with 1 if any is."""
    check = "--check" in words
    named = [Path(word) for word in words if word != "--check"]
    long = [path for path in named or pages() if wrap(text := path.read_text(encoding="utf-8")) != text]
    for path in long:
        sys.stdout.write(f"{path}\n")
        if not check:
            path.write_text(wrap(path.read_text(encoding="utf-8")), encoding="utf-8")
    return 1 if check and long else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
