"""CVQA: how options are read out of answers, and the averages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from comem.benchmarks import BENCHMARKS, cvqa
from comem.benchmarks.scoring import ScoreFiles
from comem.benchmarks.text import extract_answer
from comem.io.files import RecordError

OPTIONS = ("gato", "perro", "2 perros", "león")
READ: list[tuple[str, int | None]] = [
    ("2", 1),
    (" 2 ", 1),
    ("(2)", 1),
    ("2.", 1),
    ("2. perro", 1),
    ("2: perro", 1),
    ("Option 2", 1),
    ("La respuesta es 2.", 1),
    ("答案是2", 1),
    ("Вариант 3", 2),
    ("B", 1),
    ("(b)", 1),
    ("B. perro", 1),
    ("the answer is (C)", 2),
    ("perro", 1),
    ("Perro!", 1),
    ("«León»", 3),
    ("El gato negro", 0),
    ("2 perros", 2),  # the option's very text goes before its number
    ("Veo 2 perros", 2),  # the longer of two texts, one within the other
    ("gato y león", None),
    ("A dog", None),
    ("2.5", None),
    ("1900", None),
    ("5", None),
    ("0", None),
    ("E", None),
    ("", None),
    ("²", None),
    (r"Pienso. \boxed{ 2 }", 1),  # what the authors' scorer takes for wrong
    ("Respuesta final: 2", 1),
    (r"\boxed{2. perro}", 1),
    (r"\boxed{\text{león}}", 3),
    ("最终答案：4", 3),
]


@pytest.mark.parametrize(("output", "expected"), READ)
def test_options_are_read(output: str, expected: int | None) -> None:
    assert cvqa.parse_option(extract_answer(output), OPTIONS) == expected


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("leo\u0301n", 3),
        ("LEO\u0301N.", 3),
        ("rojo,azul", 1),
        ("rojo, azul", 1),
        ("Rojo ,azul", 1),
        ("rojo", 0),
    ],
)
def test_composition_and_blanks_around_commas_do_not_count(output: str, expected: int) -> None:
    assert cvqa.parse_option(output, ["rojo", "rojo,azul", "verde", "león"]) == expected


@pytest.mark.parametrize(
    "text", ["9" * 100_000, "x " * 50_000, "是" * 50_000, "(" * 100_000, "answer " * 15_000]
)
def test_long_answers_choose_nothing(text: str) -> None:
    assert cvqa.parse_option(text, OPTIONS) is None


def row(name: str, label: int = 1, subset: Any = "('Spanish', 'Spain')") -> dict[str, Any]:
    return {"ID": name, "Subset": subset, "Options": list(OPTIONS), "Label": label}


def test_averages_over_questions_and_over_pairs() -> None:
    rows = [row(str(i)) for i in range(3)] + [row("x", subset=["Chinese", "China"])]
    report = cvqa.evaluate({"0": "2", "1": "1", "x": "perro"}, {each["ID"]: each for each in rows})
    assert report.metrics["by_pair"] == {"Chinese-China": 100.0, "Spanish-Spain": 50.0}
    assert report.metrics["overall"] == pytest.approx(200 / 3)
    assert (report.metrics["macro"], report.metrics["overall_missing_wrong"]) == (75.0, 50.0)
    assert (report.metrics["answered"], report.metrics["total"]) == (3, 4)
    assert {(s.group, s.language) for s in report.scores["overall"]} == {
        ("Spanish-Spain", "Spanish"), ("Chinese-China", "Chinese"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Label": -1}, "'a' has Label -1; expected 0 to 3"),
        ({"Label": "1"}, "'a' has Label '1'"),
        ({"Label": True}, "'a' has Label True"),
        ({"Options": []}, "'a' has no Options"),
        ({"Subset": "Spanish"}, "'a' has Subset 'Spanish'; expected"),
        ({"Subset": "(1"}, "'a' has Subset"),
    ],
)
def test_records_out_of_order_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        cvqa.evaluate({"a": "2"}, {"a": {**row("a"), **change}})


def test_files(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps({"data_id": "a", "prediction": r"\boxed{2}"}) + "\n")
    (tmp_path / "r.jsonl").write_text(json.dumps(row("a")) + "\n")
    report = BENCHMARKS["cvqa"].score_files(
        ScoreFiles({"": tmp_path / "p.jsonl"}, {"": tmp_path / "r.jsonl"})
    )
    assert report.metrics["overall"] == 100.0
