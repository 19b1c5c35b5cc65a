"""What is measured: a mode with so many items and questions at once, on one engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

QUERIES = 8  # memory embeddings per item
OWN = "own"  # the engine of a way that has a loop of its own


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        mode: a key of `WAYS`.
        k: items per question.
        batch: questions at once.
        engine: a key of `ENGINES`, or `OWN`.
    """

    mode: str
    k: int
    batch: int
    engine: str = "comem"

    @property
    def key(self) -> str:
        """Its name in results."""
        return f"{self.mode} k={self.k} batch={self.batch} {self.engine}"


def grid(
    modes: Sequence[str], ks: Sequence[int], batches: Sequence[int], engines: Sequence[str]
) -> list[Cell]:
    """All combinations; the baseline, which has no items, once per batch size, every other mode with items.

    Raises:
        ValueError: a number that cannot be.
    """
    if min(ks, default=0) < 0 or min(batches, default=1) < 1:
        raise ValueError(f"--k {list(ks)} --batch {list(batches)}: give items from 0, batches from 1")
    return [
        Cell(mode, k, batch, engine)
        for engine in engines
        for mode in modes
        for k in ([0] if mode == "baseline" else sorted({k for k in ks if k}))
        for batch in batches
    ]
