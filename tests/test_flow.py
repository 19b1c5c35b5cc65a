"""How many of our modules one question passes: the way of an example stays short enough to be told."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import comem
from comem.cli import main
from comem.engine.engine import fast
from comem.toy.draw import image_of
from comem.toy.world import World

PACKAGE = str(Path(comem.__file__).parent)


def modules_entered(work: Callable[[], object]) -> set[str]:
    """Files of the package whose functions run in this thread during `work`."""
    seen: set[str] = set()

    def watch(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE) and code.co_name != "<module>":
            seen.add(code.co_filename)

    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(None)
    return seen


def test_an_answer_enters_at_most_twenty_modules() -> None:
    town = World().split("test")[0]
    item = comem.KnowledgeItem(town.id, f"{town.name}: {town.passage()}", image_of(town, view=0))
    question = comem.Example("q", "What are the walls of this town made of?", image_of(town, view=1))
    backbone = fast(comem.load_backbone("toy"))
    mode = comem.MODES["comem"](backbone, comem.ModeSettings(encoder=comem.load_encoder("toy", backbone)))
    contexts = [comem.RetrievedContext("q", (item,))]
    entered = modules_entered(lambda: mode.answer_batch([question], contexts))
    assert 5 < len(entered) <= 20, sorted(entered)


def test_a_question_through_predict_enters_at_most_forty_five_modules(tmp_path: Path) -> None:
    def run(*words: object) -> int:
        return main([str(word) for word in words])

    toy, index, bank = tmp_path / "toy", tmp_path / "index", tmp_path / "bank"
    run("toy", "build", toy, "--size", 12, "--languages", "en")
    run("index", "build", "--corpus", toy / "wit.tsv.gz", "--embedder", "toy", "--output", index)
    run("bank", "build", "--encoder", "toy", "--index", index, "--output", bank)
    words = [
        "predict",
        "--benchmark",
        "toy",
        "--data",
        toy / "test.jsonl",
        "--mode",
        "comem",
        "--encoder",
        "toy",
    ]
    words += [
        "--encoder",
        "toy",
        "--bank",
        bank,
        "--index",
        index,
        "-k",
        3,
        "--limit",
        1,
        "--output",
        tmp_path / "run",
    ]
    entered = modules_entered(lambda: run(*words))
    assert 20 < len(entered) <= 45, sorted(entered)
