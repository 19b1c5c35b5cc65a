"""A-OKVQA: two tasks of one record, in both published formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from comem.benchmarks import BENCHMARKS
from comem.cli import main
from comem.io.files import RecordError

AOKVQA = BENCHMARKS["aokvqa"]
DIRECT = ["ride"] * 5 + ["don't know"] * 3 + ["bus", "taxi"]


def record(**fields: Any) -> dict[str, Any]:
    base = {
        "question_id": "22MexNkBPpdZGX6sxbxVBH", "question": "What is the man by the bags awaiting?",
        "choices": ["skateboarder", "train", "delivery", "Cab"], "correct_choice_idx": 3,
        "direct_answers": DIRECT, "difficult_direct_answer": False, "rationales": ["A cab comes.", "b", "c"],
    }  # fmt: skip
    return {**base, **fields}


def test_both_formats_ask_both_tasks(tmp_path: Path, write_parquet: Any, picture: Any) -> None:
    hub = record(direct_answers=str(DIRECT))  # the hub keeps the list as text, apostrophes and all
    write_parquet(tmp_path / "hub", "validation", [{"image": picture(), **hub}])
    file = tmp_path / "aokvqa_v1p0_val.json"
    file.write_text(json.dumps([record(split="val", image_id=461751)]))
    (tmp_path / "val2017").mkdir()
    (tmp_path / "val2017" / "000000461751.jpg").touch()
    for path in (tmp_path / "hub", file, tmp_path):
        direct, choice = AOKVQA.load(path, image_folder=tmp_path)
        name = "22MexNkBPpdZGX6sxbxVBH"
        assert (direct.id, choice.id) == (f"{name}:direct_answer", f"{name}:multiple_choice")
        assert direct.answers == ("ride", "don't know", "bus", "taxi") and not direct.choices
        assert choice.answers == ("Cab",) and len(choice.choices) == 4
        assert direct.image and direct.image == choice.image
        assert "train" in AOKVQA.ask(choice, False) and "train" not in AOKVQA.ask(direct, False)
        metrics = AOKVQA.score({direct.id: "don't know", choice.id: "cab"}, [direct, choice]).metrics
        assert metrics["direct_answer"] == 100.0 and metrics["multiple_choice"] == 100.0
    (choice,) = AOKVQA.load(tmp_path, split="validation:multiple_choice", image_folder=tmp_path)
    assert choice.image and choice.image.path == str(tmp_path / "val2017" / "000000461751.jpg")
    assert "direct_answer" not in AOKVQA.score({choice.id: "D"}, [choice]).metrics


@pytest.mark.parametrize(
    ("said", "right"),
    [("Cab", 1), ("cab.", 1), ("D", 1), ("(d)", 1), ("the cab is here", 0), ("train", 0), ("", 0)],
)
def test_choices_are_taken_by_text_or_letter(tmp_path: Path, said: str, right: int) -> None:
    (tmp_path / "aokvqa_v1p0_val.json").write_text(json.dumps([record()]))
    examples = list(AOKVQA.load(tmp_path))
    assert AOKVQA.score({examples[1].id: said}, examples).metrics["multiple_choice"] == 100.0 * right


def test_golden_direct_answers_score_as_officially(golden_dir: Path) -> None:
    folder = golden_dir / "scores" / "aokvqa"
    examples = list(AOKVQA.load(folder / "references.json"))
    said = json.loads((folder / "predictions.json").read_text())
    answers = {f"{name}:{task}": text for name, tasks in said.items() for task, text in tasks.items()}
    metrics = AOKVQA.score(answers, examples).metrics
    assert metrics["direct_answer"] == json.loads((folder / "expected.json").read_text())["direct_answer"]


def test_evaluate_reads_what_predict_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    references = tmp_path / "aokvqa_v1p0_val.json"
    references.write_text(json.dumps([record()]))
    predictions, report = tmp_path / "predictions.jsonl", tmp_path / "report.json"
    said = {"direct_answer": "ride", "multiple_choice": r"So: \boxed{d}"}
    lines = [{"data_id": f"22MexNkBPpdZGX6sxbxVBH:{task}", "prediction": text} for task, text in said.items()]
    predictions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["evaluate", "aokvqa", "--predictions", str(predictions), "--references", str(references)]
    assert main([*words, "--output", str(report)]) == 0
    found = json.loads(report.read_text())
    assert (found["direct_answer"], found["multiple_choice"]) == (100.0, 100.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"choices": []}, "has no choices"),
        ({"correct_choice_idx": 4}, "has correct_choice_idx 4 of 4 choices"),
        ({"direct_answers": "['a', __import__('os')"}, "the direct_answers of .* are no list"),
        ({"question": None}, "has no question text"),
    ],
)
def test_broken_records_are_named(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    (tmp_path / "aokvqa_v1p0_val.json").write_text(json.dumps([record(**fields)]))
    with pytest.raises(RecordError, match=f"aokvqa_v1p0_val.json: .*{message}"):
        list(AOKVQA.load(tmp_path))


def test_the_test_split_can_be_asked_but_not_scored(tmp_path: Path) -> None:
    row = {
        key: value for key, value in record().items() if key not in ("correct_choice_idx", "direct_answers")
    }
    (tmp_path / "aokvqa_v1p0_test.json").write_text(json.dumps([row]))
    examples = list(AOKVQA.load(tmp_path, split="test"))
    assert len(examples) == 2 and not any(example.answers for example in examples)
    with pytest.raises(RecordError, match="has no answers; is this the test set"):
        AOKVQA.score({examples[0].id: "x"}, examples)
    with pytest.raises(ValueError, match="no task 'mc'; it has direct_answer, multiple_choice"):
        list(AOKVQA.load(tmp_path, split="test:mc"))
