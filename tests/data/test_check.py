"""Every fault of a training file is found, with its line and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from comem.cli import main
from comem.data.check import CheckSettings, check, length_statistics


def record(name: Any, **more: Any) -> dict[str, Any]:
    return {"id": name, "question": "Who built it?", "answer": "Eiffel", "image": "a.png", **more}


def write(folder: Path, *rows: Any) -> Path:
    Image.new("RGB", (8, 8), "red").save(folder / "a.png")
    path = folder / "train.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("row", "field", "said"),
    [
        ("{not json", "", "not JSON"),
        ("[1]", "", "list"),
        ({"question": "a", "answer": "b"}, "id", "no field 'id'"),
        (record("q1"), "id", "there already, on line 1"),
        ({"id": "x", "question": "a"}, "question", "needs 'question'"),
        (record("x", question="<|im_end|>"), "question", "chat markup"),
        (record({"a": 1}), "id", "must be a text"),
        (record("x", language=["fr"]), "language", "must be a text"),
        (record("x", answer=None, answers=[None]), "answer", "must be a text; got None"),
        (record("x", answer={"a": 1}), "answer", "must be a text"),
        (record("x", knowledge=[{"id": "w", "text": ["t"]}]), "knowledge", "is no text"),
        (record("x", image=3), "image", "an image is a path"),
        (record("x", image="gone.png"), "image", "no such image"),
        (record("x", knowledge_ids=["w"]), "knowledge_ids", "no knowledge file"),
        (record("x", knowledge=[{"id": "w"}]), "knowledge", "neither text nor image"),
        (record("x", knowledge=[{"id": "w", "image": "gone.png"}]), "knowledge[0].image", "no such image"),
        ({"id": "x", "conversations": [{"from": "gpt", "value": "a"}]}, "conversations", "alternate"),
    ],
)
def test_a_fault_has_line_field_and_remedy(tmp_path: Path, row: Any, field: str, said: str) -> None:
    found = check(CheckSettings(write(tmp_path, record("q1"), "", row, record("q3"))))
    assert [fault.line for fault in found.faults] == [3]
    fault = found.faults[0]
    assert fault.field == field and said in fault.problem and fault.remedy
    assert found.records == 3 and {"q1", "q3"} <= {example.id for example in found.examples}


def test_counts_and_lengths(tmp_path: Path) -> None:
    items = [{"id": "w1", "text": "abcd"}, {"id": "w2", "text": "ab"}]
    rows = (
        record("1", knowledge=items, language="es", source="infoseek", origin="mine"),
        record("2", knowledge=items[:1], question="Who?"),
    )
    found = check(CheckSettings(str(write(tmp_path, *rows))))  # type: ignore[arg-type]  # text does, too
    counts = found.counts()
    assert counts["languages"] == {"es": 1, "en": 1} and counts["items_a_question"] == {1: 1, 2: 1}
    assert counts["sources"] == {"mine": 1, "": 1}
    assert counts["distinct_items"] == 2 and counts["with_picture"] == 2
    lengths = length_statistics(found.examples, len)
    assert lengths["passages"] == {"count": 2, "mean": 3.0, "median": 4, "p95": 4, "max": 4}
    assert lengths["questions"]["max"] == 13


def test_the_command_and_its_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, record("1", question="<b>Who?"), record("2", image="gone.png"))
    words = ["data", "check", str(path), "--html", str(tmp_path / "page.html"), "--model", "toy"]
    assert main(words) == 1
    shown = capsys.readouterr().out
    assert f"{path}:2: image: " in shown and "tokens in" in shown
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;Who?" in html and "<b>Who?" not in html and "data:image/png" in html
    assert main(["data", "check", str(write(tmp_path, record("1")))]) == 0


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no question"):
        check(CheckSettings(write(tmp_path, "")))
