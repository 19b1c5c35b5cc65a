"""How a question is taught in one step, past the paper: fewer embeddings, items that do not help.

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
class DistractorSettings:
    """Items that do not help, drawn from the other questions' items.

    Attributes:
        probability: share of the questions that get 1 to `count` of them among their own items, at random
            places. There are never more than `max_items`: own ones make room, worst first, the best never.
        count: how many, at most.
        alone: share of the questions that get nothing else, one for each of their own items. They learn
            what the plain reader says without items, and not the answer, which nothing tells them.
    """

    probability: float = 0.0
    count: int = 2
    alone: float = 0.0

    def __post_init__(self) -> None:
        if min(self.probability, self.alone) < 0 or self.probability + self.alone > 1:
            raise ValueError(
                f"distractors.probability={self.probability}, distractors.alone={self.alone}: give shares of "
                "the questions, of 0 or more, that make at most 1 together"
            )
        if self.count < 1:
            raise ValueError(f"distractors.count={self.count}: give at least 1")


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
        examples: the training set; distractors are drawn from its items.
    """

    def __init__(self, settings: TrainSettings, examples: Sequence[TrainingExample]) -> None:
        self.seed, self.max_items = settings.seed, settings.max_items
        self.elastic, self.distractors = settings.elastic, settings.distractors
        self.pool: tuple[KnowledgeItem, ...] = ()
        if self.distractors.probability or self.distractors.alone:
            self.pool = tuple({item.id: item for example in examples for item in example.items}.values())

    def __call__(self, step: int, example: TrainingExample) -> TrainingExample:
        """The question as it is taught in this step; one without items as it stands."""
        own = example.items[: self.max_items]
        if not own:
            return example
        rng = random.Random(f"lesson/{self.seed}/{step}/{example.id}")
        embeddings = rng.choice(self.elastic) if self.elastic else 0
        chance, settings = rng.random(), self.distractors
        if chance < settings.alone and (others := self._others(rng, own, len(own))):
            return dataclasses.replace(example, items=others, lesson=Lesson(embeddings, plain=True))
        items = example.items  # all of them: one that cannot be read is replaced by the next
        if settings.alone <= chance < settings.alone + settings.probability:
            others = self._others(rng, own, rng.randint(1, settings.count))
            items = _mixed(rng, own[: self.max_items - len(others)], others)
        return dataclasses.replace(example, items=items, lesson=Lesson(embeddings))

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


def _mixed(
    rng: random.Random, own: Sequence[KnowledgeItem], others: Sequence[KnowledgeItem]
) -> tuple[KnowledgeItem, ...]:
    """The question's items in their order, the others at random places among them."""
    mixed = list(own)
    for item in others:
        mixed.insert(rng.randrange(len(mixed) + 1), item)
    return tuple(mixed)
