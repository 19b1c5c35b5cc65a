"""The table of results: mode × accuracy × context tokens × seconds per question."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from comem.io.console import make_table
from comem.quickstart.result import Row

HEADINGS = ("mode", "accuracy", "context tokens", "per item", "seconds per question")


def cells(row: Row) -> tuple[str, str, str, str, str]:
    """A row as text, rounded to what its number of questions can tell."""
    per_item = f"{row.context_tokens / row.items:.0f}" if row.items and row.context_tokens else "–"
    tokens = f"{row.context_tokens:.0f}"
    return row.label, f"{100 * row.accuracy:.1f} %", tokens, per_item, f"{row.seconds:.3f}"


def result_table(rows: Sequence[Row], title: str) -> Table:
    """The rows as a table for rich."""
    counts = " / ".join(str(count) for count in sorted({row.count for row in rows}))
    return make_table(HEADINGS, map(cells, rows), f"{title} ({counts} questions)")
