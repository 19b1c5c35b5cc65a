"""quickstart --all-benchmarks: a step for every row, answers in every mode, and the table at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from comem import modes, quickstart
from comem.benchmarks import BENCHMARKS
from comem.quickstart import FOLDERS, QuickSettings, Workbench, all_outcome, all_steps, run_steps, show
from comem.toy.benchmark_files import FilesSettings


def test_every_row_but_the_embedded_ones_has_a_step(tmp_path: Path) -> None:
    steps = all_steps(QuickSettings(all_benchmarks=True, output=tmp_path), Workbench())
    answered = [step.name.removeprefix("answer_") for step in steps if step.name.startswith("answer_")]
    assert answered == [name for name in BENCHMARKS if name not in ("toy", "flags", "oven")]
    assert len({step.name for step in steps}) == len(steps)
    assert [step.name for step in steps][:3] == ["files", "index", "retrieve"]


class OneWord:
    """Stands for a mode: it answers with one word, and notes what it was given."""

    def __init__(self, name: str, *given: Any, prompt: Any, **more: Any) -> None:
        self.name, self.grounded, self.ask = name, name != "baseline", prompt

    opens_item_pictures = False

    def ahead(self, examples: Any, contexts: Any) -> None: ...

    def answer_batch(self, examples: Any, contexts: Any) -> list[Any]:
        from comem.backbones.base import Answer

        for example, context in zip(examples, contexts, strict=True):
            assert self.ask(example, self.grounded) == example.question, "nothing but the question"
            assert (context is not None and len(context.items) == 3) == self.grounded
            assert all(item.language == example.language for item in (context.items if context else ()))
        return [Answer(example.answers[0], 5, 7, 0.5) for example in examples]


def test_runs_from_files_to_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = {
        name: FOLDERS[name] for name in ("infoseek_es", "oven_entity", "oven_query", "mrag_bench", "cvqa")
    }
    monkeypatch.setattr(quickstart, "FOLDERS", chosen)
    monkeypatch.setattr(modes, "MODES", {"baseline": _build("baseline"), "comem": _build("comem")})
    files = FilesSettings(tmp_path / "data", size=40, questions=3, image_size=56)
    monkeypatch.setattr(QuickSettings, "files", files)
    monkeypatch.setattr(quickstart, "shipped_memory", lambda: tmp_path)
    monkeypatch.setattr(quickstart, "_made_by", dict)
    monkeypatch.setattr(Workbench, "encode", lambda self, encoder, index, output: _tiny_bank(output))
    monkeypatch.setattr(Workbench, "backbone", None)
    bench = Workbench()
    steps = all_steps(QuickSettings(all_benchmarks=True, output=tmp_path), bench)
    run_steps(steps, tmp_path)
    again: list[str] = []
    run_steps(steps, tmp_path, say=again.append)
    assert all(line.endswith("kept from the last run") for line in again) and len(again) == len(steps)
    show(all_outcome(tmp_path), QuickSettings(output=tmp_path))
    results = json.loads((tmp_path / "report" / "report.json").read_text())["results"]
    scores = {
        (each["benchmark"], each["mode"]): {m["metric"]: m["value"] for m in each["measures"]}
        for each in results
    }
    for mode in ("baseline", "comem"):
        assert scores["oven", mode]["final_score"] == 100.0 == scores["oven_entity", mode]["title_match"]
        assert scores["cvqa", mode]["overall"] == scores["infoseek_es", mode]["final_score"] == 100.0
        assert scores["mrag_bench", mode]["overall_named"] == 100.0
        assert scores["mrag_bench", mode]["overall"] == 0.0, "an option's text is no letter"
    assert (tmp_path / "report" / "report.html").is_file() and (tmp_path / "report" / "report.png").is_file()
    shown = capsys.readouterr().out
    assert "mrag_bench" in shown and "0.500" in shown


def _build(name: str) -> Any:
    return lambda *given, **more: OneWord(name, *given, **more)


def _tiny_bank(path: Path) -> None:
    import torch

    from comem.memory.bank import MemoryBank

    MemoryBank(torch.zeros(1, 8, 4), ("x",), "made-up").save(path)
