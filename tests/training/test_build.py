"""Encoders of one size for readers of another, at the published sizes: widths come from the configs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from comem.memory.qformer import QFormer
from comem.memory.qformer_encoder import qformer_config
from comem.memory.settings import QFormerSettings

#: Hidden size, layers, heads, key-value heads, MLP width of Qwen2.5-VL; Qwen2.5-Instruct has the same.
QWEN = {
    "3b": (2048, 36, 16, 2, 11008),
    "7b": (3584, 28, 28, 4, 18944),
    "32b": (5120, 64, 40, 8, 27648),
    "72b": (8192, 80, 64, 8, 29568),
}


def model_of(size: str, text_only: bool = False) -> Any:
    """A stand-in with the model's config, which is all that sizes are taken from."""
    from transformers import Qwen2_5_VLConfig, Qwen2Config

    names = (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
    )  # fmt: skip
    text = dict(zip(names, QWEN[size], strict=True))
    vision = {"hidden_size": 1280, "out_hidden_size": QWEN[size][0]}
    config: Any = (
        Qwen2Config(**text) if text_only else Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    )
    return SimpleNamespace(config=config)


@pytest.mark.parametrize("text_only", [False, True])
@pytest.mark.parametrize("reader", QWEN)
@pytest.mark.parametrize("encoder", QWEN)
def test_qformer_between_any_two_sizes(encoder: str, reader: str, text_only: bool) -> None:
    config = qformer_config(QFormerSettings(), model_of(encoder), model_of(reader, text_only))
    wide, out = QWEN[encoder][0], QWEN[reader][0]
    assert (config.hidden_size, config.width_out, config.head_width) == (wide, out, wide // 16)
    assert config.output_size == (None if wide == out else out), "no projection where none is needed"
    with torch.device("meta"):
        qformer = QFormer(config)
        memory = qformer(torch.empty(3, 50, wide), torch.ones(3, 50, dtype=torch.bool))
    assert memory.shape == (3, 8, out)
    count = sum(p.numel() for p in qformer.parameters())
    assert count == (1 + 4 + 8) * wide**2 + 8 * wide + 7 * wide + (wide + 3) * out
    if (encoder, reader) == ("7b", "7b"):
        assert count == 179_895_296  # authors_code.md 1.6
