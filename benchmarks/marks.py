"""The marks that answering from memory is measured by, read off the rows of one run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

HEADINGS = ("mark", "wanted", "found", "")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Rows:
    """The rows with figures, of one engine where there are several."""

    rows: Sequence[Row]
    engine: str

    def value(self, mode: str, k: int, batch: int, what: str) -> float | None:
        """The median of a figure; None where it was not measured."""
        for row in self.rows:
            own = mode.startswith("authors") or row["engine"] == self.engine
            if own and (row["mode"], row["k"], row["batch"]) == (mode, k, batch) and what in row:
                return float(row[what]["p50"])
        return None

    def best(self, mode: str, k: int, what: str) -> float | None:
        """The largest median over the batch sizes."""
        found = [self.value(mode, k, batch, what) for batch in {row["batch"] for row in self.rows}]
        return max((value for value in found if value is not None), default=None)


@dataclass(frozen=True)
class Mark:
    """A ratio that has to be at most or at least so much."""

    name: str
    ratio: Callable[[Rows], float | None]
    at_most: float | None = None
    at_least: float | None = None

    def line(self, rows: Rows) -> tuple[str, ...]:
        """As a line of a table."""
        found = self.ratio(rows)
        limit = self.at_most if self.at_least is None else self.at_least
        wanted = f"{'≤' if self.at_least is None else '≥'} {limit:g}"
        if found is None:
            return (self.name, wanted, "not measured", "")
        met = found <= self.at_most if self.at_most is not None else found >= (self.at_least or 0)
        return (self.name, wanted, f"{found:.3g}", "met" if met else "MISSED")


def check_marks(rows: Iterable[Row], on_gpu: bool) -> list[tuple[str, ...]]:
    """A line for each mark of answering, by the first engine that was measured."""
    measured = [row for row in rows if "repeats" in row]
    engines = [row["engine"] for row in measured if not row["mode"].startswith("authors")]
    found = Rows(measured, engines[0] if engines else "")
    return [mark.line(found) for mark in _marks(on_gpu)]


def check_encoding(rows: Sequence[Row], on_gpu: bool) -> list[tuple[str, ...]]:
    """A line for each mark of encoding, from the rows of `encode_items`."""
    best: dict[str, Row] = {}
    for row in rows:
        if "repeats" in row and row["items_per_second"] > best.get(row["way"], {}).get(
            "items_per_second", 0.0
        ):
            best[row["way"]] = row
    ours, theirs = best.get("comem"), best.get("authors-batch")
    speed = None if ours is None else ours["items_per_second"]
    against = None if speed is None or theirs is None else speed / theirs["items_per_second"]
    share, seconds = (None, None) if ours is None else (ours["share"], 1 / ours["items_per_second"])
    marks = [("items/s, ours / authors", against, None, 5.0)]
    marks += (
        [("share of the matrix rate", share, None, 0.45)] if on_gpu else [("s an item", seconds, 0.67, None)]
    )
    empty = Rows((), "")
    return [
        Mark(name, lambda _, value=value: value, most, least).line(empty)
        for name, value, most, least in marks
    ]


def _marks(on_gpu: bool) -> list[Mark]:
    first, rate = "first_token_seconds", "questions_per_second"
    sooner = {10: 10.0, 50: 40.0} if on_gpu else {10: 20.0, 50: 100.0}
    near = {10: 1.10, 50: 1.35}
    marks = []
    for k in (10, 50):
        plain = _ratio(("comem-bank", k), ("baseline", 0), first)
        rag = _ratio(("rag", k), ("comem-bank", k), first)
        marks.append(Mark(f"first token, bank / plain, k={k}", plain, at_most=near[k]))
        marks.append(Mark(f"first token, RAG / bank, k={k}", rag, at_least=sooner[k]))
    marks += [
        Mark(
            "questions/s at batch 32, bank / plain, k=10",
            _ratio(("comem-bank", 10), ("baseline", 0), rate, batch=32),
            at_least=0.9,
        ),
        Mark("questions/s, encoder in the loop / authors, k=10", _against_authors, at_least=8.0),
        Mark("milliseconds to read a question's memories, k=10", _read_milliseconds, at_most=1.0),
    ]
    return marks


def _ratio(
    above: tuple[str, int], below: tuple[str, int], what: str, batch: int = 1
) -> Callable[[Rows], float | None]:
    def ratio(rows: Rows) -> float | None:
        values = [rows.value(*cell, batch, what) for cell in (above, below)]
        return None if None in values else values[0] / values[1]  # type: ignore[operator]

    return ratio


def _against_authors(rows: Rows) -> float | None:
    """Our best batch size against theirs, which is one question; items as their code batches them."""
    ours = rows.best("comem", 10, "questions_per_second")
    theirs = rows.value("authors-batch", 10, 1, "questions_per_second")
    return None if ours is None or theirs is None else ours / theirs


def _read_milliseconds(rows: Rows) -> float | None:
    seconds = rows.value("comem-bank", 10, 1, "read_seconds")
    return None if seconds is None else 1000 * seconds
