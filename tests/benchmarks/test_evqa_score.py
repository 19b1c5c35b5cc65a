"""Encyclopedic-VQA's exact match: cases as data, and its published CSV through the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from comem.benchmarks import evqa
from comem.cli import main
from comem.io.files import RecordError

HEADER = "question,answer,dataset_image_ids,dataset_name,question_type,encyclopedic_vqa_split\n"


@pytest.mark.parametrize(
    ("prediction", "answer", "kind", "right"),
    [
        ("The Menger family.", "the Menger family", "automatic", True),
        ("two", "2", "templated", True),
        ("None", "0", "templated", True),  # as officially
        ("the answer is: 1889", "1889", "templated", True),
        ("dont", "don't", "templated", True),
        ("", "1889", "templated", False),
        ("a", "the", "templated", False),  # both are empty once processed
        ("1889", "1888|1889", "templated", True),
        ("insects, birds and mice", "Birds && insects", "multi_answer", True),  # 2 of 3
        ("insects & fish", "birds&&insects", "multi_answer", False),  # 1 of 3
        ("insects and birds", "birds&&insects", "templated", False),  # no list
        ("worms", "birds&&insects|worms&&ants", "multi_answer", True),  # 1 of 2
    ],
)
def test_exact_match(prediction: str, answer: str, kind: str, right: bool) -> None:
    answers = evqa.accepted({"answer": answer}, "q")
    assert evqa.is_right(prediction, answers, kind == "multi_answer") is right


def test_the_command_reads_the_published_file(tmp_path: Path) -> None:
    (tmp_path / "val.csv").write_text(
        HEADER
        + 'Why?,"because, so|for",1|2,inaturalist,automatic,val\nWho?,x&&y,3,landmarks,multi_answer,val\n'
        "When?,1889,4,landmarks,templated,val\n"
    )
    said = {"evqa_val_0000000": "For", "evqa_val_0000001": "z"}
    lines = [json.dumps({"data_id": name, "prediction": text}) + "\n" for name, text in said.items()]
    (tmp_path / "said.jsonl").write_text("".join(lines))
    files = ["--predictions", str(tmp_path / "said.jsonl"), "--references", str(tmp_path / "val.csv")]
    assert main(["evaluate", "evqa", *files, "--output", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["exact_match"] == 50.0 and report["exact_match_missing_wrong"] == pytest.approx(100 / 3)
    assert report["by_question_type"] == {"automatic": 100.0, "multi_answer": 0.0}
    assert "BEM" in report["notes"][0] and report["answered"] == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("question,answer\nWhy?,so\n", r"x\.csv:1: no column question_type, dataset_name"),
        (HEADER + "Why?,so,1\n", r"x\.csv:2: not as many fields as columns"),
        (HEADER + 'Why?,"so\n', "not a CSV file in UTF-8"),
    ],
)
def test_another_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(RecordError, match=message):
        list(evqa.read_csv(tmp_path / "x.csv"))
    with pytest.raises(RecordError, match="no such file"):
        list(evqa.read_csv(tmp_path / "y.csv"))
    with pytest.raises(RecordError, match="question 'q' has no answer"):
        evqa.accepted({"answer": " | "}, "q")
