"""The embedded world as ordinary files: images, a WIT table, and questions in InfoSeek's format.

`test.jsonl` holds two splits as InfoSeek does: `val_unseen_entity` (test entities) and `val_unseen_question`
(training entities, about the one fact of each that `train.jsonl` never asks for).
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from comem.config import option
from comem.io.files import write_atomic, write_json
from comem.toy import lexicon
from comem.toy.world import Entity, World, check_languages, check_numbers, image_path

WIT_COLUMNS = (
    "language page_url image_url page_title section_title hierarchical_section_title "
    "caption_reference_description "
    "caption_attribution_description caption_alt_text_description mime_type original_height original_width "
    "is_main_image attribution_passes_lang_id page_changed_recently context_page_description "
    "context_section_description"
).split()


@dataclass(frozen=True)
class DataSettings:
    """A procedural encyclopedia: images/, wit.tsv.gz, {train,val,test}.jsonl.

    Attributes:
        output: the data folder; images that are there are kept.
        size: entities of the world.
        seed: the world's seed; 0 is the world whose training split the embedded models have seen.
        train_questions: questions in train.jsonl.
        test_questions: questions in test.jsonl, two thirds about unseen entities; half as many in val.jsonl.
        languages: of the passages and of the questions.
        image_size: edge length in pixels.
    """

    output: Path = option(positional=True, metavar="DIR")
    size: int = 1000
    seed: int = 0
    train_questions: int = 3000
    test_questions: int = 300
    languages: tuple[str, ...] = ("en",)
    image_size: int = option(112, also=("--picture-size",))

    def __post_init__(self) -> None:
        check_languages(self.languages)
        check_numbers(self, "train_questions", "test_questions", least=0)
        check_numbers(self, "image_size", least=8, most=4096)


def build(settings: DataSettings) -> dict[str, int]:
    """Write the data folder; the same settings give the same bytes.

    Returns:
        How many entities, images and questions the folder holds.
    """
    from comem.toy.draw import save_image  # Pillow: not for a command's --help

    output, world = settings.output, World(settings.seed, settings.size)
    files = _questions(world, settings)
    asked = {(row["entity_id"], row["image_id"]) for rows in files.values() for row in rows}
    views = {(int(town[1:]), int(image.rpartition("_")[2])) for town, image in asked}
    views |= {(entity.index, 0) for entity in world.entities}
    for index, view in sorted(views):
        save_image(output, world.entities[index], view, settings.image_size)
    write_wit(output / "wit.tsv.gz", world.entities, settings.languages, settings.image_size)
    for name, rows in files.items():
        write_lines(output / f"{name}.jsonl", rows)
    counts = {"entities": len(world), "images": len(views)}
    counts |= {name: len(rows) for name, rows in files.items()}
    about = asdict(settings)
    del about["output"]
    write_json(output / "world.json", {"settings": about, "counts": counts})
    return counts


def question(entity: Entity, fact: str, view: int, split: str, language: str, wording: int) -> dict[str, Any]:
    """One question as a row of InfoSeek's published format, with a local image."""
    return {
        "data_id": f"toy_{entity.id}_{fact}_{language}_{view}",
        "question": lexicon.QUESTIONS[language][fact][wording],
        "answer": [entity.value(fact, language)],
        "answer_eval": entity.answer_eval(fact, language),
        "question_type": lexicon.FACTS[fact],
        "language": language,
        "image_id": f"{entity.id}_{view}",
        "image_path": image_path(entity, view),
        "entity_id": entity.id,
        "entity_text": entity.name,
        "data_split": split,
    }


def _questions(world: World, settings: DataSettings) -> dict[str, list[dict[str, Any]]]:
    rng, facts = random.Random(f"questions/{settings.seed}"), list(lexicon.FACTS)
    train, test = world.split("train"), world.split("test")

    def ask(entities: Sequence[Entity], count: int, split: str, held: bool | None) -> list[dict[str, Any]]:
        """`held`: only about the one fact of each town that is held out of training, or never about it."""
        pairs = [(entity, fact) for entity in entities for fact in facts]
        allowed = [(e, fact) for e, fact in pairs if held in (None, facts[e.index % len(facts)] == fact)]
        rng.shuffle(allowed)
        return [
            question(entity, fact, 1 + number % 3, split, rng.choice(settings.languages), rng.randrange(2))
            for number, (entity, fact) in enumerate(allowed[:count])
        ]

    unseen = round(settings.test_questions * 2 / 3)
    return {
        "train": ask(train, settings.train_questions, "train", held=False),
        "val": ask(world.split("val"), settings.test_questions // 2, "val", held=None),
        "test": ask(test, unseen, "val_unseen_entity", held=None)
        + ask(train, settings.test_questions - unseen, "val_unseen_question", held=True),
    }


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows as JSONL, all at once."""
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_wit(path: Path, entities: Iterable[Entity], languages: Sequence[str], size: int) -> None:
    """The WIT table, gzipped without a time stamp so that equal worlds give equal bytes.

    Args:
        path: the file.
        entities: the towns, one row for each and each of the languages.
        languages: of the passages.
        size: edge length of the images, in pixels.
    """
    text = io.StringIO()
    table = csv.DictWriter(text, WIT_COLUMNS, dialect="excel-tab", restval="")
    table.writeheader()
    table.writerows(_wit_row(entity, language, size) for entity in entities for language in languages)
    write_atomic(path, gzip.compress(text.getvalue().encode(), mtime=0))


def _wit_row(entity: Entity, language: str, size: int) -> dict[str, Any]:
    return {
        "language": language,
        "page_url": f"toy/{language}/{entity.id}",
        "image_url": image_path(entity, 0),
        "page_title": entity.name,
        "caption_reference_description": entity.arms.caption(),
        "mime_type": "image/png",
        "original_height": size,
        "original_width": size,
        "is_main_image": "true",
        "attribution_passes_lang_id": "true",
        "page_changed_recently": "false",
        "context_page_description": entity.passage(language),
    }
