"""What commands show: lines and tables."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.table import Table


def _out() -> Console:
    """Standard output; made anew each time, so that a redirected stream is respected."""
    return Console(soft_wrap=True, highlight=False, markup=False)  # data may hold brackets


def print_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None,
    texts: Collection[str] = (),
) -> None:  # fmt: skip
    """Print a table whose first column is text, as are those in `texts`, and the others are figures."""
    table = Table(title=title, title_justify="left")
    for number, heading in enumerate(headings):
        left = number == 0 or heading in texts
        table.add_column(heading, justify="left" if left else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    _out().print(table, markup=False)


def print_line(text: str, style: str | None = None) -> None:
    """Print one line as it stands."""
    _out().print(text, style=style, markup=False)


def print_piece(text: str) -> None:
    """Print a piece of a line that goes on, at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Labels and values, one a line."""
    table = Table.grid(padding=(0, 2))
    for label, value in facts:
        table.add_row(label, value)
    _out().print(table, markup=False)


LOG_SECONDS = 10.0  # between two lines of progress where there is no terminal


class Advance(Protocol):
    """Called by a job with the number of units just finished, and figures to show beside (`loss=0.3`)."""

    def __call__(self, count: int = 1, /, **figures: float) -> None:
        """Take note of `count` more units, and of figures to show beside them."""
        ...


class Progress(Protocol):
    """Called by a job when a stage begins; the stage ends with the context.

    A function that takes long has a parameter `progress: Progress = quiet`:

        with progress("encoding", len(items)) as advance:
            for batch in batches:
                ...
                advance(len(batch))
    """

    def __call__(
        self, title: str, total: int | None = None, *, done: int = 0, unit: str = "items"
    ) -> AbstractContextManager[Advance]:
        """Begin a stage of `total` units, or of an unknown number; `done` of them are behind it."""
        ...


@contextmanager
def quiet(title: str, total: int | None = None, *, done: int = 0, unit: str = "items") -> Iterator[Advance]:
    """Says nothing."""
    yield _ignore


def _ignore(count: int = 1, /, **figures: float) -> None:
    """Nobody wants to know."""


@contextmanager
def bar(title: str, total: int | None = None, *, done: int = 0, unit: str = "items") -> Iterator[Advance]:
    """A bar on stderr; where there is no terminal, a line every ten seconds.

    Args:
        title: what is being done.
        total: units in all, None if unknown.
        done: units that were finished before.
        unit: what is counted.
    """
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    pause = 0.2 if terminal else LOG_SECONDS
    with tqdm(
        total=total, initial=done, desc=title, unit=f" {unit}", mininterval=pause, dynamic_ncols=terminal
    ) as shown:

        def advance(count: int = 1, /, **figures: float) -> None:
            if figures:
                shown.set_postfix({name: f"{value:.3f}" for name, value in figures.items()}, refresh=False)
            shown.update(count)

        yield advance
