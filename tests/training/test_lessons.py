"""Elastic memory, wrong items: what is drawn, and that it needs no state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from comem.config import ConfigError, load_config
from comem.memory.bank import read_tensors
from comem.memory.qformer_encoder import read_folder
from comem.training.collator import Collator
from comem.training.data import Lessons, TrainingExample
from comem.training.model import MemoryTrainingModel
from comem.training.run import train
from comem.training.schedule import Order, Steps
from comem.training.settings import TrainSettings
from comem.types import ImageRef, KnowledgeItem

Make = Callable[..., TrainingExample]


@pytest.fixture()
def examples() -> list[TrainingExample]:
    """Forty questions with three items each, all of which show and say something else."""
    return [
        TrainingExample(f"q{n}", (("?", "yes"),), (), tuple(item(f"q{n}i{i}") for i in range(3)))
        for n in range(40)
    ]


def item(name: str, text: str = "", picture: str = "") -> KnowledgeItem:
    return KnowledgeItem(name, text or f"about {name}", ImageRef(path=picture or f"{name}.png"))


def lessons(examples: list[TrainingExample], **options: Any) -> Lessons:
    return Lessons(TrainSettings(seed=3, **{"max_items": 7, **options}), examples)


def test_nothing_is_drawn_by_default(examples: list[TrainingExample]) -> None:
    draw = lessons(examples)
    assert [draw(step, example) for step, example in enumerate(examples)] == examples
    assert draw.pool == ()


def test_elastic_draws_each_number_alike(examples: list[TrainingExample]) -> None:
    draw = lessons(examples, elastic=(1, 2, 4, 8))
    drawn = [draw(step, example).lesson.embeddings for step in range(25) for example in examples]
    assert all(190 < drawn.count(number) < 310 for number in (1, 2, 4, 8))  # 250 expected, σ = 14


def test_shares_of_the_questions(examples: list[TrainingExample]) -> None:
    draw = lessons(examples, wrong_items=0.25)
    taught = [(draw(step, example), example) for step in range(25) for example in examples]
    wrong = [(t, example) for t, example in taught if t.lesson.plain]
    assert 200 < len(wrong) < 300  # 250 expected
    assert all(len(t.items) == 3 and not set(t.items) & set(example.items) for t, example in wrong)
    assert all(t.items == example.items for t, example in taught if not t.lesson.plain)


def test_what_shares_a_picture_or_a_text_is_no_wrong_item(examples: list[TrainingExample]) -> None:
    own = (item("a", "same text", "same.png"),)
    near = (item("b", "same text"), item("c", "", "same.png"), item("a"))
    pool = [TrainingExample("q", (("?", "yes"),), (), own), TrainingExample("r", (("?", "no"),), (), near)]
    draw = lessons(pool, wrong_items=1.0)
    assert draw(0, pool[0]) == pool[0]  # nothing to draw: taught as it stands
    assert draw(0, pool[1]).items  # for the other question the first one's item differs from all but its own


def test_a_question_without_items_is_left_alone() -> None:
    example = TrainingExample("q", (("?", "yes"),))
    draw = lessons([example], elastic=(1,), wrong_items=1.0)
    assert draw(0, example) == example


def test_draws_depend_on_seed_step_and_question_only(examples: list[TrainingExample]) -> None:
    options = {"elastic": (1, 8), "wrong_items": 0.4}
    first, again = lessons(examples, **options), lessons(examples, **options)
    forward = {(s, e.id): first(s, e) for s in range(4) for e in examples}
    backward = {(s, e.id): again(s, e) for s in reversed(range(4)) for e in reversed(examples)}
    assert forward == backward
    assert len({forward[s, "q0"] for s in range(4)}) > 1


def test_processes_draw_what_one_process_draws(
    collator: Collator, example: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The micro-batches of two processes together are those of one."""
    examples = [example(f"q{n}", 2) for n in range(8)]
    draw = lessons(examples, elastic=(1, 2, 4), wrong_items=0.5)
    order = Order(8, 4, seed=0)

    def rows(rank: int, world: int) -> dict[str, tuple[int, int]]:
        found = {}
        for step in range(2):
            for batch in Steps(examples, order, collator, 0, rank, world, draw)[step]:
                for name, count, items in zip(batch.ids, batch.embeddings, batch.rows, strict=True):
                    found[f"{step}/{name}"] = (count, len(items))
        return found

    assert rows(0, 2) | rows(1, 2) == rows(0, 1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["elastic=[1, 9]"], r"elastic=\[1, 9\]: give numbers from 1 to 8"),
        (["elastic=[0]"], "from 1 to 8"),
        (["wrong_items=1.2"], "wrong_items=1.2: give a share"),
        (["wrong_items=-0.1"], "from 0 to 1"),
    ],
)
def test_bad_settings_are_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(TrainSettings, None, overrides)


def test_a_resumed_run_equals_an_undisturbed_one(
    settings: Callable[..., TrainSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every option on, stopped in the fourth of four steps and started again: the same weights to the bit."""
    options: dict[str, Any] = {
        "elastic": (1, 2, 4), "max_items": 3, "save_every": 2,
        "max_steps": 4,
        "wrong_items": 0.4,
    }  # fmt: skip
    whole = train(settings(output=str(tmp_path / "whole"), **options))

    def stop(self: MemoryTrainingModel, batch: Any, forward: Any = MemoryTrainingModel.forward) -> Any:
        if len(calls) == 3:  # one micro-batch a step
            raise KeyboardInterrupt
        calls.append(1)
        return forward(self, batch)

    calls: list[int] = []
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(MemoryTrainingModel, "forward", stop)
        train(settings(output=str(tmp_path / "parts"), **options))
    parts = train(settings(output=str(tmp_path / "parts"), **options))
    assert parts.steps == whole.steps == 4
    for name in ("adapter.safetensors", "qformer.safetensors"):
        first, second = read_tensors(whole.checkpoint / name), read_tensors(parts.checkpoint / name)
        assert all(first[key].equal(second[key]) for key in first)
    assert read_folder(whole.checkpoint)[0]["elastic"] == [1, 2, 4]


def test_an_elastic_run_may_start_from_a_memory_that_is_not(
    settings: Callable[..., TrainSettings], tmp_path: Path
) -> None:
    first = train(settings(output=str(tmp_path / "a"), max_steps=1))
    assert read_folder(first.checkpoint)[0]["elastic"] == []
    second = train(
        replace(settings(output=str(tmp_path / "b"), max_steps=1), init=str(first.checkpoint), elastic=(1, 4))
    )
    assert read_folder(second.checkpoint)[0]["elastic"] == [1, 4]
