"""The cheaper order of multiplication: the same memories, and nothing left behind on the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from comem.memory import lora as folding
from comem.memory.lora import (
    adapter_switch,
    adapters_off,
    adapters_on,
    break_even,
    cheaper_order,
    folded_weight,
    lora_layers,
)
from comem.memory.qformer_encoder import QFormerEncoder
from comem.types import KnowledgeItem

LAYER = "model.language_model.layers.0.self_attn.q_proj"


@pytest.fixture()
def folded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The layers that folded themselves, in order."""
    seen: list[Any] = []

    def noted(layer: Any) -> torch.Tensor:
        seen.append(layer)
        return folded_weight(layer)

    monkeypatch.setattr(folding, "folded_weight", noted)
    return seen


def test_break_even() -> None:
    # rank r drops out: T·r·(in + out) multiplications against r·in·out, and as many writes again
    assert break_even(128, 128) == 128
    assert break_even(128, 384) == break_even(384, 128) == 192


def test_memories_are_those_of_the_plain_order(
    encoder: QFormerEncoder, items: list[KnowledgeItem], folded: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    big = encoder.encode(items).embeddings
    assert set(map(id, folded)) > {id(lora_layers(encoder.model)[LAYER])}
    adapter_switch(encoder.model).by_break_even = []
    folded.clear()
    plain = encoder.encode(items).embeddings
    assert folded == []
    torch.testing.assert_close(big, plain, atol=1e-5, rtol=0)
    assert not torch.equal(big, plain)  # another order of the same sums: it was another way


def test_a_folded_layer_is_the_layer(encoder: QFormerEncoder) -> None:
    layer: Any = lora_layers(encoder.model)[LAYER]
    x = torch.randn(1, 300, 64)
    with torch.no_grad(), adapters_on(encoder.model):
        plain = layer(x)
        with cheaper_order(encoder.model, 300):
            assert "forward" in vars(layer)
            torch.testing.assert_close(layer(x), plain, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(layer(x[:, :40]), plain[:, :40])  # too few: the plain way


def test_the_reader_stays_the_reader(encoder: QFormerEncoder) -> None:
    layer: Any = lora_layers(encoder.model)[LAYER]
    x = torch.randn(300, 64)
    with torch.no_grad(), cheaper_order(encoder.model, 300), adapters_off(encoder.model):
        assert torch.equal(layer(x), layer.get_base_layer()(x))


def test_nothing_is_left_behind_even_after_an_error(encoder: QFormerEncoder) -> None:
    layers = lora_layers(encoder.model).values()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    with pytest.raises(RuntimeError), torch.no_grad(), cheaper_order(encoder.model, 10_000):
        assert all("forward" in vars(layer) for layer in layers)
        raise RuntimeError
    assert not any("forward" in vars(layer) for layer in layers)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


def test_not_with_gradients_nor_dropout_nor_few_tokens(
    encoder: QFormerEncoder, items: list[KnowledgeItem], folded: list[Any]
) -> None:
    inputs = encoder.inputs(items)
    encoder(inputs).sum().backward()
    with torch.no_grad():
        encoder.train()(inputs)
        encoder.eval()
        with cheaper_order(encoder.model, 20):
            assert not any("forward" in vars(layer) for layer in lora_layers(encoder.model).values())
    assert folded == []
    assert all(p.grad is not None for p in encoder.trainable_parameters())


def test_not_in_half_precision(
    encoder: QFormerEncoder, items: list[KnowledgeItem], folded: list[Any]
) -> None:
    encoder.to(torch.bfloat16).encode(items)
    assert folded == []
