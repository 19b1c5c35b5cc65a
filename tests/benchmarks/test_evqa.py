"""Encyclopedic-VQA: the published CSV as examples, and pictures where the two data sets unpack them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from comem.benchmarks import BENCHMARKS
from comem.io.files import RecordError

EVQA = BENCHMARKS["evqa"]
HEADER = (
    "question,answer,dataset_image_ids,dataset_name,dataset_category_id,question_type,wikipedia_url,"
    "wikipedia_title,evidence,encyclopedic_vqa_split\n"
)
ROWS = (
    'How tall is it?,"30 m|about 30 m, they say",0a1f6be4a21b14c9|1b,landmarks,7,templated,u,t,'
    '"so ""tall""",train\n'
    "What does this bird eat?,insects&& berries,2686843,inaturalist,9,multi_answer,u,t,,train\n"
    "Who built it?,Ann,,landmarks,7,2_hop,u|v,t,,train\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.csv").write_text(HEADER + ROWS)
    landmark = tmp_path / "pictures/landmarks/train/0/a/1/0a1f6be4a21b14c9.jpg"
    bird = tmp_path / "pictures/inaturalist/train/0042_Animalia/x.jpg"
    for file in (landmark, bird):
        file.parent.mkdir(parents=True)
        file.write_bytes(b"picture")
    listed = [{"id": 2686843, "file_name": "train/0042_Animalia/x.jpg"}]
    (tmp_path / "pictures/inaturalist/train.json").write_text(json.dumps({"images": listed}))
    return tmp_path


def test_the_published_file(folder: Path) -> None:
    tall, eats, built = EVQA.load(folder, image_folder=folder / "pictures", split="train")
    assert tall.id == "evqa_train_0000000" and tall.answers == ("30 m", "about 30 m, they say")
    assert str(tall.image and tall.image.path).endswith("landmarks/train/0/a/1/0a1f6be4a21b14c9.jpg")
    assert eats.answers == ("insects, berries",) and eats.group == "multi_answer"
    assert str(eats.image and eats.image.path).endswith("inaturalist/train/0042_Animalia/x.jpg")
    assert built.image is None and built.meta["wikipedia_url"] == "u|v"
    report = EVQA.score(
        {tall.id: "30 m.", eats.id: "berries and insects", built.id: "Bob"}, [tall, eats, built]
    )
    assert report.metrics["by_question_type"] == {"2_hop": 0.0, "multi_answer": 100.0, "templated": 100.0}
    assert [score.value for score in report.scores["exact_match"]] == [1.0, 1.0, 0.0]


def test_pictures_by_their_ids_and_missing_ones(folder: Path) -> None:
    (folder / "2686843.png").write_bytes(b"picture")
    first, second, _ = EVQA.load(folder / "train.csv", image_folder=folder)
    assert str(second.image and second.image.path) == str(folder / "2686843.png")
    assert "0/a/1" in str(first.image and first.image.path)  # not there: found out when it is opened
    assert all(example.image is None for example in EVQA.load(folder / "train.csv"))


def test_what_is_wrong_is_named(folder: Path) -> None:
    with pytest.raises(RecordError, match="no question is in split 'val'; the file has 'train'"):
        list(EVQA.load(folder / "train.csv", split="val"))
    with pytest.raises(ValueError, match=r"holds none of test\.csv"):
        list(EVQA.load(folder))
    (folder / "val.csv").write_text(HEADER + ROWS.replace("2_hop", "3_hop"))
    with pytest.raises(RecordError, match="is of the type '3_hop'; known: templated"):
        list(EVQA.load(folder / "val.csv"))
