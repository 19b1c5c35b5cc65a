"""Packed rows equal padded ones, in language models and vision towers, and attend to themselves alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from comem.backbones.positions import with_positions
from comem.backbones.prepared import ATTENTION, Prepared, Segments, pack, packed_attention
from comem.memory.items import item_inputs
from comem.memory.settings import KnowledgeFormat
from comem.types import KnowledgeItem
from tests.conftest import build_tiny_qwen2, build_tiny_qwen2_5_vl, build_tiny_qwen2_vl

FAMILIES = [build_tiny_qwen2_5_vl, build_tiny_qwen2_vl]


@pytest.fixture()
def items(small_image: Any) -> list[KnowledgeItem]:
    """Different lengths and pictures, one without a picture; 5 × 3 cells make windows of several sizes."""
    sizes = [(56, 56), (140, 84), (112, 112)]
    shown = [KnowledgeItem(f"i{n}", "x" * (3 + 9 * n), small_image(*size, n)) for n, size in enumerate(sizes)]
    return [*shown, KnowledgeItem("bare", "only text", None)]


@pytest.mark.parametrize("build", FAMILIES)
def test_packed_equals_padded(build: Any, tiny_processor: Any, items: list[KnowledgeItem]) -> None:
    model = build()
    inputs = with_positions(model, item_inputs(items, tiny_processor, KnowledgeFormat()))
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        padded = model.base_model(**inputs, use_cache=False).last_hidden_state[real]
        with Prepared(model) as prepared:
            assert prepared.packs and prepared.active
            packed, rows = pack(inputs)
            assert packed["input_ids"].shape == (1, int(real.sum())) and "attention_mask" not in packed
            found = model.base_model(**packed, use_cache=False, segments=rows).last_hidden_state[0]
            again = model.base_model(**inputs, use_cache=False).last_hidden_state[real]
    torch.testing.assert_close(found, padded, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(again, padded, atol=2e-5, rtol=1e-5)  # padded batches go on as before


def test_rows_do_not_see_each_other(tiny_processor: Any, items: list[KnowledgeItem]) -> None:
    """A row's hidden states are the same whatever is packed beside it."""
    model = build_tiny_qwen2_5_vl()

    def hidden(chosen: list[KnowledgeItem]) -> Tensor:
        packed, rows = pack(with_positions(model, item_inputs(chosen, tiny_processor, KnowledgeFormat())))
        with torch.no_grad(), Prepared(model):
            out = model.base_model(**packed, use_cache=False, segments=rows).last_hidden_state[0]
        return out[: rows.lengths[0]]

    alone, beside = hidden(items[1:2]), hidden([items[1], items[0], items[3]])
    torch.testing.assert_close(alone, beside, atol=2e-5, rtol=1e-5)


def test_gradients_of_packed_rows(tiny_processor: Any, items: list[KnowledgeItem]) -> None:
    model = build_tiny_qwen2_5_vl()
    inputs = with_positions(model, item_inputs(items, tiny_processor, KnowledgeFormat()))
    weight, real = model.model.visual.blocks[0].attn.qkv.weight, inputs["attention_mask"].bool()
    towards = torch.randn(int(real.sum()), 64)

    def gradient(run: Callable[[], Tensor]) -> Tensor:
        model.zero_grad()
        (run() * towards).sum().backward()
        return weight.grad.clone()

    padded = gradient(lambda: model.base_model(**inputs, use_cache=False).last_hidden_state[real])
    packed, rows = pack(inputs)
    with Prepared(model):
        found = gradient(
            lambda: model.base_model(**packed, use_cache=False, segments=rows).last_hidden_state[0]
        )
    torch.testing.assert_close(found, padded, rtol=1e-4, atol=1e-4 * float(padded.abs().max()))


def test_segments_find_their_tokens() -> None:
    rows = Segments.of([2, 3, 1])
    packed = torch.arange(6)
    assert rows.total == 6 and rows.longest == 3 and rows.cumulative.tolist() == [0, 2, 5, 6]
    assert rows.padded(packed)[rows.real].tolist() == [0, 1, 2, 3, 4, 5]
    assert rows.real.tolist() == [[True, True, False], [True, True, True], [True, False, False]]
    assert rows.last(packed).tolist() == [1, 4, 5]


def test_pack_leaves_pixels_and_takes_known_sizes() -> None:
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    inputs = {
        "input_ids": torch.arange(6).view(2, 3), "attention_mask": mask, "pixel_values": torch.ones(2, 3, 4),
        "position_ids": torch.arange(18).view(3, 2, 3), "image_grid_thw": torch.ones(2, 3),
    }  # fmt: skip
    packed, rows = pack(inputs, sizes=[2, 3])
    assert rows.lengths == (2, 3) and packed["input_ids"].tolist() == [[1, 2, 3, 4, 5]]
    assert packed["position_ids"][1].tolist() == [[7, 8, 9, 10, 11]]
    assert packed["image_grid_thw"] is inputs["image_grid_thw"]
    with pytest.raises(ValueError, match="0 everywhere"):
        pack({**inputs, "attention_mask": torch.tensor([[0, 0, 0], [1, 1, 1]])})


def test_padded_pixels_of_the_same_leading_shape_are_not_packed() -> None:
    inputs = {"input_ids": torch.arange(6).view(2, 3), "attention_mask": torch.tensor([[0, 1, 1], [1, 1, 1]])}
    packed, _ = pack({**inputs, "pixel_values": torch.ones(2, 3)})
    assert packed["pixel_values"].shape == (2, 3)


def test_only_models_whose_attention_can_be_swapped(tiny_qwen2: Any) -> None:
    assert not Prepared(tiny_qwen2).packs  # plain positions
    model = build_tiny_qwen2_5_vl()
    model.set_attn_implementation("eager")
    with Prepared(model) as prepared:
        assert not prepared.packs and model.config.text_config._attn_implementation == "eager"
    other = build_tiny_qwen2_5_vl()
    with Prepared(other), Prepared(other):
        assert other.config._attn_implementation == "sdpa"  # `generate` looks at the top config
        assert other.config.text_config._attn_implementation == ATTENTION
        assert ATTENTION not in str(other.config.to_json_string())  # no saved config names it
    assert other.config.text_config._attn_implementation == "sdpa"
    assert build_tiny_qwen2().config._attn_implementation == "sdpa"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("causal", [True, False])
def test_flash_attention_on_a_gpu_equals_float32(causal: bool) -> None:
    """Grouped heads, rows of very different lengths, vision heads of 80."""
    lengths, heads, kv, width = [64, 7, 300, 1], 8, 2 if causal else 8, 128 if causal else 80
    total = sum(lengths)
    q, k, v = (torch.randn(1, h, total, width, device="cuda", dtype=torch.bfloat16) for h in (heads, kv, kv))
    rows = Segments.of(lengths, "cuda")
    told: dict[str, Any] = (
        {"segments": rows} if causal else {"cu_seq_lens_q": rows.cumulative, "max_length_q": rows.longest}
    )
    module = torch.nn.Identity()
    found, _ = packed_attention(module, q, k, v, None, scaling=width**-0.5, **told)
    exact, _ = packed_attention(module, q.float(), k.float(), v.float(), None, scaling=width**-0.5, **told)
    assert float((found.float() - exact).norm() / exact.norm()) < 1e-2
