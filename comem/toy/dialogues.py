"""Dialogues to train a memory encoder on, in the training record of `comem.training.data`.

Each shows k towns in its knowledge and asks several questions, every one with an image of one of them.
Towns are of the training split, unless another is asked for; their facts are drawn anew in every dialogue, so
that the encoder has to read instead of learning the world by heart.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comem.config import option
from comem.toy import lexicon
from comem.toy.dataset import write_lines
from comem.toy.world import Entity, Split, World, check_languages, check_numbers, image_path, random_facts


@dataclass(frozen=True)
class DialogueSettings:
    """Dialogues to train a memory encoder on: dialogues.jsonl (the record that comem train reads), images/.

    Attributes:
        output: the folder; images that are there are kept.
        count: dialogues.
        items: how many towns a dialogue knows, drawn with equal chance from these numbers.
        easy: so many at the beginning are about one town, in the first language: what is learned first.
        turns: questions in a dialogue, at most; none comes twice, or the second could be answered from the
            first instead of from the memory.
        entities: towns of the world.
        split: which of them the dialogues are about: train, val or test.
        views: images of each town; the first illustrates the item.
        languages: drawn with equal chance.
        alike: share of the dialogues whose towns resemble each other.
        seed: of the world and of the dialogues.
    """

    output: Path = option(positional=True, metavar="DIR")
    count: int = 4000
    items: tuple[int, ...] = (1, 2, 3)
    easy: int = 0
    turns: int = 8
    entities: int = 2000
    split: Split = "train"
    views: int = 4
    languages: tuple[str, ...] = lexicon.LANGUAGES
    alike: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        check_languages(self.languages)
        check_numbers(self, "count", "items", "turns", "entities")
        check_numbers(self, "views", least=2, most=1000)  # the first is for the item


def build_dialogues(settings: DialogueSettings) -> dict[str, int]:
    """Write the dialogues and their images; the number of dialogues."""
    from comem.toy.draw import save_image  # Pillow: not for a command's --help

    towns = World(settings.seed, settings.entities).split(settings.split)
    for town in towns:
        for view in range(settings.views):
            save_image(settings.output, town, view)
    rows = (_dialogue(towns, settings, number) for number in range(settings.count))
    write_lines(settings.output / "dialogues.jsonl", rows)
    return {"dialogues": settings.count}


def _dialogue(towns: Sequence[Entity], settings: DialogueSettings, number: int) -> dict[str, Any]:
    rng = random.Random(f"dialogue/{settings.seed}/{number}")
    easy = number < settings.easy
    language = settings.languages[0] if easy else rng.choice(settings.languages)
    known = _choose(towns, 1 if easy else rng.choice(settings.items), rng.random() < settings.alike, rng)
    known = [dataclasses.replace(town, facts=random_facts(rng), seed=rng.getrandbits(30)) for town in known]
    questions = [(town, fact) for town in known for fact in lexicon.FACTS]
    rng.shuffle(questions)
    turns = [
        {
            "question": rng.choice(lexicon.QUESTIONS[language][fact]),
            "answer": town.value(fact, language),
            "image": image_path(town, rng.randrange(1, settings.views)),
        }
        for town, fact in questions[: settings.turns]
    ]
    items = [
        {
            "id": f"{number}/{town.id}",
            "text": f"{town.name}: {town.passage(language)}",
            "image": image_path(town, 0),
            "language": language,
        }
        for town in known
    ]
    about = {"id": f"d{number}", "language": language, "image": turns[0].pop("image")}
    return {**about, "conversations": turns, "knowledge": items}


def _choose(towns: Sequence[Entity], count: int, alike: bool, rng: random.Random) -> list[Entity]:
    first = rng.choice(towns)
    pool = [t for t in rng.sample(towns, min(200, len(towns))) if t is not first]
    if alike:
        pool.sort(key=lambda town: -likeness(first, town))
    chosen = [first, *pool[: count - 1]]
    rng.shuffle(chosen)
    return chosen


def likeness(one: Entity, other: Entity) -> int:
    """How many of the five traits of their arms agree."""
    pairs = zip(dataclasses.astuple(one.arms), dataclasses.astuple(other.arms), strict=True)
    return sum(a == b for a, b in pairs)
