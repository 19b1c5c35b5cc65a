"""Right answers become training records: on the embedded world's questions, with a stand-in for the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from comem.benchmarks import BENCHMARKS
from comem.data.synthesis import Rules, candidates, keep_right
from comem.eval.answering import answer
from comem.toy.dataset import DataSettings
from comem.toy.dataset import build as build_world
from comem.training.data import load_examples
from comem.types import Answer, Example, KnowledgeItem, RetrievedContext

TOY = BENCHMARKS["toy"]


class Reader:
    """Right about the first question and every later one but two: one wrong, one empty, one that fails."""

    name = "rag"
    opens_item_images = False

    def ahead(self, examples: Sequence[Example], contexts: Sequence[RetrievedContext | None]) -> None: ...

    def __init__(self) -> None:
        self.asked: list[str] = []

    def answer_batch(
        self, examples: Sequence[Example], contexts: Sequence[RetrievedContext | None]
    ) -> list[Answer]:
        self.asked += [example.id for example in examples]
        texts = {1: "no such thing", 2: ""}
        if any(int(example.meta["at"]) == 3 for example in examples):
            raise ValueError("a picture does not open")
        return [Answer(texts.get(int(each.meta["at"]), each.answers[0])) for each in examples]


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    folder = tmp_path_factory.mktemp("world")
    build_world(DataSettings(folder, size=10, train_questions=8, test_questions=2, image_size=32))
    loaded = list(TOY.load(folder / "train.jsonl"))
    assert len(loaded) >= 7
    for at, example in enumerate(loaded):
        example.meta["at"] = at  # type: ignore[index]
    return loaded


def found(examples: Sequence[Example]) -> dict[str, RetrievedContext]:
    """Two items for each question but the fifth, which has one."""
    item = [KnowledgeItem(f"w{n}", f"passage {n}", None, "wit", "es") for n in range(2)]
    return {
        each.id: RetrievedContext(each.id, tuple(item[: 1 if each.meta["at"] == 4 else 2]))
        for each in examples
    }


def synthesise(examples: Sequence[Example], folder: Path, **rules: Any) -> dict[str, Any]:
    run = answer(TOY, examples, Reader(), found(examples), folder / "run", batch_size=1)
    answers = {name: answered.text for name, answered in run.answers.items()}
    kept = Rules(min_items=2, **rules)
    return keep_right(TOY, examples, found(examples), answers, folder, kept, {"prompt": "short"})


def test_what_is_right_is_kept_and_the_rest_counted(examples: list[Example], tmp_path: Path) -> None:
    manifest = synthesise(examples, tmp_path)
    dropped = {"empty answer": 1, "not answered": 1, "too few items": 1, "wrong": 1}
    assert manifest["dropped"] == dropped and manifest["prompt"] == "short"
    assert manifest["kept"] + sum(dropped.values()) == manifest["candidates"] == len(examples)
    kept = load_examples(tmp_path / "train.jsonl")
    assert [each.id for each in kept] == [examples[0].id, *(each.id for each in examples[5:])]
    first = kept[0]
    assert first.turns == ((examples[0].question, examples[0].answers[0]),)
    assert [(item.id, item.language) for item in first.items] == [("w0", "es"), ("w1", "es")]
    assert Path(str(first.images[0].path)).resolve() == Path(str(examples[0].image)).resolve()
    assert json.loads((tmp_path / "manifest.json").read_text())["mixture"]["benchmark"] == {"toy": len(kept)}


def test_interrupted_and_resumed_gives_the_same_file(examples: list[Example], tmp_path: Path) -> None:
    synthesise(examples, tmp_path / "whole")
    first = Reader()
    half = tmp_path / "half"
    answer(TOY, examples, first, found(examples), half / "run", batch_size=1, limit=3)
    synthesise(examples, half)
    names = [tmp_path / name / "train.jsonl" for name in ("whole", "half")]
    assert len(first.asked) == 3 and names[0].read_bytes() == names[1].read_bytes()


def test_target_and_candidates_are_drawn_by_the_seed(examples: list[Example], tmp_path: Path) -> None:
    manifest = synthesise(examples, tmp_path, target=2, seed=1)
    assert manifest["kept"] == 2 and manifest["dropped"]["beyond the target"] == len(examples) - 4 - 2
    drawn = candidates(examples, 4, seed=3)
    again = candidates(examples[::-1], 4, seed=3)
    assert len(drawn) == 4 and {each.id for each in drawn} == {each.id for each in again}
    assert {each.id for each in drawn} != {each.id for each in candidates(examples, 4, seed=4)}


def test_nothing_right_is_said(examples: list[Example], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none of 2 answers is kept: .*'wrong': 1"):
        synthesise(examples[1:3], tmp_path)


@pytest.mark.parametrize("rules", [{"min_score": 0}, {"min_score": 2}, {"target": 0}, {"min_items": -1}])
def test_rules_are_checked(rules: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"min_score|target"):
        Rules(**rules)
