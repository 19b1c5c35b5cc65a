"""What belongs to which step, examples and learning rate: functions of it, so resuming needs no state."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import torch
from torch import nn
from torch.utils.data import Dataset

from comem.training.collator import Collator, TrainingBatch
from comem.training.data import Lessons, TrainingExample, kinds
from comem.training.settings import OptimSettings


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
        """Steps of one pass, a smaller last one included."""
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
        batches, vectors = self._batches(step), 0 if self.lessons is None else self.lessons.vectors(step)
        return [replace(batch, vectors=vectors) for batch in batches] if vectors else batches

    def _batches(self, step: int) -> list[TrainingBatch]:
        if not self.alike:
            return [
                batch for chunk in self._chunks(step, self.rank) for batch in self.collator.batches(chunk)
            ]
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


def run_part(step: int, total_steps: int, elapsed: float = 0.0, max_seconds: float = 0.0) -> float:
    """How far the run is, in [0, 1]: by steps, or by the clock where that is further.

    A step counts from its middle, (step + ½) / total, so neither the first nor the last one is
    wasted on a rate of zero.
    """
    by_steps = (step + 0.5) / max(total_steps, 1)
    by_clock = elapsed / max_seconds if max_seconds > 0 else 0.0
    return min(1.0, max(by_steps, by_clock))


def lr_factor(at: float, settings: OptimSettings) -> float:
    """The factor on the learning rate at progress `at`: linear warm-up, then the decay."""
    if at < settings.warmup:
        return at / settings.warmup
    rest = (at - settings.warmup) / (1.0 - settings.warmup)
    if settings.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * rest))
    if settings.schedule == "wsd":  # warm-up, then stable, then decay over the last fifth
        return min(1.0, 5.0 * (1.0 - rest))
    return 1.0 - rest if settings.schedule == "linear" else 1.0


def _part(name: str) -> str:
    """Which learning rate a parameter follows: latents, lora, qformer, injection or reader."""
    if name.startswith("injected."):
        return "injection"
    if name.rsplit(".", maxsplit=1)[-1] == "latents":
        return "latents"
    if ".lora_" in name:
        return "lora"
    return "reader" if name.startswith("encoder.model.") else "qformer"


def _by_muon(name: str, parameter: nn.Parameter, settings: OptimSettings) -> bool:
    """Whether Muon changes it: a matrix that maps one space to another, of the compressor."""
    matrix = parameter.ndim == 2 and name.endswith(".weight")
    return settings.muon_lr > 0 and matrix and _part(name) == "qformer"


def _decays(name: str, parameter: nn.Parameter) -> bool:
    """Matrices decay; norms, biases, scales (fewer than two dimensions) and latents do not."""
    return parameter.ndim >= 2 and _part(name) != "latents"


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], settings: OptimSettings
) -> list[dict[str, object]]:
    """Groups over the trainable parameters; each keeps its names, its peak rate `base_lr`, and if Muon's."""
    groups: dict[tuple[str, bool, bool], dict[str, object]] = {}
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        part, decays = _part(name), _decays(name, parameter)
        muon = _by_muon(name, parameter, settings)
        lr = settings.muon_lr if muon else getattr(settings, f"{part}_lr")
        lr = settings.lr if lr is None else lr
        group = groups.setdefault(
            (part, decays, muon),
            {
                "params": [],
                "names": [],
                "part": part,
                "muon": muon,
                "lr": lr,
                "base_lr": lr,
                "weight_decay": settings.weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)  # type: ignore[attr-defined]
        group["names"].append(name)  # type: ignore[attr-defined]
    return list(groups.values())
