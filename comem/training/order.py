"""Which examples make up which step: a function of the seed, so that a resumed run needs no state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch.utils.data import Dataset

from comem.training.collator import Collator, TrainingBatch
from comem.training.data import Lessons, TrainingExample, kinds


@dataclass(frozen=True)
class Order:
    """Passes over `count` examples, `batch_size` a step; the last step of a pass may be smaller.

    Each pass is shuffled, or, where the file is a curriculum, goes as the file does.
    """

    count: int
    batch_size: int
    seed: int
    shuffle: bool = True

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.count / self.batch_size)

    def total_steps(self, epochs: float, max_steps: int = 0) -> int:
        """Steps of a run; `max_steps` > 0 caps them."""
        steps = max(1, round(epochs * self.steps_per_epoch))
        return min(steps, max_steps) if max_steps > 0 else steps

    def indices(self, step: int) -> list[int]:
        """The examples of a step; within a pass none comes twice."""
        epoch, at = divmod(step, self.steps_per_epoch)
        if not self.shuffle:
            return list(range(at * self.batch_size, min((at + 1) * self.batch_size, self.count)))
        generator = torch.Generator().manual_seed(self.seed * 100_003 + epoch)
        shuffled = torch.randperm(self.count, generator=generator)
        return shuffled[at * self.batch_size : (at + 1) * self.batch_size].tolist()


class Steps(Dataset[list[TrainingBatch]]):
    """Maps a step to this process's micro-batches.

    Args:
        micro_batch_size: questions a micro-batch; 0 puts the process's share into one.
        rank, world: this process and how many there are; each takes every `world`-th example.
        alike: make all processes' micro-batches alike (`comem.training.data`).
        lessons: draws how each question is taught; None takes the examples as they are.
    """

    def __init__(
        self,
        examples: Sequence[TrainingExample],
        order: Order,
        collator: Collator,
        micro_batch_size: int = 0,
        rank: int = 0,
        world: int = 1,
        alike: bool = False,
        lessons: Lessons | None = None,
    ) -> None:
        self.examples, self.order, self.collator = examples, order, collator
        self.micro = micro_batch_size
        self.rank, self.world, self.alike, self.lessons = rank, world, alike, lessons

    def __getitem__(self, step: int) -> list[TrainingBatch]:
        if not self.alike:
            return [self.collator(chunk) for chunk in self._chunks(step, self.rank)]
        batches = []
        for chunks in zip_longest(*(self._chunks(step, r) for r in range(self.world)), fillvalue=[]):
            together = [example for chunk in chunks for example in chunk]
            batches.append(self.collator(chunks[self.rank], kinds(together, self.collator.max_items)))
        return batches

    def _chunks(self, step: int, rank: int) -> list[list[TrainingExample]]:
        """The examples of a process's micro-batches."""
        share = [self._example(step, i) for i in self.order.indices(step)[rank :: self.world]]
        size = self.micro or max(len(share), 1)
        return [share[at : at + size] for at in range(0, len(share), size)]

    def _example(self, step: int, index: int) -> TrainingExample:
        example = self.examples[index]
        return example if self.lessons is None else self.lessons(step, example)
