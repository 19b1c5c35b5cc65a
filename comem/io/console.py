"""What commands show: lines, tables and progress, on the terminal and in logs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

LOG_SECONDS = 10.0  # between two lines of progress where there is no terminal


def out() -> Console:
    """Standard output; made anew each time, so that a redirected stream is respected."""
    return Console(soft_wrap=True, highlight=False, markup=False)  # data may hold brackets


def make_table(headings: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> Table:
    """A table whose first column is text and the others are figures."""
    table = Table(title=title, title_justify="left")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
    """Print a table whose first column is text and the others are figures."""
    out().print(make_table(headings, rows, title), markup=False)


def print_line(text: str, style: str | None = None) -> None:
    """Print one line as it stands."""
    out().print(text, style=style, markup=False)


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Labels and values, one a line."""
    table = Table.grid(padding=(0, 2))
    for label, value in facts:
        table.add_row(label, value)
    out().print(table, markup=False)


@contextmanager
def bar(title: str, total: int | None = None, unit: str = " items") -> Iterator[Any]:
    """A progress bar on stderr (a `tqdm`); in a log a line every ten seconds instead of many."""
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    pause = 0.2 if terminal else LOG_SECONDS
    with tqdm(total=total, desc=title, unit=unit, mininterval=pause, dynamic_ncols=terminal) as progress:
        yield progress
