"""The best titles for a query, exactly, without looking at every title.

Posting lists are read from the token that can add most to the token that can add least (MaxScore: Turtle
and Flood, 1995). As soon as the k-th best title so far cannot be reached by one that has none of the
tokens read, the remaining lists are only looked up for the titles found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
