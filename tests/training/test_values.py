"""What counts in an answer: its value in full, its wording in part; and stages of numbers of vectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from comem.backbones.base import ChatProcessor
from comem.backbones.specs import resolve_backbone
from comem.memory.settings import QFormerSettings
from comem.training.data import Lessons, load_examples
from comem.training.labels import value_weights
from comem.training.model import summed_cross_entropy
from comem.training.run import train
from comem.training.settings import OptimSettings, TrainSettings
from comem.types import Message


def chats(answers: list[str]) -> list[list[Message]]:
    return [[Message("user", ("How high?",)), Message("assistant", (answer,))] for answer in answers]


def test_value_counts_one_wording_less_what_follows_the_turn_nothing(
    tiny_processor: Any, tiny_backbone_folder: Path
) -> None:
    process = ChatProcessor(resolve_backbone(tiny_backbone_folder), tiny_processor)
    said = chats(["It is 46 m.", "46 of 46.", "No."])
    ids = process(said, add_generation_prompt=False)["input_ids"]
    weights = value_weights(process, said, ids, [("46",), ("46",), ()], 0.25)
    tokens = tiny_processor.tokenizer
    for row, whole in enumerate(("It is 46 m.", "46 of 46.")):  # one token a letter; the last 46 is meant
        end = (ids[row] == tokens.convert_tokens_to_ids("<|im_end|>")).nonzero()[-1]
        letters = weights[row, end - len(whole) : end].tolist()
        assert letters == [1.0 if 6 <= n < 8 else 0.25 for n in range(len(whole))]
        assert float(weights[row, end]) == 0.25 and float(weights[row, -1]) == 0.0
    assert bool((weights[2] == 1.0).all())


def test_weighted_loss_is_the_sum_over_tokens_in_chunks_too() -> None:
    head, hidden, targets = torch.nn.Linear(8, 20), torch.randn(7, 8), torch.randint(0, 20, (7,))
    weights = torch.rand(7)
    each = torch.nn.functional.cross_entropy(head(hidden), targets, reduction="none")
    for chunk in (0, 3):
        found = summed_cross_entropy(head, hidden, targets, chunk, weights)
        assert torch.allclose(found, (each * weights).sum(), atol=1e-5)


def test_a_value_must_stand_in_its_answer(tmp_path: Path) -> None:
    row = {"id": "q", "question": "How high?", "answer": "It is 46 m.", "value": "47"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    with pytest.raises(ValueError, match="'47' does not stand"):
        load_examples(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text(json.dumps({**row, "value": 46}))
    assert load_examples(tmp_path / "b.jsonl")[0].values == ("46",)


def test_stages_of_vectors() -> None:
    lessons = Lessons(TrainSettings(vectors=("0:32", "10:8|4")), [])
    assert {lessons.vectors(step) for step in range(10)} == {32}
    assert {lessons.vectors(step) for step in range(10, 40)} == {8, 4}
    assert (
        Lessons(TrainSettings(), []).vectors(5)
        == 0
        == Lessons(TrainSettings(vectors=("3:8",)), []).vectors(2)
    )
    with pytest.raises(ValueError, match="STEP:COUNT"):
        TrainSettings(vectors=("0-32",))


def test_trains_resumes_and_says_what_it_learned(
    settings: Callable[..., TrainSettings], tmp_path: Path, train_file: Path
) -> None:
    """Stretches, Muon, stages, weights, a system turn, the infix: one run equals one in parts, and learns."""
    rows = [json.loads(line) for line in train_file.read_text().splitlines()]
    for row in rows:
        row |= {"answer": f"It is {row['answer']}.", "value": row["answer"]}
    train_file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    own: dict[str, Any] = {
        "encoder": "stretches", "injection": "in_turn", "vectors": ("0:8", "4:4"), "system": "Be brief.",
        "wording_weight": 0.3, "qformer": QFormerSettings(num_queries=4, depth=1, heads=4, layers=1),
        "optim": OptimSettings(lr=5e-3, muon_lr=0.02, schedule="wsd"), "eval_data": str(train_file),
    }  # fmt: skip
    whole = train(settings(**own, epochs=12.0, output=str(tmp_path / "whole")))
    losses = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in losses if "loss" in row]
    assert losses[-1] < 0.8 * losses[0]
    assert set(whole.metrics) == {"eval_loss", "eval_accuracy", "eval_examples"}
    cut = settings(**own, epochs=12.0, output=str(tmp_path / "cut"))
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 7)
        with pytest.raises(KeyboardInterrupt):
            train(cut)
    train(cut)
    again = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in again if "loss" in row] == pytest.approx(losses, rel=1e-6)


def stop_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    """A run that dies after so many steps."""
    from comem.training.trainer import Trainer

    real, done = Trainer._step, []

    def step(self: Trainer, *args: Any) -> dict[str, float]:
        done.append(1)
        if len(done) > steps:
            raise KeyboardInterrupt
        return real(self, *args)

    patch.setattr(Trainer, "_step", step)


def test_stages_need_an_encoder_that_writes_any_number(settings: Callable[..., TrainSettings]) -> None:
    with pytest.raises(ValueError, match="encoder=stretches"):
        train(settings(vectors=("0:8",)))
