"""The quickstart from an empty folder to the page, at the smallest size, and again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from comem.cli import main
from comem.quickstart import TOWNS_TITLE, QuickSettings, Row, compare, town_steps
from comem.toy.dataset import DataSettings


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A world of twenty towns and one second of training."""
    sizes = {"size": 20, "train_questions": 32, "test_questions": 6}
    data = property(lambda self: DataSettings(self.folder / "data", **sizes))
    monkeypatch.setattr(QuickSettings, "data", data)
    monkeypatch.setattr(QuickSettings, "train_seconds", property(lambda self: 1.0))


def test_from_nothing_to_the_page_and_again(
    tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["quickstart", "--fast", "--no-flags", "--output", str(tmp_path / "run")]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "comem (fresh)" in shown and f"run folder: {tmp_path / 'run'}" in shown
    numbers = json.loads((tmp_path / "run" / "results.json").read_text())
    rows = {row["label"]: row for row in numbers[TOWNS_TITLE]}
    assert rows["baseline"]["context_tokens"] == 0 and rows["comem (fresh)"]["context_tokens"] == 3 * 8
    assert rows["rag"]["context_tokens"] > 5 * 24 and rows["rag"]["count"] == 4
    page = (tmp_path / "run" / "page.html").read_text(encoding="utf-8")
    assert page.count("<h3>Example") == 3 and (tmp_path / "run" / "figure.png").is_file()

    assert main(words) == 0
    again = capsys.readouterr().out
    assert again.count("kept from the last run") == again.count("] ")


def test_a_folder_without_flags_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quickstart", "--flags", str(tmp_path), "--output", str(tmp_path / "run")]) == 2
    assert "no questions.jsonl" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_comparison_uses_the_better_trained_memory() -> None:
    rows = {
        "baseline": Row("baseline", 0.02, 0, 0.1, 100),
        "rag": Row("rag", 0.9, 240, 0.1, 100, 3),
        "comem_fresh": Row("comem (fresh)", 0.3, 24, 0.1, 100, 3),
    }
    assert "comem (fresh): 33 % of RAG's accuracy with 10.0 times fewer" in compare(rows)
    rows["comem_shipped"] = Row("comem (shipped)", 0.81, 24, 0.1, 100, 3)
    assert "comem (shipped): 90 % of RAG's accuracy" in compare(rows)


def test_steps_name_what_they_depend_on(tmp_path: Path) -> None:
    """Another world, another number of items or another training runs the later steps again."""
    fast = town_steps(QuickSettings(fast=True, output=tmp_path))
    full = town_steps(QuickSettings(output=tmp_path))
    changed = [a.name for a, b in zip(fast, full, strict=True) if a.settings != b.settings]
    assert changed == ["world", "train"]
    json.dumps([dict(step.settings) for step in full])


def test_default_folders_differ() -> None:
    assert len({QuickSettings(fast, every).folder for fast in (True, False) for every in (True, False)}) == 4
