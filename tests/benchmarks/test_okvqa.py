"""OK-VQA: the hub's parquet files and the original JSON pair are one benchmark, scored officially."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from comem.benchmarks import BENCHMARKS
from comem.io.files import RecordError
from comem.io.images import open_image

OKVQA = BENCHMARKS["okvqa"]
ANSWERS = ["race"] * 6 + ["motocross"] * 2 + ["ride"] * 2


def row(picture: Any, **fields: Any) -> dict[str, Any]:
    base = {
        "question_id": "2971475", "image": picture(), "question": "What sport can you use this for?",
        "answers": ANSWERS, "question_type": "four", "answer_type": "other",
    }  # fmt: skip
    return {**base, **fields}


def original(folder: Path) -> Path:
    """The same question as its authors publish it."""
    asked = {"image_id": 297147, "question": "What sport can you use this for?", "question_id": 2971475}
    listed = [{"answer_id": n, "answer": text, "raw_answer": text, "answer_confidence": "yes"}
              for n, text in enumerate(ANSWERS, start=1)]  # fmt: skip
    answered = {"image_id": 297147, "question_id": 2971475, "question_type": "four", "answer_type": "other",
                "answers": listed, "confidence": 3}  # fmt: skip
    files = {"OpenEnded_mscoco_val2014_questions.json": {"questions": [asked]},
             "mscoco_val2014_annotations.json": {"annotations": [answered]}}  # fmt: skip
    for name, content in files.items():
        (folder / name).write_text(json.dumps({"info": {}, **content}))
    return folder


def test_both_formats_give_the_same_question(tmp_path: Path, write_parquet: Any, picture: Any) -> None:
    (hub,) = OKVQA.load(write_parquet(tmp_path / "hub", "val2014", [row(picture)]))
    (ours,) = OKVQA.load(original(tmp_path), image_folder=tmp_path)
    assert hub.id == ours.id == "2971475" and hub.question == ours.question
    assert hub.answers == ours.answers == ("race", "motocross", "ride")
    assert hub.group == ours.group == "four"
    assert hub.image is not None and open_image(hub.image).size == (8, 8)
    assert ours.image is not None and ours.image.path == str(tmp_path / "COCO_val2014_000000297147.jpg")
    for example in (hub, ours):
        assert OKVQA.score({"2971475": "race"}, [example]).metrics["overall"] == 100.0
        # two of ten said so: 8 times min(2/3), twice min(1/3)
        assert OKVQA.score({"2971475": "Motocross"}, [example]).metrics["overall"] == 60.0


def test_golden_predictions_score_as_officially(golden_dir: Path, tmp_path: Path) -> None:
    folder = golden_dir / "scores" / "okvqa"
    annotations = json.loads((folder / "annotations.json").read_text())
    questions = [{**each, "question": "?"} for each in annotations["annotations"]]
    (tmp_path / "OpenEnded_mscoco_val2014_questions.json").write_text(json.dumps({"questions": questions}))
    (tmp_path / "mscoco_val2014_annotations.json").write_text(json.dumps(annotations))
    examples = list(OKVQA.load(tmp_path))
    said = {
        str(each["question_id"]): each["answer"]
        for each in json.loads((folder / "predictions.json").read_text())
    }
    metrics = OKVQA.score(said, examples).metrics
    expected = json.loads((folder / "expected.json").read_text())
    assert {key: metrics[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"answers": None}, "'2971475' has no answers"),
        ({"question": " "}, "'2971475' has no question text"),
        ({"image": None}, "'2971475' has no picture; the published file embeds one"),
    ],
)
def test_broken_rows_are_named(
    tmp_path: Path, write_parquet: Any, picture: Any, fields: dict[str, Any], message: str
) -> None:
    rows = [row(picture, question_id="1"), row(picture, **fields)]
    with pytest.raises(RecordError, match=rf"val2014\S*\.parquet: {message}"):
        list(OKVQA.load(write_parquet(tmp_path, "val2014", rows)))


def test_annotations_of_another_split_are_noticed(tmp_path: Path) -> None:
    file = original(tmp_path) / "mscoco_val2014_annotations.json"
    file.write_text(file.read_text().replace("2971475", "1"))
    with pytest.raises(RecordError, match="question '2971475' is not in it; fetch both files"):
        list(OKVQA.load(tmp_path))
    file.unlink()
    with pytest.raises(ValueError, match="holds none of mscoco_val2014_annotations.json"):
        list(OKVQA.load(tmp_path))
