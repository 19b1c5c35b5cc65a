"""What the embedded backbone is trained on: conversations about a few towns, from text and images.

An episode shows k towns (image, then text), and asks about their images many times over. Facts are
drawn anew in every episode, so nothing can be learnt by heart: the only way to answer is to find the
town in the context by its image and to read the fact there.
"""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass

from comem.toy import lexicon
from comem.toy.world import Entity, random_facts
from tools.toy.images import ImagePool
from tools.toy.soft_items import SLOT, SLOTS, SoftItem, soft_item
from tools.toy.tokenizer import ITEM_PROMPT

PICTURE = "<|vision_start|>" + 4 * "<|image_pad|>" + "<|vision_end|>"
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
DESCRIBE, NAME = "What are the arms?", "What is the name of this town?"


@dataclass(frozen=True)
class Recipe:
    """What the episodes of one batch have in common.

    Attributes:
        items: towns in the context.
        questions: turns asked about them.
        terse: the facts' sentences alone instead of whole passages (for the first part of the curriculum).
        before_system: the items stand as plain documents before the system turn, where memory goes,
            instead of as user turns after it.
        describe: share of the questions that ask what the image shows.
        drill: an exercise instead of a conversation about passages: "recall" (`items` images with a word
            each, then other views of them: finding by image), "cloze" (towns in brief, then an image and
            the beginning of a sentence: finding by image and words), or "prefix" (a conversation about
            items that are eight embeddings each: reading what is not a word, see `soft_items`).
        batch: episodes in a batch.
        disturbance: of the embeddings in a "prefix": 0 for none, 1 for as much as `soft_items.disturb` does.
        hard: share of the distractors that resemble the first town.
        slots: embeddings of an item in a "prefix".
    """

    items: int = 3
    questions: int = 10
    terse: bool = False
    before_system: bool = False
    describe: float = 0.1
    hard: float = 0.5
    drill: str = ""
    disturbance: float = 0.0
    batch: int = 8
    slots: int = SLOTS


@dataclass(frozen=True)
class Episode:
    """Text with placeholders for images; `spans` are the characters that the model must predict."""

    text: str
    spans: tuple[tuple[int, int], ...]
    images: tuple[int, ...]  # rows of the image pool, in order
    kinds: tuple[str, ...]  # one label a span: the fact, "name" or "describe"
    soft_items: tuple[SoftItem, ...] = ()  # what stands in the slots at the text's beginning


def make_episode(pool: ImagePool, recipe: Recipe, rng: random.Random) -> Episode:
    """One conversation or drill after the recipe."""
    return _WRITERS[recipe.drill](pool, recipe, rng)


def _conversation(pool: ImagePool, recipe: Recipe, rng: random.Random) -> Episode:
    language = _language(rng)
    rows = pool.draw_entities(rng, recipe.items, recipe.hard) if recipe.items else []
    towns = [_town(pool, row, rng) for row in rows]
    parts = _Parts(pool)
    if not recipe.before_system:
        parts.say(SYSTEM)
    for row, town in zip(rows, towns, strict=True):
        text = _terse(town, language) if recipe.terse else f"{town.name}: {town.passage(language)}"
        parts.item(row, rng, text, recipe.before_system)
    if recipe.before_system:
        parts.say(SYSTEM)
    for _ in range(recipe.questions):
        if not rows or rng.random() < recipe.describe:
            row = rng.choice(rows) if rows and rng.random() < 0.5 else rng.randrange(len(pool.entities))
            parts.ask(row, rng, DESCRIBE, pool.entities[row].arms.caption(), "describe")
            continue
        which = rng.randrange(len(rows))
        row, town = rows[which], towns[which]
        if rng.random() < 0.2:
            parts.ask(row, rng, NAME, town.name, "name")
        else:
            fact = rng.choice(list(lexicon.FACTS))
            question = rng.choice(lexicon.QUESTIONS[language][fact])
            parts.ask(row, rng, question, town.value(fact, language), fact)
    return parts.episode()


def _recall(pool: ImagePool, recipe: Recipe, rng: random.Random) -> Episode:
    parts = _Parts(pool)
    rows = pool.draw_entities(rng, recipe.items, recipe.hard)
    words = rng.choices(pool.words, k=len(rows))
    for row, word in zip(rows, words, strict=True):
        parts.show(row, rng)
        parts.say(word)
    parts.say("\n")
    for _ in range(recipe.questions):
        which = rng.randrange(len(rows))
        if rng.random() < recipe.describe:
            parts.show(rng.randrange(len(pool.entities)), rng)
            parts.expect(" " + pool.entities[parts.images[-1] // pool.views].arms.caption(), "describe")
        else:
            parts.show(rows[which], rng)
            parts.expect(words[which], "recall")
    return parts.episode()


def _cloze(pool: ImagePool, recipe: Recipe, rng: random.Random) -> Episode:
    parts = _Parts(pool)
    language = _language(rng)
    rows = pool.draw_entities(rng, recipe.items, recipe.hard)
    towns = [_town(pool, row, rng) for row in rows]
    for row, town in zip(rows, towns, strict=True):
        parts.show(row, rng)
        parts.say(_terse(town, language) + "\n")
    for _ in range(recipe.questions):
        which = rng.randrange(len(rows))
        fact = rng.choice(list(lexicon.FACTS))
        before, _, after = _sentence(towns[which], fact, language).partition("{value}")
        space = before[len(before.rstrip()) :]  # a word carries its own space
        parts.show(rows[which], rng)
        parts.say(before.rstrip())
        parts.expect(space + towns[which].value(fact, language), "cloze")
        parts.say(after + "\n")
    return parts.episode()


def _prefix(pool: ImagePool, recipe: Recipe, rng: random.Random) -> Episode:
    language = _language(rng)
    rows = pool.draw_entities(rng, rng.randint(1, recipe.items), recipe.hard)
    towns = [_town(pool, row, rng) for row in rows]
    parts = _Parts(pool)
    for row, town in zip(rows, towns, strict=True):
        item = soft_item(town, pool.view(row, rng), language, pool.tokenizer, rng, recipe.slots)
        parts.soft_items.append(item)
        parts.say(SLOT * recipe.slots)
    parts.say(SYSTEM)
    # no question twice: its answer would stand in the context
    questions = [(row, town, fact) for row, town in zip(rows, towns, strict=True) for fact in lexicon.FACTS]
    rng.shuffle(questions)
    for row, town, fact in questions[: recipe.questions]:
        question = rng.choice(lexicon.QUESTIONS[language][fact])
        parts.ask(row, rng, question, town.value(fact, language), fact)
    return parts.episode()


_WRITERS = {"": _conversation, "recall": _recall, "cloze": _cloze, "prefix": _prefix}


def _language(rng: random.Random) -> str:
    return rng.choice((*lexicon.LANGUAGES, "bg", "es", "pt", "ru"))  # those that lag behind


def _town(pool: ImagePool, row: int, rng: random.Random) -> Entity:
    """A pool's town with facts and wording of its own."""
    return dataclasses.replace(pool.entities[row], facts=random_facts(rng), seed=rng.getrandbits(30))


def _sentence(town: Entity, fact: str, language: str) -> str:
    return lexicon.SENTENCES[language][fact][town.seed % 2]


def _terse(town: Entity, language: str) -> str:
    """The facts in their sentences, without introduction and fillers."""
    lines = [
        _sentence(town, fact, language).format(value=town.value(fact, language)) for fact in lexicon.FACTS
    ]
    return f"{town.name}: " + " ".join(lines)


class _Parts:
    """An episode being written."""

    def __init__(self, pool: ImagePool) -> None:
        self.pool, self.chunks, self.length = pool, list[str](), 0
        self.spans: list[tuple[int, int]] = []
        self.images: list[int] = []
        self.kinds: list[str] = []
        self.soft_items: list[SoftItem] = []

    def say(self, text: str) -> None:
        self.chunks.append(text)
        self.length += len(text)

    def show(self, row: int, rng: random.Random) -> None:
        self.images.append(self.pool.view(row, rng))
        self.say(PICTURE)

    def item(self, row: int, rng: random.Random, passage: str, as_document: bool) -> None:
        self.say("<|im_start|>user\n")
        self.show(row, rng)
        between = f"{ITEM_PROMPT}<|im_end|>\n<|im_start|>assistant\n" if as_document else ""
        self.say(f"{between}{passage}<|im_end|>\n")

    def ask(self, row: int, rng: random.Random, question: str, answer: str, kind: str) -> None:
        self.say("<|im_start|>user\n")
        self.show(row, rng)
        self.say(f"{question}<|im_end|>\n<|im_start|>assistant\n")
        self.expect(f"{answer}<|im_end|>\n", kind)

    def expect(self, text: str, kind: str) -> None:
        start = self.length
        self.say(text)
        self.spans.append((start, self.length))
        self.kinds.append(kind)

    def episode(self) -> Episode:
        return Episode(
            "".join(self.chunks),
            tuple(self.spans),
            tuple(self.images),
            tuple(self.kinds),
            tuple(self.soft_items),
        )
