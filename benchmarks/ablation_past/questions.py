"""The training dialogues, and questions about towns that no model has seen, each with seven items."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from comem.toy import lexicon
from comem.toy.dialogues import DialogueSettings, build_dialogues, likeness
from comem.toy.draw import image_of
from comem.toy.world import Entity, World
from comem.training.data import TrainingExample
from comem.types import ImageRef, KnowledgeItem

TOWNS, VIEWS = 2000, 4
WRONG = 6  # wrong items that a question can get
#: Name → (right items, wrong items): what was retrieved. The wrong ones show the towns that most resemble
#: the right one, of 400.
USUAL = "1+2"
RETRIEVALS = {"1+0": (1, 0), "1+2": (1, 2), "1+4": (1, 4), "1+6": (1, 6), "0+1": (0, 1), "0+3": (0, 3)}


@dataclass(frozen=True)
class Case:
    """A question about a test town, the town's item, and items of other towns."""

    example: TrainingExample
    right: KnowledgeItem
    wrong: tuple[KnowledgeItem, ...]

    def items(self, retrieval: str) -> list[KnowledgeItem]:
        """The items of one of `RETRIEVALS`, in random order."""
        right, wrong = RETRIEVALS[retrieval]
        items = [self.right][:right] + list(self.wrong[:wrong])
        random.Random(f"order/{retrieval}/{self.example.id}").shuffle(items)
        return items


def build(folder: Path, dialogues: int, towns: Sequence[int]) -> None:
    """Write the dialogues, in six languages, each about so many towns as is drawn; facts are drawn anew."""
    build_dialogues(DialogueSettings(folder, dialogues, tuple(towns), turns=6, entities=TOWNS, views=VIEWS))


def cases(count: int) -> list[Case]:
    """So many questions in all languages, the same at every call."""
    rng = random.Random("past/shipped")
    towns = _world().split("test")
    return [_case(n, rng.choice(towns), rng.choice(lexicon.LANGUAGES), towns, rng) for n in range(count)]


def _case(number: int, town: Entity, language: str, towns: Sequence[Entity], rng: random.Random) -> Case:
    fact = rng.choice(list(lexicon.FACTS))
    question = rng.choice(lexicon.QUESTIONS[language][fact])
    others = [other for other in rng.sample(towns, 60) if other is not town]
    alike = max(others, key=lambda other: likeness(town, other))
    wrong = [alike, *(other for other in others if other is not alike)][:WRONG]
    example = TrainingExample(
        f"q{number}", ((question, town.value(fact, language)),),
        ((image_of(town, rng.randrange(1, VIEWS)),),), language=language,
    )  # fmt: skip
    return Case(example, _item(town.index, language), tuple(_item(o.index, language) for o in wrong))


@cache
def _world() -> World:
    return World(0, TOWNS)


@cache
def _view(index: int) -> ImageRef:
    return image_of(_world().entities[index], 0)


@cache
def _item(index: int, language: str) -> KnowledgeItem:
    town = _world().entities[index]
    text = f"{town.name}: {town.passage(language)}"
    return KnowledgeItem(f"{town.id}/{language}", text, _view(index), "toy", language)
