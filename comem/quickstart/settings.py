"""How large a quickstart is: chosen so that it ends within ten minutes on two cores, two with --fast."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comem.memory.lora import LoraSettings
from comem.toy.dataset import DataSettings
from comem.toy.dialogues import DialogueSettings
from comem.training.settings import OptimSettings, QFormerSettings, TrainSettings

FLAGS = Path(__file__).resolve().parents[3] / "shared" / "data" / "flags"  # optional, beside a clone


@dataclass(frozen=True)
class QuickSettings:
    """One quickstart.

    Attributes:
        folder: the run folder.
        fast: a small world and a few seconds of training.
        seed: of the world's data and of the training.
        flags: a folder of real flags in WIT format, or None.
        items: knowledge items per question, as many as the paper's.
    """

    folder: Path
    fast: bool = False
    seed: int = 0
    flags: Path | None = None
    items: int = 3

    @property
    def data(self) -> DataSettings:
        """The world's files; two thirds of the test questions are about towns that no training saw."""
        if self.fast:
            return DataSettings(size=300, train_questions=600, test_questions=90)
        return DataSettings(size=1000, train_questions=3000, test_questions=300)

    @property
    def dialogues(self) -> DialogueSettings:
        """What the memory is trained on: the same world's training towns, with facts drawn anew each time."""
        count, easy = (600, 600) if self.fast else (9000, 4800)
        return DialogueSettings(count, easy=easy, entities=self.data.size, languages=("en",), seed=self.seed)

    @property
    def train_seconds(self) -> float:
        return 20.0 if self.fast else 280.0

    @property
    def flag_questions(self) -> int | None:
        """Only so many questions about the flags; None for all."""
        return 24 if self.fast else None

    def training(self, dialogues: Path, output: Path) -> TrainSettings:
        """The recipe of the embedded memory (configs/train/toy.yaml), stopped by the clock."""
        return TrainSettings(
            data=str(dialogues),
            output=str(output),
            seed=self.seed,
            max_items=self.items,
            batch_size=12,
            shuffle=False,  # the easy ones come first
            epochs=2.0,  # the clock ends it sooner on two cores
            max_seconds=self.train_seconds,
            lora=LoraSettings(dropout=0.0),
            qformer=QFormerSettings(depth=4, heads=4, output_scale="auto", near_identity=True),
            optim=OptimSettings(lr=2e-3, beta2=0.98, weight_decay=0.0, clip=1.0),
        )

    def as_dict(self) -> dict[str, Any]:
        """What decides the results, as plain values."""
        return {"fast": self.fast, "seed": self.seed, "items": self.items}
