"""Parts of a run, processes, and batches that interruptions leave alone."""

from __future__ import annotations

import random

import pytest

from comem.eval.answering import Batch, distinct, plan_batches
from comem.eval.run_folder import Processes, Shard
from comem.types import Example


def examples(count: int) -> list[Example]:
    return [Example(f"q{i}", "?" * (1 + i * 7 % 5), None) for i in range(count)]


def ids(batches: list[Batch]) -> list[list[str]]:
    return [[example.id for example in batch.examples] for batch in batches]


def length(example: Example) -> int:
    return len(example.question)


@pytest.mark.parametrize("count", [0, 1, 5, 100])
@pytest.mark.parametrize("parts", [1, 2, 7])
def test_parts_are_disjoint_complete_and_even(count: int, parts: int) -> None:
    every = examples(count)
    split = [Shard(i, parts).of(every) for i in range(1, parts + 1)]
    assert sorted(e.id for part in split for e in part) == sorted(e.id for e in every)
    assert max(map(len, split)) - min(map(len, split)) <= 1


def test_a_limit_takes_nothing_from_one_part_to_another() -> None:
    every = examples(50)
    assert Shard(2, 3).of(every)[:5] == Shard(2, 3).of(every[:15])


def test_parts_of_parts_are_parts() -> None:
    every = examples(40)
    parts = [Shard(i, 3).within(Processes(rank, 2)) for i in (1, 2, 3) for rank in (0, 1)]
    assert [(part.number, part.count) for part in parts] == [(i, 6) for i in range(1, 7)]
    assert sorted(e.id for part in parts for e in part.of(every)) == sorted(e.id for e in every)
    assert Shard(1, 1).within(Processes()) == Shard()


def test_shards_are_read_and_written() -> None:
    assert Shard.parse("2/4") == Shard(2, 4) and str(Shard(2, 4)) == "2-of-4"
    for wrong, said in (("0/4", "give 1/4 to 4/4"), ("5/4", "give 1/4 to 4/4"), ("1/0", "i/n"), ("2", "i/n")):
        with pytest.raises(ValueError, match=said):
            Shard.parse(wrong)


def test_processes_come_from_the_launcher() -> None:
    assert Processes.of({}) == Processes(0, 1, 0)
    found = Processes.of({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"})
    assert found == Processes(3, 4, 1)
    assert [found.device(asked, 2) for asked in (None, "cuda", "cuda:0", "cpu")] == [
        "cuda:1", "cuda:1", "cuda:0", "cpu",
    ]  # fmt: skip
    assert found.device(None, 0) is None and Processes().device("cuda", 8) == "cuda"


def test_an_id_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="'q0' comes twice"):
        distinct(examples(2) + examples(1))


def test_batches_hold_like_lengths_or_the_given_order() -> None:
    every = examples(10)
    by_length = [e for batch in plan_batches(every, set(), (), 3, length) for e in batch.examples]
    assert [len(e.question) for e in by_length] == sorted(len(e.question) for e in every)
    assert [e.id for b in plan_batches(every, set(), (), 3) for e in b.examples] == [e.id for e in every]


def test_a_run_that_stops_anywhere_sees_the_batches_of_an_undisturbed_one() -> None:
    every, draw = examples(50), random.Random(0)
    planned = plan_batches(every, set(), (), 8, length)
    order = [e.id for batch in planned for e in batch.examples]
    for _ in range(50):
        done: set[str] = set()
        while left := plan_batches(every, done, (), 8, length):
            assert all(batch.examples in [p.examples for p in planned] for batch in left)
            assert frozenset(order) - done == frozenset().union(*(batch.wanted for batch in left))
            pending = [e.id for batch in left for e in batch.examples if e.id in batch.wanted]
            assert pending == [name for name in order if name not in done]
            done |= set(pending[: draw.randint(1, 20)])


def test_another_division_batches_only_what_is_missing() -> None:
    every = examples(16)
    done = {f"q{i}" for i in range(0, 16, 2)}
    left = plan_batches(every, done, (), 4)
    assert ids(left) == [["q1", "q3", "q5", "q7"], ["q9", "q11", "q13", "q15"]]
    assert all(batch.wanted == {e.id for e in batch.examples} for batch in left)


def test_what_failed_is_tried_again_alone_and_last() -> None:
    every = examples(8)
    left = plan_batches(every, {f"q{i}" for i in (0, 1, 3, 4)}, {"q2", "q0"}, 4)
    assert ids(left) == [["q4", "q5", "q6", "q7"], ["q2"]]
    assert [sorted(batch.wanted) for batch in left] == [["q5", "q6", "q7"], ["q2"]]
