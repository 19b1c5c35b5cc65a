"""What is compared: training runs that differ in one option, and their common settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from comem.config import load_config
from comem.training.settings import TrainSettings

BASE, START = "base", "start"  # START: the folder of the shipped memory on the reader
CONFIG = Path(__file__).parents[2] / "configs" / "train" / "toy.yaml"
#: Name → options. All go on from the memory that is shipped.
ARMS: dict[str, tuple[str, ...]] = {
    BASE: (),
    "elastic": ("elastic=[1, 2, 4, 8]",),
    "wrong_items": ("wrong_items=0.25",),
}


@dataclass(frozen=True)
class Run:
    """One arm's training.

    Attributes:
        reader: the backbone.
        steps: optimizer steps.
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

    def settings(self, out: Path) -> TrainSettings:
        """As `comem train` takes them; data and start are in out/data."""
        data = out / "data"
        common = (
            f"model={self.reader}", f"init={data / START}", f"data={data / 'dialogues.jsonl'}",
            f"output={out / 'runs' / self.name}", f"seed={self.seed}", f"max_steps={self.steps}",
            "epochs=1000", f"batch_size={self.batch}", "optim.lr=1.0e-3", "save_every=200", "precision=fp32",
        )  # fmt: skip
        return load_config(TrainSettings, CONFIG, [*common, *self.options, *ARMS[self.arm]])
