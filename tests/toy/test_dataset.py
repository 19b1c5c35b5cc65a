"""The embedded world as files."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest

from comem.toy.dataset import WIT_COLUMNS, DataSettings, build

SIZES = {"size": 60, "train_questions": 80, "test_questions": 30, "languages": ("en", "ru"), "image_size": 56}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("world")
    build(DataSettings(path, **SIZES))
    return path


def rows(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def test_wit_table_has_the_public_columns_and_a_row_per_language(folder: Path) -> None:
    with gzip.open(folder / "wit.tsv.gz", "rt") as file:
        table = list(csv.DictReader(file, dialect="excel-tab"))
    assert tuple(table[0]) == tuple(WIT_COLUMNS)
    assert len(table) == 60 * 2
    assert all((folder / row["image_url"]).exists() for row in table)


def test_questions_of_the_splits_do_not_meet(folder: Path) -> None:
    train, test = rows(folder, "train"), rows(folder, "test")
    unseen = [row for row in test if row["data_split"] == "val_unseen_entity"]
    seen = [row for row in test if row["data_split"] == "val_unseen_question"]
    assert len(unseen) == 20 and len(seen) == 10
    asked = {(row["entity_id"], row["data_id"].split("_")[2]) for row in train}
    assert not {row["entity_id"] for row in unseen} & {row["entity_id"] for row in train}
    assert not {(row["entity_id"], row["data_id"].split("_")[2]) for row in seen} & asked


def test_question_pictures_are_not_the_items(folder: Path) -> None:
    for row in rows(folder, "train") + rows(folder, "val") + rows(folder, "test"):
        assert not row["image_path"].endswith("_0.png") and (folder / row["image_path"]).exists()


def test_building_again_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    build(DataSettings(tmp_path, **SIZES))
    for name in ("wit.tsv.gz", "train.jsonl", "test.jsonl", "images/T00001_0.png"):
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes()


def test_unknown_language(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown language 'xx'"):
        build(DataSettings(tmp_path, languages=("xx",)))
