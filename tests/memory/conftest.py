"""Tiny encoders, fresh for every test, because LoRA changes a model in place."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from comem.memory.lora import LoraSettings, lora_state
from comem.memory.qformer import QFormerConfig
from comem.memory.qformer_encoder import QFormerEncoder
from comem.types import KnowledgeItem

MakeEncoder = Callable[..., QFormerEncoder]


@pytest.fixture()
def base_model(tiny_qwen2_5_vl: Any) -> Any:
    """A copy to change; weights of ordinary size, so that gradients are, too."""
    return tame(copy.deepcopy(tiny_qwen2_5_vl))


@torch.no_grad()
def tame(model: Any) -> Any:
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(0.4)
    return model


@torch.no_grad()
def trained(encoder: QFormerEncoder) -> QFormerEncoder:
    """LoRA's B starts at zero: give it values, as a training would."""
    for name, tensor in lora_state(encoder.model).items():
        if ".lora_B." in name:
            tensor.normal_(std=0.05)
    return encoder


@pytest.fixture()
def make_encoder(base_model: Any, tiny_processor: Any) -> MakeEncoder:
    def make(model: Any = None, dropout: float = 0.0, **sizes: Any) -> QFormerEncoder:
        config = QFormerConfig(64, **{"heads": 4, "depth": 3, **sizes})
        lora = LoraSettings(rank=4, alpha=8, dropout=dropout)
        return trained(QFormerEncoder.new(model or base_model, tiny_processor, lora, config)).eval()

    return make


@pytest.fixture()
def encoder(make_encoder: MakeEncoder) -> QFormerEncoder:
    return make_encoder()


@pytest.fixture()
def items(small_image: Any) -> list[KnowledgeItem]:
    """Five items of different lengths and picture sizes; the fourth has no image, the fifth no text."""
    texts = ["Oslo is a town.", "A river: 12 km long, quite cold.", "x", "Only words, no picture at all."]
    found = [
        KnowledgeItem(f"i{n}", text, small_image(28 * (n + 1), 56, seed=n)) for n, text in enumerate(texts)
    ]
    found[3] = KnowledgeItem("i3", texts[3], None)
    return [*found, KnowledgeItem("i4", "", small_image(84, 84, seed=9))]
