"""What is compared: training runs that differ in one option, and their common settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from comem.config import load_config
from comem.training.checkpoint import step_name
from comem.training.settings import TrainSettings

START = "start"  # the folder of the shipped memory on the reader
CONFIG = Path(__file__).parents[2] / "configs" / "train" / "toy.yaml"


@dataclass(frozen=True)
class Stage:
    """A part of a training run.

    Attributes:
        data: the dialogues' folder.
        towns: towns in a dialogue's knowledge, and so the items of a question.
        languages: how many of the world's languages, the first ones.
        share: of the run's steps.
        options: its settings.
    """

    data: str
    towns: tuple[int, ...]
    languages: int
    share: float = 1.0
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """Arms that may be compared with each other: same start, same dialogues.

    Attributes:
        from_shipped: whether they go on from the memory that is shipped, moved onto the reader, or begin
            with nothing.
    """

    stages: tuple[Stage, ...]
    from_shipped: bool = False


_LANGUAGES = 6
FAMILIES = {
    "shipped": Family((Stage("some", (1, 2, 3), _LANGUAGES, 1.0, ("optim.lr=1.0e-3",)),), True),
    # as scripts/toy/train_memory.sh does
    "whole": Family(
        (
            Stage("one", (1,), 1, 0.375),
            Stage("some", (1, 2, 3), _LANGUAGES, 0.625, ("optim.lr=1.5e-3",)),
        )
    ),
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
    "distill": Arm("shipped", ("distill.weight=1.0",)),
    "whole": Arm("whole"),
    "whole-distill": Arm("whole", ("distill.weight=1.0",)),
}


def base_of(arm: str) -> str:
    """The arm that this one is compared with."""
    return next(name for name, other in ARMS.items() if other.family == ARMS[arm].family)


@dataclass(frozen=True)
class Run:
    """One arm's training.

    Attributes:
        reader: the backbone.
        steps: optimizer steps; 0: not known yet (`driver`).
        batch: dialogues a step.
        options: settings for every arm.
    """

    reader: str
    arm: str
    seed: int
    steps: int
    batch: int
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.arm}-{self.seed}"


def settings(run: Run, data: Path, output: Path) -> list[tuple[Path, TrainSettings]]:
    """The folder and settings of each stage; every stage goes on from the one before."""
    row, found = ARMS[run.arm], list[tuple[Path, TrainSettings]]()
    family = FAMILIES[row.family]
    before = [f"init={data / START}"] if family.from_shipped else []
    for stage in family.stages:
        folder, steps = output / stage.data, round(stage.share * run.steps)
        common = (
            f"model={run.reader}", f"data={data / stage.data / 'dialogues.jsonl'}", f"output={folder}",
            f"seed={run.seed}", f"max_steps={steps}", "epochs=1000", f"batch_size={run.batch}",
            "save_every=200", "precision=fp32",
        )  # fmt: skip
        options = [*common, *before, *stage.options, *run.options, *row.options]
        found.append((folder, load_config(TrainSettings, CONFIG, options)))
        before = [f"init={folder / 'checkpoints' / step_name(steps)}"]
    return found
