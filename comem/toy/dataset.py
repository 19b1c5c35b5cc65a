"""The embedded world as ordinary files: pictures, a WIT table, and questions in InfoSeek's format.

Written below the output folder:

- `images/T00001_0.png` …: view 0 illustrates the knowledge item, the others go with questions;
- `wit.tsv.gz`: one row for each entity and language, in the public WIT columns;
- `train.jsonl`, `val.jsonl`, `test.jsonl`: one question a line. `test.jsonl` holds two splits as InfoSeek
  does: `val_unseen_entity` (test entities) and `val_unseen_question` (training entities, about the one
  fact of each that `train.jsonl` never asks for).
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comem.io.files import write_atomic, write_json
from comem.toy import lexicon
from comem.toy.world import Entity, World

WIT_COLUMNS = (
    "language page_url image_url page_title section_title hierarchical_section_title "
    "caption_reference_description "
    "caption_attribution_description caption_alt_text_description mime_type original_height original_width "
    "is_main_image attribution_passes_lang_id page_changed_recently context_page_description "
    "context_section_description"
).split()


@dataclass(frozen=True)
class DataSettings:
    """What a data folder holds.

    Attributes:
        size: entities of the world.
        seed: the world's seed; 0 is the world whose training split the embedded models have seen.
        train_questions, test_questions: questions in the files (test: two thirds about unseen entities).
        languages: languages of the passages and of the questions.
        picture_size: edge length in pixels.
    """

    size: int = 1000
    seed: int = 0
    train_questions: int = 3000
    test_questions: int = 300
    languages: tuple[str, ...] = ("en",)
    picture_size: int = 112


def build(output: Path, settings: DataSettings) -> dict[str, int]:
    """Write the data folder; a finished one with the same settings is left as it is.

    Returns:
        How many entities, pictures and questions the folder holds.
    """
    world = World(settings.seed, settings.size)
    for language in settings.languages:
        if language not in lexicon.LANGUAGES:
            raise ValueError(f"unknown language {language!r}; known: {', '.join(lexicon.LANGUAGES)}")
    images = output / "images"
    images.mkdir(parents=True, exist_ok=True)
    files = _questions(world, settings)
    pictures = {(entity.index, 0) for entity in world.entities}
    pictures |= {(row["entity_index"], row["view"]) for rows in files.values() for row in rows}
    for index, view in sorted(pictures):
        path = images / f"{world.entities[index].id}_{view}.png"
        if not path.exists():
            save_picture(path, world.entities[index], view, settings.picture_size)
    write_wit(output / "wit.tsv.gz", world.entities, settings.languages, settings.picture_size)
    for name, rows in files.items():
        write_atomic(output / f"{name}.jsonl", "".join(_line(row) for row in rows))
    counts = {"entities": len(world), "pictures": len(pictures)} | {
        name: len(rows) for name, rows in files.items()
    }
    write_json(
        output / "world.json",
        {"settings": settings.__dict__ | {"languages": list(settings.languages)}, "counts": counts},
    )
    return counts


def question(entity: Entity, fact: str, view: int, split: str, language: str, wording: int) -> dict[str, Any]:
    """One question as a row of InfoSeek's published format, with a local picture."""
    return {
        "data_id": f"toy_{entity.id}_{fact}_{language}_{view}",
        "question": lexicon.QUESTIONS[language][fact][wording],
        "answer": [entity.value(fact, language)],
        "answer_eval": entity.answer_eval(fact, language),
        "question_type": lexicon.FACTS[fact],
        "language": language,
        "image_id": f"{entity.id}_{view}",
        "image_path": f"images/{entity.id}_{view}.png",
        "entity_id": entity.id,
        "entity_text": entity.name,
        "data_split": split,
        "entity_index": entity.index,
        "view": view,
    }


def _questions(world: World, settings: DataSettings) -> dict[str, list[dict[str, Any]]]:
    rng = random.Random(f"questions/{settings.seed}")
    facts = list(lexicon.FACTS)
    train, test = world.split("train"), world.split("test")
    held_out = {entity.index: facts[entity.index % len(facts)] for entity in train}

    def ask(entities: Sequence[Entity], count: int, split: str, held: bool | None) -> list[dict[str, Any]]:
        allowed = [
            (entity, fact)
            for entity in entities
            for fact in facts
            if held is None or (held_out[entity.index] == fact) == held
        ]
        rng.shuffle(allowed)
        return [
            question(entity, fact, 1 + (number % 3), split, rng.choice(settings.languages), rng.randrange(2))
            for number, (entity, fact) in enumerate(allowed[:count])
        ]

    unseen = round(settings.test_questions * 2 / 3)
    return {
        "train": ask(train, settings.train_questions, "train", held=False),
        "val": ask(world.split("val"), settings.test_questions // 2, "val", held=None),
        "test": ask(test, unseen, "val_unseen_entity", held=None)
        + ask(train, settings.test_questions - unseen, "val_unseen_question", held=True),
    }


def _line(row: dict[str, Any]) -> str:
    published = {key: value for key, value in row.items() if key not in ("entity_index", "view")}
    return json.dumps(published, ensure_ascii=False) + "\n"


def save_picture(path: Path, entity: Entity, view: int, size: int = 112) -> None:
    """Draw one view to a PNG file, atomically."""
    from comem.toy.draw import draw  # Pillow: not for a command's --help

    buffer = io.BytesIO()
    draw(entity, view, size).save(buffer, "PNG", compress_level=1)
    write_atomic(path, buffer.getvalue())


def write_wit(path: Path, entities: Iterable[Entity], languages: Sequence[str], size: int) -> None:
    """The WIT table, gzipped without a time stamp so that equal worlds give equal bytes.

    Args:
        path: the file.
        entities: the towns, one row for each and each of the languages.
        languages: of the passages.
        size: edge length of the pictures, in pixels.
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
        "image_url": f"images/{entity.id}_0.png",
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
