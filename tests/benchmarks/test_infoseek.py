"""InfoSeek and the collections in its format: real files load, gold answers score, pictures are found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from comem.benchmarks import BENCHMARKS
from comem.io.files import RecordError
from comem.types import Example

#: Rows in the real files, and how many gold answers the official scorer accepts: in Portuguese three
#: numbers are written with a decimal comma, which it reads as two numbers.
REAL = {
    "infoseek": (4708, 4708),
    "infoseek_bg": (4708, 4708),
    "infoseek_zh": (4708, 4708),
    "infoseek_pt": (4706, 4703),
    "infoseek_ru": (4708, 4708),
    "infoseek_es": (4708, 4708),
}


def gold(example: Example) -> str:
    """The first accepted answer; for numbers the one behind the range."""
    first = example.meta["answer_eval"][0]
    return first if isinstance(first, str) else example.answers[0]


@pytest.mark.parametrize("name", REAL)
def test_real_questions_load_and_gold_scores_full(infoseek_dir: Path, name: str) -> None:
    benchmark = BENCHMARKS[name]
    examples = list(benchmark.load(infoseek_dir))
    assert len(examples) == REAL[name][0]
    assert {example.language for example in examples} == set(benchmark.languages)
    report = benchmark.score({example.id: gold(example) for example in examples}, examples)
    right = sum(split["correct"] for split in report.metrics["by_split"].values())
    assert right == REAL[name][1]
    assert report.metrics["by_type"]["string"]["accuracy"] == 100.0
    assert all(example.id and example.question and example.image is None for example in examples)


def test_always_paris_earns_next_to_nothing(infoseek_dir: Path) -> None:
    examples = list(BENCHMARKS["infoseek"].load(infoseek_dir))
    metrics = BENCHMARKS["infoseek"].score({example.id: "Paris" for example in examples}, examples).metrics
    assert metrics["by_type"]["string"]["accuracy"] == 0.21  # the authors' scorer says 3.59
    assert metrics["by_type"]["string"]["total"] == 4265 and metrics["by_type"]["numerical"]["total"] == 443


def test_splits_are_picked_or_named(infoseek_dir: Path) -> None:
    benchmark = BENCHMARKS["infoseek"]
    sizes = {
        split: len(list(benchmark.load(infoseek_dir, split=split)))
        for split in ("val", "val_unseen_question", "val_unseen_entity")
    }
    assert sizes == {"val": 4708, "val_unseen_question": 867, "val_unseen_entity": 3841}
    with pytest.raises(RecordError, match="no question is in split 'val_seen'.*'val_unseen_question'"):
        list(benchmark.load(infoseek_dir, split="val_seen"))
    with pytest.raises(ValueError, match="holds none of infoseek_train.jsonl"):
        list(benchmark.load(infoseek_dir, split="train"))


def test_flags_come_with_their_pictures(flags_dir: Path) -> None:
    benchmark = BENCHMARKS["flags"]
    examples = list(benchmark.load(flags_dir))
    assert len(examples) == 594
    assert all(example.image and Path(example.image.path or "").is_file() for example in examples)
    assert len(list(benchmark.load(flags_dir / "questions.jsonl", split="unseen_entity"))) == 156
    with pytest.raises(RecordError, match="split 'test'; the file has 'val_unseen_entity', 'train'"):
        list(benchmark.load(flags_dir, split="test"))
    report = benchmark.score({example.id: example.answers[0] for example in examples}, examples)
    assert report.metrics["accuracy"] == 99.83  # one area is unknown: -1, in a reversed range


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def record(**fields: Any) -> dict[str, Any]:
    base = {
        "data_id": "q1",
        "image_id": "oven_1",
        "question": "What?",
        "answer": ["a"],
        "answer_eval": ["a"],
        "data_split": "val_unseen_entity",
    }
    return {**base, **fields}


def test_pictures_by_id_path_or_not_at_all(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "oven_1.JPEG").touch()
    file = write(tmp_path / "infoseek_val.jsonl", record(), record(data_id="q2", image_id="oven_2"))
    first, second = BENCHMARKS["infoseek"].load(file, image_folder=images)
    assert first.image and first.image.path == str(images / "oven_1.JPEG")
    assert second.image and second.image.path == str(images / "oven_2.jpg")  # found missing when opened
    assert all(example.image is None for example in BENCHMARKS["infoseek"].load(tmp_path))
    file = write(tmp_path / "test.jsonl", record(image_path="images/x.png", language="ru"))
    (toy,) = BENCHMARKS["toy"].load(tmp_path, split="test")
    assert toy.image and toy.image.path == str(tmp_path / "images" / "x.png")
    assert toy.language == "ru" and BENCHMARKS["toy"].ask(toy, True) == "What?"


def test_question_types_come_from_their_file(tmp_path: Path) -> None:
    file = write(tmp_path / "infoseek_val.jsonl", record(answer_eval=["1990"]))
    types = write(tmp_path / "types.jsonl", {"data_id": "q1", "question_type": "Time"})
    (example,) = BENCHMARKS["infoseek"].load(file, question_types=types)
    assert BENCHMARKS["infoseek"].score({"q1": "1990"}, [example]).metrics["by_type"]["time"]["correct"] == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([record(), record()], "data_id 'q1' comes twice"),
        ([record(question=" ")], "'q1' has no question text"),
        ([record(question=None)], "'q1' has no question text"),
        ([{"id": "x"}], "record 1 has no 'data_id'"),
        ([], "the file has no questions"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, rows: list[Any], message: str) -> None:
    file = write(tmp_path / "infoseek_val.jsonl", *rows)
    with pytest.raises(RecordError, match=f"infoseek_val.jsonl: .*{message}"):
        list(BENCHMARKS["infoseek"].load(file))


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere: no such file or folder"):
        list(BENCHMARKS["infoseek"].load(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"holds none of infoseek_val_spanish.jsonl \(plain or .gz\)"):
        list(BENCHMARKS["infoseek_es"].load(tmp_path))
