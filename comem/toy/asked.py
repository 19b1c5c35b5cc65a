"""What the embedded world asks in the benchmarks' formats: towns, facts and pictures, drawn by chance."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comem.toy import lexicon
from comem.toy.dataset import save_picture
from comem.toy.draw import draw
from comem.toy.world import Entity, World


@dataclass(frozen=True)
class FilesSettings:
    """How much is written.

    Attributes:
        size: towns of the world; ten of a hundred are never asked about.
        questions: questions of each benchmark (CVQA: of each language).
        seed: the world's seed.
        picture_size: edge length in pixels.
    """

    size: int = 120
    questions: int = 12
    seed: int = 0
    picture_size: int = 112


@dataclass(frozen=True)
class Asked:
    """One question: a town, one of its facts, and a picture that no knowledge item has."""

    town: Entity
    fact: str
    view: int
    wording: int

    @property
    def image_id(self) -> str:
        return f"{self.town.id}_{self.view}"

    @property
    def seen(self) -> bool:
        return self.town.split == "train"

    def text(self, language: str = "en") -> str:
        return lexicon.QUESTIONS[language][self.fact][self.wording]

    def answer(self, language: str = "en") -> str:
        return self.town.value(self.fact, language)

    def options(self, language: str, rng: random.Random) -> list[str]:
        """Four values of the fact, the right one among them."""
        others = [value for value in lexicon.VALUES[self.fact][language] if value != self.answer(language)]
        chosen = [self.answer(language), *rng.sample(others, 3)]
        rng.shuffle(chosen)
        return chosen


class Questions:
    """Draws questions, a third of them about towns of the training split, and their pictures."""

    def __init__(self, world: World, settings: FilesSettings) -> None:
        self.world, self.settings = world, settings

    def draw(self, output: Path, purpose: str, facts: Sequence[str] = tuple(lexicon.FACTS)) -> list[Asked]:
        """So many questions about these facts, each town and fact once, with their pictures drawn."""
        rng = random.Random(f"{purpose}/{self.settings.seed}")
        count = self.settings.questions
        seen = _sample(self.world.split("train"), facts, count // 3, rng)
        chosen = seen + _sample(self.world.split("test"), facts, count - len(seen), rng)
        for each in chosen:
            picture(output, each.town, each.view, self.settings.picture_size)
        return chosen

    def png(self, town: Entity, view: int) -> dict[str, Any]:
        """A picture as the `datasets` library embeds it."""
        buffer = io.BytesIO()
        draw(town, view, self.settings.picture_size).save(buffer, "PNG", compress_level=1)
        return {"bytes": buffer.getvalue(), "path": f"{town.id}_{view}.png"}


def _sample(towns: Sequence[Entity], facts: Sequence[str], count: int, rng: random.Random) -> list[Asked]:
    pairs = [(town, fact) for town in towns for fact in facts]
    if count > len(pairs):
        raise ValueError(f"{count} questions about {len(towns)} towns: make the world larger (size)")
    return [Asked(*pair, 1 + n % 3, rng.randrange(2)) for n, pair in enumerate(rng.sample(pairs, count))]


def picture(output: Path, town: Entity, view: int, size: int) -> None:
    """Draw one view of a town into the images folder, unless it is there."""
    path = output / "images" / f"{town.id}_{view}.png"
    if not path.exists():
        save_picture(path, town, view, size)
