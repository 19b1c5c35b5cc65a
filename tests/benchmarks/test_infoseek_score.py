"""InfoSeek's score: the official numbers to the last digit, and what the official scorer leaves unsaid."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from comem.benchmarks import BENCHMARKS, infoseek
from comem.benchmarks.infoseek import COMBINED
from comem.benchmarks.scoring import Bootstrap, ScoreFiles, with_statistics
from comem.cli import run_command
from comem.io.files import RecordError


@pytest.mark.parametrize(
    ("answer_eval", "kind"),
    [
        ([{"wikidata": 1.0, "range": [0.9, 1.1]}], "numerical"),
        ({"wikidata": 1.0, "range": [0.9, 1.1]}, "numerical"),
        (["Paris"], "string"),
        ("Paris", "string"),
        (["1990"], "string"),
    ],
)
def test_types_are_inferred_from_the_form_of_the_answer(answer_eval: Any, kind: str) -> None:
    asked = infoseek.question({"data_id": "q", "answer_eval": answer_eval})
    assert asked.kind == kind
    assert kind == "string" or asked.range == (0.9, 1.1)


def test_ranges_as_the_flags_have_them() -> None:
    row = {"data_id": "q", "answer_eval": [421.2, 514.8], "question_type": "Numerical"}
    assert infoseek.is_correct("468", infoseek.question(row))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"data_id": "q", "answer_eval": []}, "'q' has no answer_eval"),
        ({"data_id": "q", "answer_eval": ["a"], "question_type": "Colour"}, "question type 'colour'; known"),
        ({"data_id": "q", "answer_eval": ["a"], "question_type": "Numerical"}, "holds no range"),
        ({"data_id": "q", "answer_eval": [{"range": [1]}]}, "holds no range"),
    ],
)
def test_bad_references_are_named(row: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        infoseek.question(row)


def golden_arguments(folder: Path, output: Path) -> list[str]:
    return [
        "infoseek",
        f"--predictions={folder / 'predictions.jsonl'}",
        f"--references={folder / 'references.jsonl'}",
        f"--question-types={folder / 'question_types.jsonl'}",
        f"--output={output}",
    ]


def evaluate_command(arguments: list[str]) -> int:
    return run_command("evaluate", arguments)


def test_the_command_reproduces_the_official_numbers(
    golden_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = golden_dir / "scores" / "infoseek", tmp_path / "out.json"
    assert evaluate_command(golden_arguments(folder, output)) == 0
    report = json.loads(output.read_text())
    expected = json.loads((folder / "expected.json").read_text())
    assert {key: report[key] for key in expected} == expected
    assert report["accuracy_missing_wrong"] < report["accuracy"]
    printed = capsys.readouterr().out
    assert "40.49" in printed and "5 questions are unanswered" in printed


def test_scoring_needs_no_torch(golden_dir: Path, tmp_path: Path) -> None:
    arguments = golden_arguments(golden_dir / "scores" / "infoseek", tmp_path / "out.json")
    program = (
        f"import sys; from comem.cli import run_command; run_command('evaluate', {arguments!r}); "
        "sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", program], check=True, cwd=root, capture_output=True)


def by_id(*rows: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["data_id"]: row for row in rows}


def reference(name: str, split: str = "val_unseen_entity", **fields: Any) -> dict[str, Any]:
    return {"data_id": name, "answer_eval": ["Paris"], "data_split": split, **fields}


def test_missing_answers_are_left_out_officially_and_counted_beside_it() -> None:
    rows = by_id(reference("a"), reference("b"), reference("c", "val_unseen_question"))
    metrics = infoseek.evaluate({"a": "paris!", "c": "The Paris"}, rows).metrics
    assert (metrics["final_score"], metrics["final_score_missing_wrong"]) == (100.0, 66.67)
    assert (metrics["answered"], metrics["total"]) == (2, 3)
    assert metrics["by_split"]["val_unseen_entity"]["accuracy_missing_wrong"] == 50.0
    assert any("1 questions are unanswered" in note for note in metrics["notes"])
    assert any("3 question types inferred" in note for note in metrics["notes"])


def test_splits_without_references_and_other_splits_are_said() -> None:
    metrics = infoseek.evaluate({"a": "Paris"}, by_id(reference("a"), reference("t", "train"))).metrics
    assert (metrics["final_score"], metrics["accuracy"]) == (0.0, 100.0)
    assert any("unseen_question split: the official final score is 0" in note for note in metrics["notes"])
    assert any("count as unseen_entity, as officially: 'train'" in note for note in metrics["notes"])


def test_other_splits_count_as_unseen_entity_as_officially() -> None:
    rows = by_id(reference("a"), reference("t", "train"), reference("q", "val_unseen_question"))
    report = infoseek.evaluate({"a": "Paris", "t": "Rome", "q": "Paris"}, rows)
    assert report.metrics["unseen_entity_score"]["score"] == 50.0
    assert report.metrics["final_score"] == 66.67
    intervals = with_statistics(report, Bootstrap(), COMBINED).metrics["confidence"]
    assert "unseen_question_score" in intervals  # one group; of two, the means alone do not add up
    assert not {"unseen_entity_score", "final_score"} & set(intervals)


def test_nothing_to_score_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="none of the 1 predictions belongs.*'x'.*'a'"):
        infoseek.evaluate({"x": "Paris"}, by_id(reference("a")))
    with pytest.raises(ValueError, match="none of the 0 predictions"):
        infoseek.evaluate({}, by_id(reference("a")))
    with pytest.raises(ValueError, match="there are no references"):
        infoseek.evaluate({"x": "Paris"}, {})
    infoseek.evaluate({"x": "Paris", "a": "Paris"}, by_id(reference("a")))
    assert "1 predictions belong to no reference" in caplog.text


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ([{"data_id": "a", "prediction": None}], "p.jsonl: the prediction of 'a' is null; write text"),
        ([{"data_id": "a", "prediction": 7}], "the prediction of 'a' is int 7"),
        ([{"data_id": "a", "prediction": "x"}] * 2, "data_id 'a' comes twice"),
        ([{"prediction": "x"}], "record 1 has none of data_id"),
        ([{"data_id": "a"}], "record 1 has none of prediction"),
        ([], "none of the 0 predictions"),
    ],
)
def test_bad_predictions_are_named(tmp_path: Path, predictions: list[Any], message: str) -> None:
    files = ScoreFiles(
        {"": write(tmp_path / "p.jsonl", *predictions)},
        {"": write(tmp_path / "r.jsonl", reference("a"))},
    )
    with pytest.raises(ValueError, match=message):
        BENCHMARKS["infoseek"].score_files(files)


def test_other_files_and_options(tmp_path: Path) -> None:
    references = write(tmp_path / "r.jsonl", reference("a"), reference("b"))
    types = write(tmp_path / "t.jsonl", {"data_id": "a", "question_type": "String"})
    predictions = tmp_path / "p.json"
    predictions.write_text(json.dumps([{"data_id": "a", "prediction": r"Hm. \boxed{\text{Paris}}"}]))
    files = ScoreFiles({"": predictions}, {"": references})
    assert BENCHMARKS["infoseek"].score_files(files).metrics["accuracy"] == 100.0
    assert (
        BENCHMARKS["infoseek"]
        .score_files(ScoreFiles({"": predictions}, {"": references}, whole=True))
        .metrics["accuracy"]
        == 0.0
    )
    with pytest.raises(RecordError, match="1 references have no type, the first is 'b'"):
        BENCHMARKS["infoseek"].score_files(ScoreFiles({"": predictions}, {"": references}, types))
    with pytest.raises(ValueError, match="--references FILE; it is missing"):
        BENCHMARKS["infoseek"].score_files(ScoreFiles({"": predictions}, {}))
    with pytest.raises(ValueError, match="unknown benchmark 'infosek'; did you mean infoseek"):
        evaluate_command(["infosek"])


def test_long_predictions_take_no_time() -> None:
    rows = by_id(reference("a"), reference("n", answer_eval=[{"range": [0, 1]}]))
    start = time.perf_counter()
    for text in ("9" * 100_000, "9-" * 50_000, "1,000" * 20_000, "the " * 25_000):
        infoseek.evaluate({"a": text, "n": text}, rows)
    assert time.perf_counter() - start < 5
