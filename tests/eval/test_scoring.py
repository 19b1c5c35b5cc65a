"""Run folders are scored by both scorers, with intervals and languages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from comem.benchmarks import BENCHMARKS
from comem.benchmarks.scoring import Bootstrap
from comem.eval.score import score_run
from comem.io.files import read_json
from comem.types import Example


def example(name: str, answer: str, language: str) -> Example:
    meta = {
        "data_id": name, "answer_eval": [answer], "data_split": "val_unseen_entity", "language": language,
    }  # fmt: skip
    return Example(name, "Where?", None, meta=meta)


@pytest.fixture
def examples(tmp_path: Path) -> list[Example]:
    given = {"a": "Rome", "b": r"\boxed{\text{Oslo}}", "c": "Tennis"}
    rows = (json.dumps({"data_id": name, "prediction": text}) + "\n" for name, text in given.items())
    (tmp_path / "predictions.jsonl").write_text("".join(rows))
    return [
        example("a", "Rome", "en"), example("b", "Oslo", "es"), example("c", "Paris", "en"),
        example("d", "Rome", "en"),
    ]  # fmt: skip


def test_official(examples: list[Example], tmp_path: Path) -> None:
    report = score_run(BENCHMARKS["toy"], examples, tmp_path)
    assert report.metrics["accuracy"] == 66.67 and report.metrics["scorer"] == "official"
    assert report.metrics["by_language"]["es"]["accuracy"] == 100.0
    low, high = report.metrics["confidence"]["accuracy"]
    assert low < 66.67 < high
    assert read_json(tmp_path / "metrics.json")["confidence"]["accuracy"] == [low, high]
    assert len(report.scores["accuracy"]) == 4


def test_as_in_the_paper(examples: list[Example], tmp_path: Path) -> None:
    """ "Tennis" is "Paris" there, and a box within a box is none."""
    report = score_run(BENCHMARKS["toy"], examples, tmp_path, scorer="paper", bootstrap=Bootstrap(0))
    right = {score.example_id for score in report.scores["accuracy"] if score.value}
    assert right == {"a", "c"}
    assert "confidence" not in report.metrics
    assert any("paper scorer" in note for note in report.metrics["notes"])
    assert read_json(tmp_path / "metrics_paper.json")["scorer"] == "paper"
    assert not (tmp_path / "metrics.json").exists()


def test_unknown_scorers_and_those_that_need_linked_answers(examples: list[Example], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown scorer 'offical'; did you mean official"):
        score_run(BENCHMARKS["toy"], examples, tmp_path, scorer="offical")
    with pytest.raises(ValueError, match="comem oven link, then comem evaluate oven --scorer paper"):
        score_run(BENCHMARKS["oven_query"], examples, tmp_path, scorer="paper")
