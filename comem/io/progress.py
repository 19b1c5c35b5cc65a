"""How long jobs say how far they are: one protocol, and the bar that commands show."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

LOG_SECONDS = 10.0  # between two lines of progress where there is no terminal


class Advance(Protocol):
    """Called by a job with the number of units just finished, and figures to show beside (`loss=0.3`)."""

    def __call__(self, count: int = 1, /, **figures: float) -> None: ...


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
    ) -> AbstractContextManager[Advance]: ...


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
