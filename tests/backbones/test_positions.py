"""What a batch is given before it goes to the model."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache

from comem.backbones.positions import attention, cache_argument, cache_name


def test_the_cache_is_called_as_the_installed_transformers_calls_it(tiny_qwen2_5_vl: Any) -> None:
    """`past_key_values` until 5.23, `cache` since 5.24."""
    seen: list[dict[str, Any]] = []

    def note(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(kwargs)

    handle = attention(tiny_qwen2_5_vl, 0).register_forward_pre_hook(note, with_kwargs=True)
    cache = DynamicCache()
    with torch.no_grad():
        tiny_qwen2_5_vl(input_ids=torch.tensor([[1, 2]]), **{cache_argument(tiny_qwen2_5_vl): cache})
    handle.remove()
    assert seen[0][cache_name(seen[0])] is cache and cache.get_seq_length() == 2
    assert (cache_name({"cache"}), cache_name({"past_key_values"})) == ("cache", "past_key_values")
