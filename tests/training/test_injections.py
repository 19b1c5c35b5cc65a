"""Training with another injection than the prefix: the same gradients, whether it packs or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from comem.memory.injection import INJECTIONS, Prefix
from comem.training.collator import Collator
from comem.training.data import TrainingExample
from comem.training.model import MemoryTrainingModel
from comem.training.run import train
from comem.training.settings import TrainSettings


@dataclass(frozen=True)
class SecondFromFront(Prefix):
    """An infix: behind each row's first token."""

    packing: bool = True

    @property
    def packs(self) -> bool:  # type: ignore[override]
        return self.packing

    def starts(self, ids: Tensor, mask: Tensor) -> Sequence[int]:  # type: ignore[override]
        return [start + 1 for start in super().starts(ids, mask)]


def test_an_infix_packed_is_the_infix_padded(
    training_model: MemoryTrainingModel, collator: Collator, example: Callable[..., TrainingExample]
) -> None:
    batch = collator([example("a", 2), example("bbbbb", 0, image=True), example("cc", 1)])
    plain, found = training_model(batch)[0], []
    for packing in (True, False):
        training_model.injection = SecondFromFront(packing=packing)
        training_model.zero_grad()
        loss, _ = training_model(batch)
        loss.backward()
        found.append([loss, *(p.grad for p in training_model.encoder.trainable_parameters())])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
    assert abs(float((found[0][0] - plain).detach())) > 1e-6  # it stands elsewhere


def test_a_run_with_an_injection_of_ones_own(
    settings: Callable[..., TrainSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(INJECTIONS, "_rows", dict(INJECTIONS._rows))
    INJECTIONS.register("second", lambda backbone, encoder: SecondFromFront())
    result = train(settings(output=str(tmp_path / "run"), injection="second", max_steps=2))
    assert result.steps == 2 and "injection: second" in (tmp_path / "run" / "config.yaml").read_text()
    with pytest.raises(ValueError, match="keys_values takes no vectors"):
        train(settings(output=str(tmp_path / "other"), injection="keys_values", max_steps=2))
