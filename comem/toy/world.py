"""A procedural encyclopedia: towns that exist nowhere else, each with arms, facts and passages.

Everything about entity `i` depends on `(seed, i)` alone, so worlds of different sizes agree on the
entities that they share, and the splits stay disjoint: of every ten entities seven are for training,
one for validation, two for test.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from comem.toy import lexicon

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
NUMERICAL_TOLERANCE = 0.1  # InfoSeek accepts a numerical answer within 10 %


@dataclass(frozen=True)
class Arms:
    """What identifies a town in an image: a field, perhaps divided, with a charge on it."""

    field: str
    division: str
    division_colour: str
    charge: str
    charge_colour: str

    def caption(self) -> str:
        """The arms in English words, as a WIT row's caption would give them."""
        parted = "" if self.division == "plain" else f" with a {self.division_colour} {self.division}"
        return f"a {self.charge_colour} {self.charge} on a {self.field} field{parted}"


@dataclass(frozen=True)
class Entity:
    """A town: its arms, and its facts as language-free values (indices into the lexicon for words)."""

    index: int
    name: str
    arms: Arms
    facts: dict[str, int]
    seed: int = 0

    @property
    def id(self) -> str:
        """The town's id: T and five digits."""
        return f"T{self.index:05d}"

    @property
    def split(self) -> Split:
        """Seven towns of ten are for training, one for validation, two for the test."""
        return "train" if self.index % 10 < 7 else "val" if self.index % 10 == 7 else "test"

    def value(self, fact: str, language: str = "en") -> str:
        """The fact as it stands in a passage and as the expected answer: "1743", "84 m", "granite"."""
        number = self.facts[fact]
        if fact in lexicon.VALUES:
            return lexicon.VALUES[fact][language][number]
        unit = lexicon.UNITS.get(fact, {}).get(language)
        return str(number) if unit is None else f"{number} {unit}"

    def answer_eval(self, fact: str, language: str = "en") -> list[object]:
        """What InfoSeek's scorer takes: accepted strings, or the accepted range of a quantity."""
        number = self.facts[fact]
        if lexicon.FACTS[fact] == "Numerical":
            margin = NUMERICAL_TOLERANCE * number
            return [{"wikidata": float(number), "range": [number - margin, number + margin]}]
        return [self.value(fact, language)]

    def passage(self, language: str = "en", fillers: int | None = None) -> str:
        """All the facts in a text of 46 to 99 tokens of the embedded tokenizer, which was made for it.

        A general one cuts finer (CLIP's: 59 to 124 in English, Portuguese and Spanish). Wording and fillers
        vary from town to town.

        Args:
            language: of the text.
            fillers: sentences without a fact; None draws 1 to 5.
        """
        rng = random.Random(f"{self.seed}/{self.index}/{language}")
        sentences = lexicon.SENTENCES[language]
        said = [
            sentences[fact][rng.randrange(2)].format(value=self.value(fact, language))
            for fact in lexicon.FACTS
        ]
        count = rng.choice((1, 1, 2, 3, 5)) if fillers is None else fillers
        for filler in rng.sample(lexicon.FILLERS[language], count):
            said.insert(rng.randrange(len(said) + 1), filler)
        separator = "" if language == "zh" else " "
        return separator.join([sentences["intro"][rng.randrange(2)].format(name=self.name), *said])


def image_path(entity: Entity, view: int) -> str:
    """Where an image of a town lies in a data folder: view 0 illustrates its knowledge item."""
    return f"images/{entity.id}_{view}.png"


def check_numbers(settings: Any, *names: str, least: int = 1, most: int = 10_000_000) -> None:
    """Refuse settings, or lists of numbers, of which nothing could be made.

    Raises:
        ValueError: names the first.
    """
    for name in names:
        value = getattr(settings, name)
        each = value if isinstance(value, tuple) else (value,)
        if not each or not all(least <= number <= most for number in each):
            raise ValueError(f"{name}={value}: give {least:,} to {most:,}")


def check_languages(languages: Sequence[str]) -> None:
    """Refuse languages that the world does not speak.

    Raises:
        ValueError: names the first.
    """
    for language in languages:
        if language not in lexicon.LANGUAGES:
            raise ValueError(f"unknown language {language!r}; known: {', '.join(lexicon.LANGUAGES)}")


def all_arms() -> Iterator[Arms]:
    """Every possible coat of arms; charge, field and division always differ in colour."""
    for field, division in product(lexicon.COLOURS, lexicon.DIVISIONS):
        parted = ("",) if division == "plain" else tuple(c for c in lexicon.COLOURS if c != field)
        for colour, charge, charge_colour in product(parted, lexicon.CHARGES, lexicon.COLOURS):
            if charge_colour not in (field, colour):
                yield Arms(field, division, colour, charge, charge_colour)


def all_names() -> Iterator[str]:
    """Every possible name, the short ones first."""
    for middle, start, end in product(("", *lexicon.NAME_MIDDLES), lexicon.NAME_STARTS, lexicon.NAME_ENDS):
        yield start + middle + end


@functools.lru_cache(maxsize=4)
def _shuffled(seed: int) -> tuple[list[Arms], list[str]]:
    rng = random.Random(f"world/{seed}")
    arms, names = list(all_arms()), list(all_names())
    rng.shuffle(arms)
    short = len(lexicon.NAME_STARTS) * len(lexicon.NAME_ENDS)
    head, tail = names[:short], names[short:]
    rng.shuffle(head)
    rng.shuffle(tail)
    return arms, head + tail


class World:
    """The first `size` entities of the world with this seed.

    Raises:
        ValueError: if more entities are asked for than there are distinct arms or names.
    """

    def __init__(self, seed: int = 0, size: int = 1000) -> None:
        arms, names = _shuffled(seed)
        limit = min(len(arms), len(names))
        if not 1 <= size <= limit:
            raise ValueError(f"a world has 1 to {limit} entities, not {size}")
        self.seed = seed
        self.entities = tuple(
            Entity(i, names[i], arms[i], random_facts(random.Random(f"facts/{seed}/{i}")), seed)
            for i in range(size)
        )

    def __len__(self) -> int:
        return len(self.entities)

    def split(self, name: Split) -> tuple[Entity, ...]:
        """The entities of one split, in the order of their index."""
        if name not in SPLITS:
            raise ValueError(f"unknown split {name!r}; known: {', '.join(SPLITS)}")
        return tuple(entity for entity in self.entities if entity.split == name)


def random_facts(rng: random.Random) -> dict[str, int]:
    """One value for each fact, all values alike likely, independent of each other and of the arms."""
    facts = {fact: rng.randrange(len(values["en"])) for fact, values in lexicon.VALUES.items()}
    facts |= {"founded": rng.randrange(1000, 2000), "height": rng.randrange(10, 100)}
    return {fact: facts.get(fact, 0) for fact in lexicon.FACTS} | {"area": rng.randrange(10, 100)}
