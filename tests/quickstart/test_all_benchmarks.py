"""quickstart --all-benchmarks: a step for every row, answers in every mode, and the table at the end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from comem import modes, quickstart
from comem.benchmarks import BENCHMARKS
from comem.modes.base import Contexts, Mode
from comem.quickstart import FOLDERS, QuickSettings, all_outcome, all_steps, run_steps, show
from comem.registry import Registry
from comem.toy.benchmark_files import FilesSettings
from comem.types import Answer, Example

#: The embedded world's own rows, OVEN's two together, those without a published file, and captions, whose
#: scorer is an extra.
WITHOUT = (
    "toy", "flags", "oven", "own", "llava_video", "longvideobench", "videomme", "mlvu", "nextqa", "egoschema",
    "coco_caption",
)  # fmt: skip


def test_every_row_but_the_embedded_ones_has_a_step(tmp_path: Path) -> None:
    steps = all_steps(QuickSettings(all_benchmarks=True, output=tmp_path))
    answered = [step.name.removeprefix("answer_") for step in steps if step.name.startswith("answer_")]
    assert answered == [name for name in BENCHMARKS if name not in WITHOUT]
    assert len({step.name for step in steps}) == len(steps)
    assert [step.name for step in steps][:2] == ["files", "index"]


class OneWord(Mode):
    """Answers with one word, and checks what it was given."""

    def answer_batch(self, examples: Sequence[Example], contexts: Contexts) -> list[Answer]:
        for example, context in zip(examples, contexts, strict=True):
            asked = self.settings.ask(example, self.grounded)
            assert asked == example.question, "nothing but the question"
            assert (context is not None and len(context.items) == 3) == self.grounded
            assert all(item.language == example.language for item in (context.items if context else ()))
        return [Answer(example.answers[0], 5, 7, 0.5) for example in examples]


class Ungrounded(OneWord):
    name, grounded = "baseline", False


class Grounded(OneWord):
    name = "comem"


def test_runs_from_files_to_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = {
        name: FOLDERS[name] for name in ("infoseek_es", "oven_entity", "oven_query", "mrag_bench", "cvqa")
    }
    monkeypatch.setattr(quickstart, "FOLDERS", chosen)
    rows = {"baseline": Ungrounded, "comem": Grounded}
    monkeypatch.setattr(modes, "MODES", Registry("mode", rows))
    files = FilesSettings(tmp_path / "data", size=40, questions=3, image_size=56)
    monkeypatch.setattr(QuickSettings, "files", files)
    monkeypatch.setattr(quickstart, "shipped_memory", lambda: tmp_path)
    monkeypatch.setattr(quickstart, "_made_by", dict)
    monkeypatch.setattr(quickstart, "encode", lambda encoder, index, output, progress: _tiny_bank(output))
    steps = all_steps(QuickSettings(all_benchmarks=True, output=tmp_path))
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


def _tiny_bank(path: Path) -> None:
    import torch

    from comem.memory.bank import MemoryBank

    MemoryBank(torch.zeros(1, 8, 4), ("x",), "made-up").save(path)
