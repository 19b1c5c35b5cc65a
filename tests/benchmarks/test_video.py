"""Letters in free text: what each generation of rules makes of it, and the five benchmarks' files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from comem.benchmarks import BENCHMARKS
from comem.benchmarks.scoring import ScoreFiles
from comem.benchmarks.video import RULES
from comem.cli import run_command
from comem.io.files import RecordError

OPTIONS = ("a red car", "a dog", "nothing", "two men", "rain")


@pytest.mark.parametrize(
    ("answer", "first", "bracket", "forms", "earliest", "priority"),
    [
        ("B", "B", "B", "B", "B", "B"),
        ("B.", "B", "", "B", "B", "B"),
        ("(B) a dog", "B", "B", "B", "B", "B"),
        ("The answer is C", "C", "", "C", "C", "C"),
        ("Answer: C", "A", "", "C", "C", "C"),
        ("The best answer is (D).", "D", "D", "D", "D", "D"),
        ("I first thought (A), but the answer is B", "A", "A", "A", "A", "B"),
        ("A is wrong and (B) is right", "A", "B", "B", "A", "A"),
        ("what one sees there is a dog", "", "", "B", "B", ""),
        ("", "", "", "", "", ""),
        ("no idea", "", "", "", "", ""),
    ],
)
def test_rules(answer: str, first: str, bracket: str, forms: str, earliest: str, priority: str) -> None:
    """Equal to lmms-eval's own functions on random answers, too: tests/lmms/test_videos.py."""
    names = ("first_letter", "before_bracket", "last_of_forms", "first_of_forms", "by_priority")
    found = [RULES[name](answer, "ABCDE", OPTIONS) for name in names]
    assert found == [first, bracket, forms, earliest, priority]


def mme(number: int, right: str) -> dict[str, Any]:
    options = [f"{letter}. {text}" for letter, text in zip("ABCD", OPTIONS, strict=False)]
    return {
        "question_id": f"{number}", "videoID": f"v{number}", "question": "What?", "options": options,
        "answer": right, "duration": "short",
    }  # fmt: skip


def files(folder: Path, rows: list[dict[str, Any]], said: list[str], key: str) -> ScoreFiles:
    references, predictions = folder / "rows.jsonl", folder / "said.jsonl"
    references.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [{"id": row[key], "prediction": text} for row, text in zip(rows, said, strict=True)]
    predictions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return ScoreFiles({"": predictions}, {"": references})


def test_what_has_no_letter_is_counted_apart(tmp_path: Path) -> None:
    rows = [mme(0, "A"), mme(1, "B"), mme(2, "B"), mme(3, "C")]
    given = files(tmp_path, rows, ["A", "hm", "C", "Answer: C"], "question_id")
    row = BENCHMARKS["videomme"]
    assert list(row.scorers) == ["official", "2025", "shared", "drawn"]
    found = {name: row.score_files(given, name).metrics for name in row.scorers}
    assert [found[name]["accuracy"] for name in found] == [50.0, 25.0, 50.0, 50.0]
    assert [found[name]["unparsed"] for name in found] == [1, 1, 1, 1]
    assert [found[name]["rule"] for name in found] == ["by_priority", "first_letter", *["by_priority"] * 2]
    lines = [{"id": f"{n}", "prediction": "hm"} for n in range(4)]
    given.predictions[""].write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert row.score_files(given).metrics["accuracy"] == 0
    assert row.score_files(given, "drawn").metrics["accuracy"] > 0


def test_mlvu_is_a_mean_of_tasks(tmp_path: Path) -> None:
    kinds = (("ego", "A"), ("count", "B"), ("count", "B"))
    rows = [
        {"question_id": f"{n}", "video_name": "a.mp4", "question": "?", "answer": right, "task_type": kind}
        for n, (kind, right) in enumerate(kinds)
    ]
    found = BENCHMARKS["mlvu"].score_files(files(tmp_path, rows, ["A", "A", "A"], "question_id"), "2025")
    assert found.metrics["mean_of_tasks"] == 50
    assert found.metrics["accuracy"] == pytest.approx(100 / 3)


def test_the_command_scores_a_log_of_lmms_eval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "samples_videomme.jsonl"
    lines = [
        {"doc_id": n, "doc": mme(n, "B"), "filtered_resps": [text]} for n, text in enumerate(["B", "A", "?"])
    ]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["videomme", f"--predictions={log}", "--scorer=2025", f"--output={tmp_path / 'out.json'}"]
    assert run_command("evaluate", words) == 0
    assert "first_letter" in capsys.readouterr().out
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["accuracy"] == pytest.approx(100 / 3) and found["unparsed"] == 1
    assert found["by_group"] if "by_group" in found else found["answered"] == 3


def test_files_that_cannot_be_scored_are_named(tmp_path: Path) -> None:
    row = BENCHMARKS["egoschema"]
    asked = {"question_idx": "1", "video_idx": "v", "question": "?", "option": list(OPTIONS), "answer": ""}
    with pytest.raises(ValueError, match="'1' has no answer; are these the questions without labels"):
        row.score_files(files(tmp_path, [asked], ["A"], "question_idx"))
    del asked["option"]
    with pytest.raises(ValueError, match=r"rows.jsonl: record 1: no field 'option'"):
        row.score_files(files(tmp_path, [asked], ["A"], "question_idx"))
    with pytest.raises(ValueError, match="unknown scorer '2024'"):
        row.score_files(files(tmp_path, [asked], ["A"], "question_idx"), "2024")
    log = tmp_path / "log.jsonl"
    log.write_text(json.dumps({"doc_id": 0, "filtered_resps": ["A"]}) + "\n")
    with pytest.raises(ValueError, match="without doc"):
        row.score_files(ScoreFiles({"": log}, {}))


def test_questions_are_asked_about_their_videos(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(mme(n, "A")) + "\n" for n in range(2)))
    (tmp_path / "videos/data").mkdir(parents=True)
    (tmp_path / "videos/data/v1.mp4").write_bytes(b"")
    first, second = BENCHMARKS["videomme"].load(source, image_folder=tmp_path / "videos")
    assert str(first.video) == str(tmp_path / "videos/v0.mp4")  # missing: found out when it is opened
    assert str(second.video) == str(tmp_path / "videos/data/v1.mp4")
    asked = BENCHMARKS["videomme"].ask(first, False)
    assert asked.startswith("Select the best answer") and "\nB. a dog\n" in asked
    source.write_text(source.read_text() + json.dumps(mme(1, "A")) + "\n")
    outside = tmp_path / "outside.jsonl"
    outside.write_text(json.dumps(mme(0, "A") | {"videoID": "../../secret"}) + "\n")
    with pytest.raises(RecordError, match="'../../secret' lies outside the folder of videos"):
        list(BENCHMARKS["videomme"].load(outside))
    with pytest.raises(RecordError, match="record 3: the id '1' again"):
        list(BENCHMARKS["videomme"].load(source))
