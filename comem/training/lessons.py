"""How a question is taught in one step, past the paper: fewer embeddings, wrong items.

What is drawn is a function of the seed, the step and the question's id: a resumed run, and a run on
other processes, draw the same. Nothing is drawn by default (docs/past_the_paper.md).
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from comem.types import KnowledgeItem

if TYPE_CHECKING:
    from comem.training.dataset import TrainingExample
    from comem.training.settings import TrainSettings


@dataclass(frozen=True)
class Lesson:
    """How one question is taught.

    Attributes:
        embeddings: how many of each item's embeddings the reader gets, the first ones; 0 for all.
        plain: it learns what the reader says without items, instead of the answer.
    """

    embeddings: int = 0
    plain: bool = False


class Lessons:
    """Draws each question's lesson and items for a step.

    Args:
        settings: of the run.
        examples: the training set; wrong items are drawn from it.
    """

    def __init__(self, settings: TrainSettings, examples: Sequence[TrainingExample]) -> None:
        self.seed, self.max_items = settings.seed, settings.max_items
        self.elastic, self.wrong_items = settings.elastic, settings.wrong_items
        self.pool: tuple[KnowledgeItem, ...] = ()
        if self.wrong_items:
            self.pool = tuple({item.id: item for example in examples for item in example.items}.values())

    def __call__(self, step: int, example: TrainingExample) -> TrainingExample:
        """The question as it is taught in this step; one without items as it stands."""
        own = example.items[: self.max_items]
        if not own:
            return example
        rng = random.Random(f"lesson/{self.seed}/{step}/{example.id}")
        embeddings = rng.choice(self.elastic) if self.elastic else 0
        if rng.random() < self.wrong_items and (others := self._others(rng, own, len(own))):
            return dataclasses.replace(example, items=others, lesson=Lesson(embeddings, plain=True))
        return dataclasses.replace(example, lesson=Lesson(embeddings))

    def _others(
        self, rng: random.Random, own: Sequence[KnowledgeItem], count: int
    ) -> tuple[KnowledgeItem, ...]:
        """So many items that show and say something else than a question's own; fewer if there are none."""
        found: dict[str, KnowledgeItem] = {}
        for _ in range(20 * count):
            if len(found) == count or not self.pool:
                break
            item = rng.choice(self.pool)
            if not any(_alike(item, other) for other in own):
                found[item.id] = item
        return tuple(found.values())


def _alike(one: KnowledgeItem, other: KnowledgeItem) -> bool:
    """Whether two items share their picture or their text, so that one may help where the other does."""
    same_picture = one.image is not None and one.image == other.image
    return one.id == other.id or same_picture or (bool(one.text) and one.text == other.text)
