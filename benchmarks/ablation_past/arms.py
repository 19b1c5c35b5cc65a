"""What is compared: training runs that differ in one option, and their common settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from comem.config import load_config
from comem.prediction.assemble import toy_memory
from comem.training.settings import TrainSettings

CONFIG = Path(__file__).parents[2] / "configs" / "train" / "toy.yaml"


@dataclass(frozen=True)
class Family:
    """Arms that may be compared with each other: same start, same dialogues, same questions.

    Attributes:
        start: settings of the start; the shipped memory, or none.
        towns: towns in a dialogue's knowledge, and so the items of a question.
        languages: how many of the world's languages, the first ones.
        retrievals: what the questions come with (`questions.RETRIEVALS`), the usual one first.
    """

    start: tuple[str, ...]
    towns: tuple[int, ...]
    languages: int
    retrievals: tuple[str, ...]


FAMILIES = {
    # goes on from the memory that is shipped, as it was trained
    "shipped": Family(
        (f"init={toy_memory()}", "optim.lr=1.0e-3"), (1, 2, 3), 6, ("1+2", "1+0", "1+4", "1+6", "0+1", "0+3")
    ),
    # from nothing, what is learned first: one town, in English
    "fresh": Family((), (1,), 1, ("1+0",)),
}


@dataclass(frozen=True)
class Arm:
    """One training run's options; the first arm of a family is what the others are compared with."""

    family: str
    options: tuple[str, ...] = ()


_ROOM = ("max_items=7",)  # for distractors beside three items of a question's own
ARMS = {
    "base": Arm("shipped"),
    "elastic": Arm("shipped", ("elastic=[1, 2, 4, 8]",)),
    "distractors": Arm("shipped", (*_ROOM, "distractors.probability=0.5", "distractors.count=4")),
    "alone": Arm("shipped", (*_ROOM, "distractors.alone=0.25")),
    "fresh": Arm("fresh"),
    "fresh-distill": Arm("fresh", ("distill.weight=1.0",)),
    "fresh-distill-4": Arm("fresh", ("distill.weight=4.0",)),
}


def base_of(arm: str) -> str:
    """The arm that this one is compared with."""
    return next(name for name, other in ARMS.items() if other.family == ARMS[arm].family)


def settings(arm: str, seed: int, data: Path, output: Path, steps: int, batch: int) -> TrainSettings:
    """A training run's settings."""
    row = ARMS[arm]
    common = (
        f"data={data / row.family / 'dialogues.jsonl'}", f"output={output}", f"seed={seed}",
        f"max_steps={steps}", "epochs=1000", f"batch_size={batch}", "save_every=0", "precision=fp32",
    )  # fmt: skip
    return load_config(TrainSettings, CONFIG, [*common, *FAMILIES[row.family].start, *row.options])
