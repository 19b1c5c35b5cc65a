"""Run folder to encoder folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from comem.memory.encoder import MemoryEncoder
from comem.training.build import build_encoder
from comem.training.dataset import load_examples
from comem.training.merge import merge_run
from comem.training.run import train
from comem.training.settings import TrainSettings

Make = Callable[..., TrainSettings]


def test_merged_and_adapter_memory_equal_the_run(settings: Make, tmp_path: Path) -> None:
    from comem.backbones.hf import load_backbone

    result = train(settings(max_steps=3))
    items = [example.items[0] for example in load_examples(settings().data)]
    trained = build_encoder(settings(), load_backbone(settings().model), result.checkpoint)
    expected = trained.encode(items).embeddings
    merge_run(result.folder, tmp_path / "merged")
    merge_run(result.folder, tmp_path / "adapter", adapter=True)
    for name in ("merged", "adapter"):
        memory = MemoryEncoder.load(tmp_path / name).encode(items).embeddings
        torch.testing.assert_close(memory, expected, atol=1e-5, rtol=0)
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    with pytest.raises(ValueError, match="not empty"):
        merge_run(result.folder, tmp_path / "merged")


def test_nothing_to_merge(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run folder"):
        merge_run(tmp_path, tmp_path / "out")
