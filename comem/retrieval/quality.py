"""How good an index is: recall against exact search, and of items known to be relevant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from comem.records import RecordError, read_jsonl
from comem.retrieval.vectors import Vectors

KS = (1, 5, 10)
_CHUNK = 1 << 16  # vectors compared at once


@dataclass(frozen=True)
class Quality:
    """Shares between 0 and 1 over `count` queries.

    Attributes:
        recall: k → share of the right items that are among the first k.
        mrr: mean of 1 / rank of the first right item (0 where there is none).
    """

    count: int
    recall: Mapping[int, float]
    mrr: float


def exact_search(vectors: Vectors, queries: np.ndarray, k: int) -> np.ndarray:
    """int64 `(b, k)`: the true nearest neighbours by inner product, chunk by chunk."""
    best = np.full((len(queries), k), -np.inf, dtype=np.float32)
    places = np.full((len(queries), k), -1, dtype=np.int64)
    start = 0
    for part in vectors.chunks(_CHUNK):
        scores = np.concatenate([best, queries @ part.T], axis=1)
        found = np.concatenate(
            [places, np.broadcast_to(np.arange(start, start + len(part)), (len(queries), len(part)))], axis=1
        )
        top = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        best, places = np.take_along_axis(scores, top, axis=1), np.take_along_axis(found, top, axis=1)
        start += len(part)
    return np.take_along_axis(places, np.argsort(-best, axis=1, kind="stable"), axis=1)


def recall_at(found: np.ndarray, exact: np.ndarray, k: int) -> float:
    """Share of the true k nearest `(b, ≥ k)` that are among the first k found `(b, ≥ k)`."""
    hits = [len(np.intersect1d(a[:k], b[:k])) for a, b in zip(found, exact, strict=True)]
    return float(np.mean(hits)) / k if hits else 0.0


def relevance(contexts: str | Path, relevant: str | Path, ks: Sequence[int] = KS) -> Quality:
    """Quality of retrieved items given the relevant ids of each question.

    Args:
        contexts: lines of `comem retrieve` (`example_id`, `ids`).
        relevant: lines of `example_id` and `relevant` (ids); questions without any do not count.

    Raises:
        RecordError: a line without these fields, or a question that was not retrieved.
    """
    found = {str(row["example_id"]): row["ids"] for row in _rows(contexts, "ids")}
    recalls: dict[int, list[float]] = {k: [] for k in ks}
    ranks = []
    for row in _rows(relevant, "relevant"):
        name, right = str(row["example_id"]), {str(item) for item in row["relevant"]}
        if not right:
            continue
        if name not in found:
            raise RecordError(f"{contexts}: no results for question {name!r} of {relevant}; retrieve it too")
        ids = [str(item) for item in found[name]]
        ranks.append(next((1 / rank for rank, item in enumerate(ids, start=1) if item in right), 0.0))
        for k in ks:
            recalls[k].append(len(right & set(ids[:k])) / len(right))
    if not ranks:
        raise RecordError(f"{relevant}: no question has relevant ids")
    return Quality(len(ranks), {k: float(np.mean(recalls[k])) for k in ks}, float(np.mean(ranks)))


def _rows(path: str | Path, field: str) -> list[dict]:
    rows = list(read_jsonl(path))
    for number, row in enumerate(rows, start=1):
        if "example_id" not in row or not isinstance(row.get(field), list):
            raise RecordError(f"{path}: record {number} needs example_id and a list {field!r}")
    return rows
