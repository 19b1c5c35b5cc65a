"""Shards on the local engine; tests/test_parallel_ray.py has those on Ray."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from comem.io.parallel import run_shards


def square(number: int) -> int:
    return number * number


def test_local_shards_are_done_in_order_and_lazily() -> None:
    asked: list[int] = []

    def job(number: int) -> Callable[[], int]:
        asked.append(number)
        return partial(square, number)

    results = run_shards(job, [3, 1, 2])
    assert asked == []
    assert next(results) == (3, 9) and asked == [3]
    assert list(results) == [(1, 1), (2, 4)]


def test_an_error_of_a_local_shard_is_raised_as_it_is() -> None:
    def job(number: int) -> Callable[[], int]:
        return partial(int, "no number")

    with pytest.raises(ValueError, match="no number"):
        list(run_shards(job, [0]))


def test_unknown_engines_and_no_workers_are_refused() -> None:
    with pytest.raises(ValueError, match="engine 'spark'.*local, ray"):
        list(run_shards(lambda n: partial(square, n), [0], engine="spark"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="workers = 0"):
        list(run_shards(lambda n: partial(square, n), [0], engine="ray", workers=0))
