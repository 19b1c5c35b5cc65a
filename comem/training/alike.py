"""Micro-batches that ask the same of every process, for a base that lies in pieces on all of them.

Whoever uses a sharded layer gathers it from all processes, so all have to use the same layers in the same
order, or the first one that does not lets the others wait for ever. Which layers a micro-batch uses depends
on what it holds: items at all (the encoder's pass, and a backward pass through the reader), pictures (the
vision tower), a question that the reader reads without items, too (one more pass). What any process's share
of a micro-batch holds, every share has to hold; a filler, an example without a label, supplies what is
missing. Its gradients are exact zeros.

All processes know the order of the examples, so they agree without a word.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image

from comem.training.dataset import TrainingExample
from comem.training.lessons import Lesson
from comem.types import ImageRef, KnowledgeItem

QUESTION, PICTURE, ITEM, ITEM_PICTURE = "question", "picture", "item", "item's picture"
PLAIN, PLAIN_PICTURE = "plain", "plain question's picture"


def kinds(examples: Sequence[TrainingExample], max_items: int) -> frozenset[str]:
    """Which of a question, its picture, an item, its picture, a plain question and its picture occur."""
    plain = [example for example in examples if example.lesson.plain]
    items = [item for example in examples for item in example.items[:max_items]]
    held = {
        QUESTION: bool(examples),
        PICTURE: any(example.images for example in examples),
        ITEM: bool(items),
        ITEM_PICTURE: any(item.image is not None for item in items),
        PLAIN: bool(plain),
        PLAIN_PICTURE: any(example.images for example in plain),
    }
    return frozenset(kind for kind, present in held.items() if present)


def fillers(missing: frozenset[str]) -> list[TrainingExample]:
    """One short example that has what is missing; none if nothing is."""
    if not missing:
        return []
    picture = ImageRef(data=_gray())
    item = KnowledgeItem("filler", "-", picture if ITEM_PICTURE in missing else None)
    lesson = Lesson(plain=bool(missing & {PLAIN, PLAIN_PICTURE}))
    return [
        TrainingExample(
            id="filler",
            turns=(("-", "-"),),
            pictures=((picture,) if missing & {PICTURE, PLAIN_PICTURE} else (),),
            items=(item,) if missing & {ITEM, ITEM_PICTURE} else (),
            answers=("-",),
            lesson=lesson,
        )
    ]


def _gray() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (28, 28), "gray").save(buffer, format="PNG")
    return buffer.getvalue()
