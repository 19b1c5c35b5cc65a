"""A mode without a model, and questions for it; light to import, because killed processes do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comem.benchmarks import BENCHMARKS
from comem.io.files import read_jsonl
from comem.io.images import open_image
from comem.types import Answer, Example, ImageRef, RetrievedContext

TOY = BENCHMARKS["toy"]


@dataclass
class FakeMode:
    """Answers with the length of the question; opens the picture where there is one."""

    name: str = "fake"
    batches: list[list[str]] = field(default_factory=list)
    stop_at: int | None = None
    opens_item_images: bool = False

    def ahead(self, examples: Sequence[Example], contexts: Sequence[RetrievedContext | None]) -> None: ...

    def answer_batch(
        self, examples: Sequence[Example], contexts: Sequence[RetrievedContext | None]
    ) -> list[Answer]:
        self.batches.append([example.id for example in examples])
        if self.stop_at is not None and len(self.batches) > self.stop_at:
            raise KeyboardInterrupt
        for example in examples:
            if example.image is not None:
                open_image(example.image)
        return [Answer(str(len(example.question)), 8, 20, 0.25) for example in examples]


def questions(count: int, image: ImageRef | None = None) -> list[Example]:
    """Questions of 1 to 7 characters; the fourth has the picture."""
    return [
        Example(
            f"q{i}", "?" * (1 + i % 7), image if i == 3 else None,
            meta={"data_id": f"q{i}", "answer_eval": [str(1 + i % 7)], "data_split": "val_unseen_entity"},
        )
        for i in range(count)
    ]  # fmt: skip


def rows(folder: Path) -> list[dict[str, Any]]:
    """The predictions in a run folder."""
    return list(read_jsonl(folder / "predictions.jsonl"))
