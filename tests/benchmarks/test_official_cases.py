"""Hostile answers, scored as the official definitions score them.

`official_cases.json` holds what the official functions gave: VQAEval.evaluate (GT-Vision-Lab/VQA),
process_numerical_answer and metric_numerical_range (edchengg/infoseek_eval), parse_multi_choice_response
(MRAG-Bench), exact match and F1 (PaulLerner/ViQuAE).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from comem.benchmarks import mrag_bench
from comem.benchmarks import okvqa as vqa
from comem.benchmarks import viquae as squad
from comem.benchmarks.infoseek import matches, read_number
from comem.benchmarks.text import extract_answer

CASES: dict[str, list[Any]] = json.loads(
    Path(__file__).with_name("official_cases.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize(("prediction", "humans", "earned"), CASES["vqa"])
def test_soft_accuracy(prediction: str, humans: list[str], earned: float) -> None:
    answers = [{"answer": human, "answer_id": number} for number, human in enumerate(humans)]
    assert vqa.soft_accuracy(prediction, answers) == earned
    assert vqa.soft_accuracy(extract_answer(prediction), answers) == earned  # no mark, nothing taken out


@pytest.mark.parametrize(("text", "number", "accepted", "right"), CASES["numbers"])
def test_numbers(text: str, number: Any, accepted: list[float], right: bool) -> None:
    found = read_number(text)
    assert (list(found) if isinstance(found, tuple) else found) == number
    assert matches(found, (accepted[0], accepted[1])) is right


@pytest.mark.parametrize(("output", "choices", "letter"), CASES["mrag_bench"])
def test_choices(output: str, choices: dict[str, str], letter: str | None) -> None:
    assert mrag_bench.parse_choice(output, choices) == letter


@pytest.mark.parametrize(("prediction", "accepted", "exact", "f1"), CASES["squad"])
def test_words(prediction: str, accepted: list[str], exact: float, f1: float) -> None:
    metrics = squad.evaluate({"a": prediction}, {"a": {"output": {"answer": accepted}}}).metrics
    assert metrics["exact_match"] == 100 * exact
    assert metrics["f1"] == pytest.approx(100 * f1, abs=1e-9)
