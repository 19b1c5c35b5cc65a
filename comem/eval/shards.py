"""Which examples a process answers: parts of a run."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
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
