"""Counted operations against torch's own counter, forward and backward."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import build_tiny_qwen2, build_tiny_qwen2_5_vl, build_tiny_qwen2_vl, token_id
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from comem.backbones.flops import Flops, decoder, linear, output_layer, vision_tower
from comem.memory.lora import LoraSettings
from comem.memory.qformer import QFormer, QFormerConfig
from comem.memory.qformer_encoder import QFormerEncoder

RANK = 4


@pytest.fixture(params=[build_tiny_qwen2_5_vl, build_tiny_qwen2_vl])
def model(request: pytest.FixtureRequest) -> Any:
    model = request.param(layers=4).requires_grad_(False)
    model.set_attn_implementation("eager")  # torch does not count its own attention kernel on the CPU
    return model


def counted(action: Any) -> float:
    with FlopCounterMode(display=False) as counter:
        action()
    return float(counter.get_total_flops())


def picture(grid: list[int], tokens: int) -> dict[str, torch.Tensor]:
    """Inputs of `tokens` positions, a picture of that grid among them."""
    cells = grid[1] * grid[2] // 4
    ids = torch.full((1, tokens), 65)
    ids[:, 2 : 2 + cells] = token_id("<|image_pad|>")
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == token_id("<|image_pad|>")).int(),
        "pixel_values": torch.randn(grid[1] * grid[2], 3 * 2 * 14 * 14),
        "image_grid_thw": torch.tensor([grid]),
    }


@pytest.mark.parametrize("grid", [[1, 12, 20], [1, 16, 16]])  # windows cut at the edge, and whole ones
def test_a_forward_pass(model: Any, grid: list[int]) -> None:
    """Vision tower (windows in Qwen2.5-VL, none in Qwen2-VL), decoder, output layer."""
    inputs, tokens = picture(grid, 90), 90
    text, vision = model.config.get_text_config(), model.config.vision_config
    expected = decoder(text, tokens) + output_layer(text, tokens) + vision_tower(vision, grid)
    with torch.no_grad():
        assert counted(lambda: model(**inputs)) == pytest.approx(expected.forward, rel=0.02)


def test_training_an_encoder(model: Any) -> None:
    """LoRA and Q-Former trained, the rest frozen: forward and backward of one item."""
    config = QFormerConfig(64, num_queries=4, depth=3, heads=4)
    encoder = QFormerEncoder.new(model, None, LoraSettings(RANK, 8, 0.0), config)
    grid, tokens = [1, 12, 20], 90
    text, vision = model.config.get_text_config(), model.config.vision_config
    parts = (decoder(text, tokens, rank=RANK), vision_tower(vision, grid, RANK), config.flops(tokens))
    found = counted(lambda: encoder(picture(grid, tokens)).sum().backward())
    first = linear(32, 96, 240)  # which needs no gradient of its inputs
    expected = sum(part.training() for part in parts) - first.frozen
    assert found == pytest.approx(expected, rel=0.02)


def test_decoding_a_token_from_a_cache() -> None:
    model = build_tiny_qwen2()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        cache = model(torch.full((1, 50), 65), use_cache=True).past_key_values
        found = counted(lambda: model(torch.full((1, 1), 65), past_key_values=cache))
    expected = decoder(model.config, 1, past=50) + output_layer(model.config, 1)
    assert found == pytest.approx(expected.forward, rel=0.02)


@pytest.mark.parametrize("shared", [True, False])
def test_the_qformer(shared: bool) -> None:
    config = QFormerConfig(64, num_queries=4, depth=3, heads=4, shared=shared, output_size=32)
    module, hidden = QFormer(config), torch.randn(1, 30, 64)
    assert counted(lambda: module(hidden)) == pytest.approx(config.flops(30).forward, rel=1e-6)


def test_recomputation_repeats_the_forward() -> None:
    layer = nn.Linear(8, 16, bias=False).requires_grad_(False)
    x = torch.randn(5, 8, requires_grad=True)
    flops = linear(8, 16, 5)
    assert counted(lambda: layer(x).sum().backward()) == flops.training() == 2 * flops.forward
    assert flops.training(recompute=True) == 3 * flops.forward
    assert Flops(1, 1, 1).training() == 3 + 5


def test_half_of_the_scores_are_left_by_the_causal_mask() -> None:
    config = build_tiny_qwen2().config
    whole, half = decoder(config, 1000).attention, decoder(config, 1000, causal=True).attention
    assert half / whole == pytest.approx(0.5, rel=2e-3)


def test_an_unknown_vision_tower_is_named() -> None:
    with pytest.raises(ValueError, match="vision tower 'clip': operations are known for qwen2_vl"):
        vision_tower(SimpleNamespace(model_type="clip"), [1, 4, 4])


def test_parts_add_up() -> None:
    both = linear(4, 4, 1, rank=2) + linear(4, 4, 2)
    assert dataclasses.astuple(both * 2) == (2 * 3 * 32, 2 * 2 * 2 * 8, 0.0, 0.0)
