"""The pruned search against adding up every score."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from comem.linking.index import Postings, best


def random_postings(random: np.random.Generator, documents: int, tokens: int) -> tuple[Postings, np.ndarray]:
    """An index and the same as a dense matrix `(tokens, documents)`; few distinct values: many tie."""
    shares = 1 / np.arange(1, tokens + 1)
    dense = np.where(random.random((tokens, documents)) < shares[:, None] * 0.8, 1.0, 0.0)
    dense[:, 0] = 1.0  # every token is somewhere
    dense *= random.choice([0.25, 0.5, 1.0, 2.0], size=(tokens, 1)) * random.choice(
        [1.0, 1.5], size=(1, documents)
    )
    rows = [np.flatnonzero(row).astype(np.int32) for row in dense]
    starts = np.cumsum([0, *map(len, rows)])
    values = np.concatenate([dense[token][listed] for token, listed in enumerate(rows)])
    return Postings(starts, np.concatenate(rows), values, dense.max(axis=1)), dense


@pytest.mark.parametrize("k", [1, 3, 10, 1000])
def test_equals_adding_up_everything(k: int) -> None:
    random = np.random.default_rng(k)
    for _ in range(60):
        postings, dense = random_postings(random, int(random.integers(1, 200)), int(random.integers(1, 12)))
        query = random.integers(len(dense), size=int(random.integers(1, 8))).tolist()
        rows, scores = best(postings, query, k)
        total = dense[query].sum(axis=0)
        order = [row for row in np.lexsort((np.arange(len(total)), -total)) if total[row] > 0][:k]
        assert rows.tolist() == order
        np.testing.assert_allclose(scores, total[order], atol=1e-12)


def test_a_token_that_comes_twice_counts_twice() -> None:
    postings, _ = random_postings(np.random.default_rng(0), 20, 3)
    once, twice = best(postings, [1]), best(postings, [1, 1])
    assert twice[1][0] == 2 * once[1][0]


def test_no_known_token_finds_nothing() -> None:
    postings, _ = random_postings(np.random.default_rng(0), 20, 3)
    rows, scores = best(postings, [], 5)
    assert len(rows) == len(scores) == 0


def test_long_lists_are_only_looked_up() -> None:
    """One rare token that decides, and one that is in every title: the second list is never read whole."""
    count = 100_000
    rows = np.concatenate([[7], np.arange(count)]).astype(np.int32)
    values = np.concatenate([[9.0], np.full(count, 0.1)])

    class Watched(np.ndarray):
        largest = 0

        def __array_wrap__(self, *args: Any, **kwargs: Any) -> Any:
            Watched.largest = max(Watched.largest, self.size)
            return super().__array_wrap__(*args, **kwargs)

    postings = Postings(np.array([0, 1, count + 1]), rows, values.view(Watched), np.array([9.0, 0.1]))
    found, scores = best(postings, [1, 0])
    assert found.tolist() == [7] and scores[0] == pytest.approx(9.1)
    assert 0 < Watched.largest <= 1
    best(postings, [1])
    assert Watched.largest == count  # the watch works
