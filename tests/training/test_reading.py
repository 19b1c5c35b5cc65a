"""Packed questions against padded ones: the same states, tokens and rows, and nothing computed on padding."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from comem.backbones.prepared import Prepared
from comem.memory.injection import PREFIX, Prefix
from comem.memory.lora import adapters_off
from comem.training.collator import Collator
from comem.training.data import TrainingExample
from comem.training.model import MemoryTrainingModel, answer_states

Make = Callable[..., TrainingExample]


@pytest.mark.parametrize("injection", [PREFIX, Prefix((280,))])
def test_packed_is_padded(
    training_model: MemoryTrainingModel,
    collator: Collator,
    example: Make,
    injection: Prefix,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    examples = [
        example("a", 3),
        example("bbbbbbbb", 0, image=True),
        example("cc", 1, image=True, answer="no"),
    ]
    batch = collator(examples)
    reader = training_model.reader
    lengths: list[int] = []
    reader.model.language_model.layers[0].register_forward_pre_hook(
        lambda _, words: lengths.append(words[0].shape[:2].numel())
    )
    found = []
    for packs in (True, False):
        with torch.no_grad(), adapters_off(reader), monkeypatch.context() as patch:
            prefixes = training_model.prefixes(batch.items, batch.rows)
            patch.setattr(Prepared, "packs", packs)
            found.append(answer_states(training_model.prepared, batch.question, prefixes, injection))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    assert found[0][2].unique().tolist() == [0, 1, 2]
    real = int(batch.question["attention_mask"].sum()) + 4 * training_model.encoder.qformer.config.num_queries
    assert lengths[1] == real < lengths[3]  # each time the encoder's pass first


def test_a_tiny_model_packs(training_model: MemoryTrainingModel) -> None:
    assert training_model.prepared.packs
