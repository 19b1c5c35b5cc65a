"""Shapes have the published sizes; random models are complete, frozen and reproducible."""

from __future__ import annotations

import pytest
import torch

from comem.profiling.shapes import SHAPES, random_model

# Whole model and vision tower. 7B: ../shared/reference/authors_code.md 1.6; 3B: the hub's safetensors index.
PUBLISHED = {
    "qwen2_5_vl_7b": (8_292_166_656, 676_550_144),
    "qwen2_vl_7b": (8_291_375_616, 675_759_104),
    "qwen2_5_vl_3b": (3_754_622_976, None),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name: str) -> None:
    model = random_model(SHAPES[name], "meta", torch.bfloat16)
    whole, tower = PUBLISHED[name]
    assert sum(p.numel() for p in model.parameters()) == whole
    assert tower in (None, sum(p.numel() for p in model.model.visual.parameters()))


def test_a_random_model_is_the_same_each_time_and_never_stops() -> None:
    one, two = (random_model(SHAPES["tiny"], "cpu", torch.bfloat16) for _ in range(2))
    for (name, first), second in zip(one.named_parameters(), two.parameters(), strict=True):
        assert torch.equal(first, second), name
        assert first.dtype == torch.bfloat16 and not first.requires_grad and first.isfinite().all()
    rotations = [b for n, b in one.named_buffers() if n.endswith("inv_freq")]
    assert rotations and all(b.dtype == torch.float32 for b in rotations)  # rounded, positions would be wrong
    assert one.generation_config.eos_token_id is None and not one.training


def test_an_unknown_shape_offers_the_nearest() -> None:
    with pytest.raises(ValueError, match="qwen2_5_vl_7b"):
        SHAPES["qwen25_vl_7b"]
