"""OVEN and ViQuAE: JSON lines with pictures in a folder; OVEN's real files whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from comem.benchmarks import BENCHMARKS
from comem.io.files import RecordError

VIQUAE = BENCHMARKS["viquae"]
REAL = {
    "oven_entity": (3000, {"seen": 998, "unseen": 2002}),
    "oven_query": (3291, {"seen": 1023, "unseen": 2268}),
}


@pytest.fixture(scope="module")
def oven_dir() -> Path:
    folder = Path(__file__).resolve().parents[3] / "shared" / "data" / "oven"
    if not folder.is_dir():
        pytest.skip("optional data folder ../shared/data/oven is absent")
    return folder


@pytest.mark.parametrize("name", REAL)
def test_real_questions_load_and_their_titles_score_full(oven_dir: Path, name: str) -> None:
    count, splits = REAL[name]
    benchmark, part = BENCHMARKS[name], name.partition("_")[2]
    examples = list(benchmark.load(oven_dir))
    assert len(examples) == count and all(example.question and example.answers[0] for example in examples)
    for split, size in splits.items():
        for spelled in (split, f"val_{split}", f"{part}_val_{split}"):
            assert len(list(benchmark.load(oven_dir, split=spelled))) == size
    report = benchmark.score({example.id: example.answers[0] for example in examples}, examples)
    assert report.metrics["title_match_result"] == {"seen": 100.0, "unseen": 100.0}
    paris = benchmark.score({example.id: "Paris" for example in examples}, examples).metrics["title_match"]
    assert paris < 0.5, "always saying Paris is right as often as the question is about Paris"
    with pytest.raises(ValueError, match=f"holds none of oven_{part}_human_3k.jsonl"):
        list(benchmark.load(oven_dir, split="human"))


def oven_row(**fields: Any) -> dict[str, Any]:
    base = {
        "data_id": "oven_query_val_00000000", "image_id": "oven_04925739", "question": "what bird is this?",
        "entity_id": "Q755737", "entity_text": "Killdeer", "data_split": "query_val_seen",
    }  # fmt: skip
    return {**base, **fields}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_oven_pictures_and_scores(tmp_path: Path) -> None:
    (tmp_path / "oven_04925739.JPEG").touch()
    other = oven_row(data_id="q2", data_split="query_val_unseen", image_id="none")
    write(tmp_path / "oven_query_val.jsonl", oven_row(), other)
    benchmark = BENCHMARKS["oven_query"]
    first, second = examples = list(benchmark.load(tmp_path, image_folder=tmp_path))
    assert first.image and first.image.path == str(tmp_path / "oven_04925739.JPEG")
    assert second.image and second.image.path == str(tmp_path / "none.jpg")  # found missing when opened
    assert benchmark.ask(first, True) == benchmark.ask(first, False)
    metrics = benchmark.score({first.id: "the killdeer!", second.id: "Robin"}, examples).metrics
    assert metrics["title_match_result"] == {"seen": 100.0, "unseen": 0.0} and metrics["title_match"] < 0.01
    metrics = benchmark.score({first.id: "killdeer"}, examples).metrics
    assert metrics["title_match"] == 100.0 and metrics["title_match_missing_wrong"] < 0.01
    assert (metrics["answered"], metrics["total"]) == (1, 2)
    with pytest.raises(RecordError, match="comem oven|no entity_text"):
        benchmark.score(
            {"q": "x"},
            list(benchmark.load(write(tmp_path / "t.jsonl", oven_row(data_id="q", entity_text="")))),
        )
    with pytest.raises(ValueError, match="none of the 1 predictions belongs"):
        benchmark.score({"x": "y"}, examples)


def viquae_row(**fields: Any) -> dict[str, Any]:
    base = {
        "id": "sfq_1", "input": "this singer's song helped to advertise what brand?",
        "image": "512px-Jackie_Wilson.png", "url": "http://upload.wikimedia.org/x.png", "kilt_id": "sfq_1",
        "wikidata_id": "Q315784", "original_question": "Jackie Wilson's …", "meta": {},
        "output": {"answer": ["Levi's", "Levi Strauss"], "original_answer": "Levi's"},
    }  # fmt: skip
    return {**base, **fields}


def test_viquae_loads_and_scores(tmp_path: Path) -> None:
    write(tmp_path / "test.jsonl", viquae_row(), viquae_row(id="sfq_2"))
    examples = list(VIQUAE.load(tmp_path))
    assert [example.image for example in examples] == [None, None]
    with pytest.raises(
        ValueError, match="2 of 2 questions of viquae have no picture.*--images DIR.*images.tar.gz"
    ):
        VIQUAE.require_images(examples)
    (tmp_path / "images").mkdir()
    first = next(VIQUAE.load(tmp_path / "test.jsonl"))
    assert first.image and first.image.path == str(tmp_path / "images" / "512px-Jackie_Wilson.png")
    assert first.answers == ("Levi's", "Levi Strauss") and first.group == "test"
    metrics = VIQUAE.score({"sfq_1": "levis", "sfq_2": "Strauss"}, examples).metrics
    assert metrics["exact_match"] == 50.0 and metrics["f1"] == pytest.approx(100 * (1 + 2 / 3) / 2)


def test_golden_viquae_predictions_score_as_officially(golden_dir: Path) -> None:
    folder = golden_dir / "scores" / "viquae"
    examples = list(VIQUAE.load(folder / "references.jsonl"))
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    metrics = VIQUAE.score({row["id"]: row["prediction"] for row in rows}, examples).metrics
    expected = json.loads((folder / "expected.json").read_text())
    assert {key: metrics[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps(viquae_row(output={})), "'sfq_1' has no answers"),
        (json.dumps(viquae_row(input=None)), "'sfq_1' has no question text"),
        ('{"id": "sfq_1", ', "test.jsonl:1: not JSON"),
        ("", "holds no questions"),
        ("\n".join([json.dumps(viquae_row())] * 2), "id 'sfq_1' comes twice"),
    ],
)
def test_broken_viquae_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "test.jsonl").write_text(text)
    with pytest.raises(RecordError, match=message):
        list(VIQUAE.load(tmp_path))
