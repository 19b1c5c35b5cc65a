"""Which examples a process answers, and in which batches."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass

from comem.types import Example


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count` of a run: every `count`-th example, so that parts are disjoint and complete.

    Raises:
        ValueError: a number out of range.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            n = self.count
            raise ValueError(f"shard {self.number}/{n}: give 1/{n} to {n}/{n}")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From `2/4`, the second of four."""
        match = re.fullmatch(r"(\d+)/([1-9]\d*)", text.strip())
        if match is None:
            raise ValueError(f"shard {text!r}: write it as i/n, 1/4 to 4/4 for four parts")
        return cls(int(match[1]), int(match[2]))

    def within(self, processes: Processes) -> Shard:
        """The part of this part that one of several processes takes."""
        return Shard((self.number - 1) * processes.count + processes.rank + 1, self.count * processes.count)

    def of(self, examples: Sequence[Example]) -> list[Example]:
        """Its examples, in their order."""
        return list(examples[self.number - 1 :: self.count])

    def __str__(self) -> str:
        return f"{self.number}-of-{self.count}"


@dataclass(frozen=True)
class Processes:
    """This process among those that `accelerate launch` (or torchrun) started.

    They need no connection: each answers its own part, and who is last puts the parts together. So a slow
    process times nobody out, and a dead one costs its own part only, which the next call makes up for.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @classmethod
    def of(cls, environment: Mapping[str, str] | None = None) -> Processes:
        """From the variables that the launchers set; one process without them."""
        found = os.environ if environment is None else environment
        rank, count = int(found.get("RANK", 0)), int(found.get("WORLD_SIZE", 1))
        return cls(rank, count, int(found.get("LOCAL_RANK", rank)))

    def device(self, asked: str | None, gpus: int) -> str | None:
        """The device of this process: its own GPU, where the caller named none by its number."""
        if self.count == 1 or not gpus or asked not in (None, "cuda", "auto"):
            return asked
        return f"cuda:{self.local_rank % gpus}"


@dataclass(frozen=True)
class Batch:
    """Examples that are answered together; only those in `wanted` are still to be written."""

    examples: tuple[Example, ...]
    wanted: frozenset[str]


def distinct(examples: Sequence[Example]) -> list[Example]:
    """The examples, each id once.

    Raises:
        ValueError: an id comes twice.
    """
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise ValueError(f"example {example.id!r} comes twice; every prediction belongs to one id")
        seen.add(example.id)
    return list(examples)


def plan_batches(
    examples: Sequence[Example], done: Set[str], failed: Collection[str], size: int,
    length: Callable[[Example], int] | None = None,
) -> list[Batch]:  # fmt: skip
    """The batches that are left.

    An answer may depend, in its last digits or through sampling, on the batch that it is made in. So that
    a run which was killed equals an undisturbed one, the batches are those of all examples, and the one
    that the kill has cut is answered again as a whole. Where several are cut, the examples, the parts or
    the batch size were others before, and only what is missing is batched.

    Args:
        examples: all examples of the part.
        done: ids with an answer.
        failed: ids that could not be answered before; they are tried again, each alone, as they were.
        size: examples a batch.
        length: batches hold examples of like length, which wastes less padding; None keeps the order.
    """
    ordered = sorted(examples, key=length) if length else list(examples)
    again = {example.id for example in ordered if example.id in failed and example.id not in done}
    settled = done | again
    whole = [tuple(ordered[start : start + size]) for start in range(0, len(ordered), size)]
    cut = [batch for batch in whole if 0 < sum(example.id in settled for example in batch) < len(batch)]
    if len(cut) > 1:
        missing = [example for example in ordered if example.id not in settled]
        whole = [tuple(missing[start : start + size]) for start in range(0, len(missing), size)]
    batches = [Batch(batch, frozenset(example.id for example in batch) - settled) for batch in whole]
    alone = [Batch((example,), frozenset({example.id})) for example in ordered if example.id in again]
    return [batch for batch in batches if batch.wanted] + alone
