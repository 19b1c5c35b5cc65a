"""What commands show: lines and tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table


def _out() -> Console:
    """Standard output; made anew each time, so that a redirected stream is respected."""
    return Console(soft_wrap=True, highlight=False, markup=False)  # data may hold brackets


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
    """Print a table whose first column is text and the others are figures."""
    table = Table(title=title, title_justify="left")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    _out().print(table, markup=False)


def print_line(text: str, style: str | None = None) -> None:
    """Print one line as it stands."""
    _out().print(text, style=style, markup=False)


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Labels and values, one a line."""
    table = Table.grid(padding=(0, 2))
    for label, value in facts:
        table.add_row(label, value)
    _out().print(table, markup=False)
