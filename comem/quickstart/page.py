"""One HTML page with the results and worked examples; it opens without a server or a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from comem.io.files import write_atomic
from comem.io.page import render
from comem.quickstart.result import Case, Row
from comem.quickstart.table import HEADINGS, cells

SIDE = 320  # longest side of an embedded picture, in pixels


def write_page(
    path: str | Path, title: str, notes: Sequence[str], tables: Sequence[tuple[str, Sequence[Row]]],
    figure: str | Path, cases: Sequence[Case],
) -> None:  # fmt: skip
    """Write the page, atomically.

    Args:
        path: the HTML file.
        title: its heading.
        notes: paragraphs under the heading.
        tables: captions and rows.
        figure: a PNG, embedded.
        cases: the worked examples.
    """
    shown = [(caption, rows[0].count if rows else 0, HEADINGS, map(cells, rows)) for caption, rows in tables]
    drawn = Path(figure).read_bytes()
    write_atomic(
        path,
        render("quickstart", title=title, notes=notes, tables=shown, figure=drawn, cases=cases, side=SIDE),
    )
