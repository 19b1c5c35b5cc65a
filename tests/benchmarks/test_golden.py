"""Every scorer gives the official scorer's numbers, to the last digit, through the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from comem.benchmarks import BENCHMARKS
from comem.cli import run_command

FILES = {
    "infoseek": {
        "predictions": "predictions.jsonl",
        "references": "references.jsonl",
        "question-types": "question_types.jsonl",
    },
    "oven": {
        "predictions-query": "predictions_query.jsonl",
        "predictions-entity": "predictions_entity.jsonl",
        "references-query": "references_query.jsonl",
        "references-entity": "references_entity.jsonl",
    },
    "okvqa": {"predictions": "predictions.json", "references": "annotations.json"},
    "aokvqa": {"predictions": "predictions.json", "references": "references.json"},
    "viquae": {"predictions": "predictions.jsonl", "references": "references.jsonl"},
    "mrag_bench": {"predictions": "predictions.jsonl"},
}


def evaluate_command(*arguments: str) -> int:
    return run_command("evaluate", list(arguments))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("whole", [False, True])
def test_official_numbers(golden_dir: Path, tmp_path: Path, name: str, whole: bool) -> None:
    folder, output = golden_dir / "scores" / name, tmp_path / "out.json"
    options = [f"--{option}={folder / file}" for option, file in FILES[name].items()]
    assert evaluate_command(name, *options, f"--output={output}", *(["--whole"] if whole else [])) == 0
    report = json.loads(output.read_text())
    expected = json.loads((folder / "expected.json").read_text())
    assert {key: report.get(key) for key in expected} == expected
    assert 0 < report["answered"] <= report["total"]


def test_every_golden_folder_is_tried(golden_dir: Path) -> None:
    assert {path.name for path in (golden_dir / "scores").iterdir()} == set(FILES) <= set(BENCHMARKS)


def write(path: Path, content: Any) -> str:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    else:
        path.write_text(json.dumps(content))
    return str(path)


def test_missing_predictions_are_counted_beside_the_official_number(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    cases: list[tuple[str, str, Any, str, Any, str, float, float]] = [
        (
            "viquae",
            "p.jsonl",
            [{"id": "a", "prediction": "Paris"}],
            "r.jsonl",
            [{"id": i, "output": {"answer": ["paris"]}} for i in "ab"],
            "exact_match",
            100.0,
            50.0,
        ),
        (
            "okvqa",
            "p.json",
            [{"question_id": 1, "answer": "2"}],
            "r.json",
            {
                "annotations": [
                    {"question_id": i, "answers": [{"answer": "2", "answer_id": j} for j in range(10)]}
                    for i in (1, 2)
                ]
            },
            "overall",
            100.0,
            50.0,
        ),
        (
            "mrag_bench",
            "p.jsonl",
            [{"id": 1, "output": "(A)"}],
            "r.jsonl",
            [{"id": i, "gt_choice": "A", "choices": {"A": "x"}} for i in (1, 2)],
            "overall",
            100.0,
            50.0,
        ),
    ]
    for name, file, predictions, reference_file, references, key, official, honest in cases:
        evaluate_command(
            name,
            "--predictions",
            write(tmp_path / file, predictions),
            "--references",
            write(tmp_path / reference_file, references),
            "--output",
            str(out),
        )
        report = json.loads(out.read_text())
        assert (report[key], report[f"{key}_missing_wrong"]) == (official, honest)
        assert (report["answered"], report["total"]) == (1, 2)
