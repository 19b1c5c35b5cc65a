"""Dialogues to train a memory encoder on, in the training record of `comem.training.data`.

Each shows k towns in its knowledge and asks several questions, every one with a picture of one of them.
Towns are of the training split; their facts are drawn anew in every dialogue, so that the encoder has to
read instead of learning the world by heart.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comem.io.files import write_atomic
from comem.toy import lexicon
from comem.toy.dataset import save_picture
from comem.toy.world import Entity, World, random_facts


@dataclass(frozen=True)
class DialogueSettings:
    """What the file holds.

    Attributes:
        count: dialogues.
        items: how many towns a dialogue knows, drawn with equal chance from these numbers.
        easy: so many at the beginning are about one town, in the first language: what is learned first.
        turns: questions in a dialogue, at most; none comes twice, or the second could be answered from the
            first instead of from the memory.
        views: pictures of each town; the first illustrates the item.
        languages: languages, drawn with equal chance.
        alike: share of the dialogues whose towns resemble each other.
    """

    count: int = 4000
    items: tuple[int, ...] = (1, 2, 3)
    easy: int = 0
    turns: int = 8
    entities: int = 2000
    views: int = 4
    languages: tuple[str, ...] = lexicon.LANGUAGES
    alike: float = 0.3
    seed: int = 0


def build_dialogues(output: Path, settings: DialogueSettings) -> None:
    """Write `output/dialogues.jsonl` and its pictures; pictures that are there already are kept."""
    towns = World(settings.seed, settings.entities).split("train")
    (output / "images").mkdir(parents=True, exist_ok=True)
    for town in towns:
        for view in range(settings.views):
            path = output / _picture(town, view)
            if not path.exists():
                save_picture(path, town, view)
    lines = (json.dumps(_dialogue(towns, settings, n), ensure_ascii=False) for n in range(settings.count))
    write_atomic(output / "dialogues.jsonl", "\n".join(lines) + "\n")


def _picture(town: Entity, view: int) -> str:
    return f"images/{town.id}_{view}.png"


def _dialogue(towns: Sequence[Entity], settings: DialogueSettings, number: int) -> dict[str, Any]:
    rng = random.Random(f"dialogue/{settings.seed}/{number}")
    easy = number < settings.easy
    language = settings.languages[0] if easy else rng.choice(settings.languages)
    known = _choose(towns, 1 if easy else rng.choice(settings.items), rng.random() < settings.alike, rng)
    known = [dataclasses.replace(town, facts=random_facts(rng), seed=rng.getrandbits(30)) for town in known]
    questions = [(town, fact) for town in known for fact in lexicon.FACTS]
    rng.shuffle(questions)
    turns = [_turn(town, fact, language, settings, rng) for town, fact in questions[: settings.turns]]
    items = [
        {
            "id": f"{number}/{town.id}",
            "text": f"{town.name}: {town.passage(language)}",
            "image": _picture(town, 0),
            "language": language,
        }
        for town in known
    ]
    return {
        "id": f"d{number}",
        "language": language,
        "image": turns[0].pop("image"),
        "conversations": turns,
        "knowledge": items,
    }


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


def _turn(
    town: Entity, fact: str, language: str, settings: DialogueSettings, rng: random.Random
) -> dict[str, Any]:
    return {
        "question": rng.choice(lexicon.QUESTIONS[language][fact]),
        "answer": town.value(fact, language),
        "image": _picture(town, rng.randrange(1, settings.views)),
    }
