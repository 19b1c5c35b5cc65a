"""The rules and quirks of the official scorers: cases as data; files that are not in order are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from comem.benchmarks import BENCHMARKS, aokvqa, mrag_bench, oven
from comem.benchmarks import okvqa as vqa
from comem.benchmarks import viquae as squad
from comem.benchmarks.scoring import ScoreFiles
from comem.io.files import RecordError

CHOICES = {"A": "Red Maple", "B": "Boeing 707", "C": "White Oak", "D": "Oak"}
PARSED: list[tuple[str, str | None]] = [
    ("B", "B"),
    ("B.", "B"),
    ("(C)", "C"),
    ("Based on the image, the correct option is (A).", "A"),
    ("(A) at first, but (B) in the end, says A", "B"),  # brackets go first
    ("At first A seems right but the answer is B", "B"),
    ("B. Boeing 707", None),  # "B." is no letter standing alone, and five words are too few for the text
    ("I would say that this is the boeing 707 for sure", "B"),
    ("It may be the Red Maple, yet I say White Oak here", "D"),  # the last text: "Oak" begins after "White"
    ("I am not sure.", None),
    ("", None),
    ("b", None),
]


@pytest.mark.parametrize(("output", "letter"), PARSED)
def test_mrag_bench_parses_choices(output: str, letter: str | None) -> None:
    assert mrag_bench.parse_choice(output, CHOICES) == letter


PROCESSED = [
    ("The two dogs", "2 dogs"),
    ("isnt", "isn't"),
    ("wouldnt've", "wouldn't've"),
    ("yall'll", "y'all'll"),
    ("lets", "lets"),
    ("somebody'd", "somebodyd"),
    ("10,000", "10000"),
    ("baseball/softball", "baseball softball"),
    ("ice-cream", "ice cream"),
    ("surfing, skate board", "surfing skate board"),
    ("U.S.A.", "usa"),
    ("3.5", "3.5"),
    ("7:30!", "7:30"),
    ("an apple", "apple"),
    ("none", "0"),
    ("rock & roll", "rock & roll"),
    ("." * 40, "." * 8),
]


@pytest.mark.parametrize(("text", "expected"), PROCESSED)
def test_vqa_processing(text: str, expected: str) -> None:
    assert vqa.process_words(vqa.process_punctuation(text)) == expected


@pytest.mark.parametrize(
    ("prediction", "humans", "expected"),
    [
        ("two", ["2"] * 10, 0.0),  # all the same: compared as they stand
        ("2", ["2"] * 10, 1.0),
        ("two", ["2"] * 9 + ["3"], 1.0),
        ("two", ["2"] * 3 + ["3"] * 7, (3 * 2 / 3 + 7) / 10),
        ("two", ["2"] + ["3"] * 9, 9 / 30),
        ("four", ["2"] * 5 + ["3"] * 5, 0.0),
    ],
)
def test_vqa_soft_accuracy(prediction: str, humans: list[str], expected: float) -> None:
    answers = [{"answer": human, "answer_id": i} for i, human in enumerate(humans)]
    assert vqa.soft_accuracy(prediction, answers) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prediction", "accepted", "expected"),
    [
        ("The Beatles", "beatles!", 1.0),
        ("the big Beatles", "Beatles", 2 / 3),
        ("Rome", "Paris", 0.0),
        ("", "Paris", 0.0),
        ("new new york", "New York", 0.8),
    ],
)
def test_squad_f1(prediction: str, accepted: str, expected: float) -> None:
    assert squad.f1(prediction, accepted) == pytest.approx(expected)


def test_aokvqa_counts_missing_as_wrong_and_leaves_difficult_ones_out() -> None:
    row = {"choices": ["a", "b"], "correct_choice_idx": 1, "direct_answers": ["b"] * 2 + ["c"] * 8}
    references = {"1": row, "2": row, "3": {**row, "difficult_direct_answer": True}}
    by_task = {f"{name}:{task}": row for name, row in references.items() for task in aokvqa.TASKS}
    metrics = aokvqa.evaluate({f"1:{task}": "b" for task in aokvqa.TASKS}, by_task).metrics
    assert metrics["direct_answer"] == pytest.approx(100 / 3)  # 2/3 of one of two
    assert metrics["multiple_choice"] == pytest.approx(100 / 3)  # one of three
    assert metrics["multiple_choice_answered_only"] == 100.0


def test_oven_without_a_split_says_so() -> None:
    row = {"entity_id": "Q1", "data_split": "entity_val_seen"}
    both = {"a": row, "b": {**row, "data_split": "entity_val_unseen"}}
    metrics = oven.evaluate(
        {"query": {"a": "Q1"}, "entity": {"a": "Q1", "b": "Q2"}}, {"query": both, "entity": both}
    ).metrics
    assert metrics["query_result"] == {"seen": 100.0} and metrics["query_score"] == 0.0
    assert any("no query question of the unseen split" in note for note in metrics["notes"])
    with pytest.raises(RecordError, match="'a' is in split 'train'"):
        oven.score_part({"a": "Q1"}, {"a": {**row, "data_split": "train"}})


def write(path: Path, content: Any) -> Path:
    rows = path.suffix == ".jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in content) if rows else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("name", "predictions", "references", "message"),
    [
        ("viquae", [{"id": "a", "prediction": "x"}], [{"id": "a", "output": {}}], "'a' has no answers"),
        (
            "viquae",
            [{"id": "b", "prediction": "x"}],
            [{"id": "a", "output": {"answer": ["x"]}}],
            "none of the",
        ),
        ("okvqa", [{"question_id": 1, "answer": "x"}], [{"question_id": 1}], "'1' has no answers"),
        ("okvqa", [{"question_id": 1, "answer": "x"}], {"questions": []}, "expected VQA annotations"),
        ("aokvqa", [], [{"question_id": "q"}], "'q' has no choices"),
        ("aokvqa", ["x"], [], "expected {question_id"),
        ("aokvqa", {"q": "x"}, [], "'q' is 'x'; expected direct_answer and multiple_choice"),
        ("aokvqa", {"q": {"direct_answer": None}}, [], "prediction of 'q' is null"),
        ("mrag_bench", [{"id": 1, "output": "A"}], [{"id": 1}], "'1' has no choices"),
        ("mrag_bench", [{"id": 1}], [{"id": 1}], "prediction of '1' is null"),
    ],
)
def test_files_out_of_order_are_named(
    tmp_path: Path, name: str, predictions: Any, references: Any, message: str
) -> None:
    files = ScoreFiles(
        {"": write(tmp_path / "p.json", predictions)}, {"": write(tmp_path / "r.json", references)}
    )
    with pytest.raises(ValueError, match=message):
        BENCHMARKS[name].score_files(files)


def test_oven_files_out_of_order_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [{"data_id": "a", "prediction": "x"}])
    with pytest.raises(RecordError, match="p.jsonl: 'a' has no pred_entity_id; link the answers first"):
        BENCHMARKS["oven"].score_files(
            ScoreFiles({"query": path, "entity": path}, {"query": path, "entity": path})
        )
    with pytest.raises(ValueError, match="--predictions-query FILE; it is missing"):
        BENCHMARKS["oven"].score_files(ScoreFiles({"": path}, {"": path}))
