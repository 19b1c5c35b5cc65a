#!/usr/bin/env python3
"""Makes a notebook of each how-to: docs/howto/NAME.md becomes docs/notebooks/NAME.ipynb.

Usage: python scripts/dev/notebooks.py [--check]

A block with a title becomes a cell that writes the file, `bash` and `python` blocks become cells that run.
`sh` and `py` blocks, which need real models or data, become cells that executors pass over (their tag is
"skip-execution"). What a page builds on comes first, so that each notebook runs in an empty folder. A test
runs the cells (tests/test_docs.py).
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```\n', re.MULTILINE | re.DOTALL)
#: Pages whose blocks a page needs before its own.
BEFORE = {"own_questions": ["own_data"], "own_benchmark": ["own_data"]}
RUN, SHOWN = {"bash": "bash", "python": "python"}, {"sh": "bash", "py": "python"}
_LINK = re.compile(r"\]\((?!https?://|#)([^)]+)\)")
_OWN = re.compile(r"\[This page as a notebook\]\([^)]+\)\.?\n*")


def main() -> int:
    """Write the notebooks, or say which are not what their pages make of them."""
    stale = []
    for page in pages():
        path, text = DOCS / "notebooks" / f"{page.stem}.ipynb", written(page)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(path)
            if "--check" not in sys.argv[1:]:
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8")
    for path in stale if "--check" in sys.argv[1:] else ():
        sys.stdout.write(f"{path.relative_to(DOCS.parent)}: not what its page says\n")
    return 1 if stale and "--check" in sys.argv[1:] else 0


def pages() -> list[Path]:
    """The how-tos."""
    return sorted((DOCS / "howto").glob("*.md"))


def written(page: Path) -> str:
    """A notebook's file."""
    made = [{**cell, "id": f"{page.stem}-{n}".replace("_", "-")} for n, cell in enumerate(cells(page))]
    about = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    notebook = {"cells": made, "metadata": about, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def cells(page: Path) -> list[dict[str, Any]]:
    """The cells of a page, what it builds on before its own."""
    title, _, rest = page.read_text(encoding="utf-8").partition("\n")
    made = [_prose(title), _prose("Needs `pip install comem` (see the documentation's front page).")]
    for name in BEFORE.get(page.stem, ()):
        before = page.with_name(f"{name}.md").read_text(encoding="utf-8")
        made.append(_prose(f"What [{name.replace('_', ' ')}](../howto/{name}.md) prepares:"))
        made += [cell for cell in _cells(before) if cell["cell_type"] == "code"]
    return made + _cells(rest)


def _cells(text: str) -> list[dict[str, Any]]:
    made, end = [], 0
    text = _OWN.sub("", text)
    for block in BLOCK.finditer(text):
        kind, title, body = block.groups()
        runs, shown = kind in RUN, kind in SHOWN
        if not (title or runs or shown):
            continue
        if prose := text[end : block.start()].strip():
            made.append(_prose(prose))
        end = block.end()
        if title:
            body = f"%%writefile {title}\n{body}"
        elif {**RUN, **SHOWN}[kind] == "bash":
            body = re.sub(r"^(?=\w)", "!", body, flags=re.MULTILINE)
        made.append(_code(body.rstrip("\n"), () if title or runs else ("skip-execution",)))
    if prose := text[end:].strip():
        made.append(_prose(prose))
    return made


def _prose(text: str) -> dict[str, Any]:
    """Links go from docs/notebooks as they went from docs/howto, to their neighbours by their folder."""
    moved = _LINK.sub(lambda link: f"]({_moved(link[1])})", text)
    return {"cell_type": "markdown", "metadata": {}, "source": moved.splitlines(keepends=True)}


def _moved(link: str) -> str:
    return link if link.startswith("../") else f"../howto/{link}"


def _code(text: str, tags: tuple[str, ...]) -> dict[str, Any]:
    about = {"tags": list(tags)} if tags else {}
    return {
        "cell_type": "code", "execution_count": None, "metadata": about, "outputs": [],
        "source": text.splitlines(keepends=True),
    }  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
