"""The index over titles: stored by bm25s, ranked as rank_bm25's BM25Okapi, memory-mapped.

OVEN's official linking is BM25Okapi (k1 1.5, b 0.75, epsilon 0.25) over 6 million titles
(edchengg/oven_eval).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comem.io.files import SUMS, compare_sums, read_json
from comem.linking.titles import TOKENIZERS, Entity

Rows = NDArray[np.int32]
Scores = NDArray[np.float64]
_MARGIN = 1e-9  # sums in another order differ by less; scores that are nearer count as equal


@dataclass(frozen=True)
class Postings:
    """An inverted index: token t is in the titles `rows[starts[t]:starts[t + 1]]`, ascending.

    Attributes:
        starts: `(v + 1,)` int64.
        rows: `(p,)`.
        values: `(p,)`, what the token adds to each title's score.
        highest: `(v,)`, each token's largest value.
    """

    starts: NDArray[np.int64]
    rows: Rows
    values: Scores
    highest: Scores

    def of(self, token: int) -> tuple[Rows, Scores]:
        """A token's titles and what it adds to their scores."""
        place = slice(int(self.starts[token]), int(self.starts[token + 1]))
        return self.rows[place], self.values[place]


def best(postings: Postings, query: Sequence[int], k: int = 1) -> tuple[Rows, Scores]:
    """The k titles with the highest score; of equal ones, those that come first.

    Args:
        postings: the index.
        query: token ids; one that comes twice counts twice.
        k: how many titles; fewer are returned when fewer have any of the tokens.
    """
    counts: dict[int, int] = {}
    for token in query:
        counts[token] = counts.get(token, 0) + 1
    tokens = sorted(counts, key=lambda token: -counts[token] * postings.highest[token])
    rest = np.cumsum([counts[t] * postings.highest[t] for t in reversed(tokens)])[::-1]  # (tokens,)
    rows, scores = np.empty(0, np.int32), np.empty(0)
    for token, left in zip(tokens, rest, strict=True):
        kth = _kth(scores, k)
        if kth > left + _MARGIN:  # what has none of the tokens read is out, and so are the lowest found
            rows = rows[scores >= kth - left - _MARGIN]
            break
        rows, scores = _merged(rows, scores, *postings.of(token), counts[token])
    else:
        rows = rows[scores >= _kth(scores, k) - _MARGIN]
    return _ranked(rows, _scored(postings, rows, counts), k)


def _kth(scores: Scores, k: int) -> float:
    """The k-th best of some scores; minus infinity when they are fewer."""
    return float(np.partition(scores, -k)[-k]) if len(scores) >= k else -np.inf


def _merged(rows: Rows, scores: Scores, new: Rows, values: Scores, count: int) -> tuple[Rows, Scores]:
    """Both sorted lists as one; the scores of titles that are in both are added."""
    if not len(rows):
        return new, count * values
    place = np.searchsorted(rows, new)
    known = rows[np.minimum(place, len(rows) - 1)] == new
    scores[place[known]] += count * values[known]
    fresh = ~known
    return np.insert(rows, place[fresh], new[fresh]), np.insert(scores, place[fresh], count * values[fresh])


def _scored(postings: Postings, rows: Rows, counts: dict[int, int]) -> Scores:
    """The full scores of some titles."""
    scores = np.zeros(len(rows))
    for token, count in counts.items():
        listed, values = postings.of(token)
        place = np.minimum(np.searchsorted(listed, rows), len(listed) - 1)
        hit = listed[place] == rows
        scores[hit] += count * values[place[hit]]
    return scores


def _ranked(rows: Rows, scores: Scores, k: int) -> tuple[Rows, Scores]:
    order = np.lexsort((rows, -np.round(scores, 9)))[:k]
    return rows[order], scores[order]


FORMAT = "comem-titles-1"
MANIFEST, TITLES, OFFSETS, HIGHEST, VOCABULARY = (
    "titles.json", "titles.tsv", "offsets.npy", "highest.npy", "vocabulary.txt",
)  # fmt: skip


class TitleIndexError(ValueError):
    """A folder that holds no finished index of titles, or another one than asked for."""


@dataclass(frozen=True)
class Match:
    """A title that was found, and its BM25 score."""

    entity: Entity
    score: float


class TitleIndex:
    """An index folder, opened for searching; its arrays stay on disk and are shared between processes.

    Raises:
        TitleIndexError: no finished index, or files that were cut or changed.
    """

    def __init__(self, folder: str | Path) -> None:
        import bm25s

        self.folder = Path(folder)
        self.manifest = _checked_manifest(self.folder)
        vocabulary = self.folder / VOCABULARY if (self.folder / VOCABULARY).is_file() else None
        self.tokenizer = TOKENIZERS[self.manifest["tokenizer"]](vocabulary)
        index = bm25s.BM25.load(self.folder, mmap=True)
        self._vocabulary: dict[str, int] = index.vocab_dict
        # asarray: the same mapped memory without np.memmap's slow slicing
        starts, rows, values = (np.asarray(index.scores[name]) for name in ("indptr", "indices", "data"))
        self._postings = Postings(starts, rows, values, np.load(self.folder / HIGHEST))
        self._titles = np.asarray(np.memmap(self.folder / TITLES, dtype=np.uint8, mode="r"))
        self._offsets = np.asarray(np.load(self.folder / OFFSETS, mmap_mode="r"))  # (n + 1,)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def entity(self, row: int) -> Entity:
        """The entity in a row."""
        start, end = int(self._offsets[row]), int(self._offsets[row + 1])
        name, _, title = self._titles[start : end - 1].tobytes().decode("utf-8").partition("\t")
        return Entity(name, title)

    def search(self, texts: Sequence[str], k: int = 1) -> list[list[Match]]:
        """Per text the k best titles; none for a text that shares no token with any title."""
        found = []
        for tokens in self.tokenizer(texts):
            query = [self._vocabulary[token] for token in tokens if token in self._vocabulary]
            rows, scores = best(self._postings, query, k)
            pairs = zip(rows.tolist(), scores.tolist(), strict=True)
            found.append([Match(self.entity(row), score) for row, score in pairs])
        return found


def _checked_manifest(folder: Path) -> Mapping[str, Any]:
    if not (folder / MANIFEST).is_file():
        raise TitleIndexError(f"{folder}: no index of titles here; make one with comem oven index")
    manifest: Mapping[str, Any] = read_json(folder / MANIFEST)
    if manifest.get("format") != FORMAT:
        raise TitleIndexError(f"{folder}: format {manifest.get('format')!r}, this version reads {FORMAT!r}")
    for name, size in manifest["bytes"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise TitleIndexError(
                f"{path} is missing, cut or changed ({size} bytes were written); build the index again"
            )
    if wrong := compare_sums(folder, manifest.get(SUMS, {})):  # read once, which opening does anyway
        raise TitleIndexError(f"{wrong[0]}, or build the index again")
    return manifest
