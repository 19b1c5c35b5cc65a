"""The direct way against peft's own: values, gradients, dropout, number formats, folding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from comem.memory.lora import (
    ADAPTER,
    DirectLora,
    LoraSettings,
    adapters_on,
    add_as_peft,
    add_directly,
    add_lora,
    fold_lora,
    lora_layers,
)


class Two(nn.Module):
    """Two linear layers, one with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 10), nn.Linear(10, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())


def adapted(dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> Two:
    torch.manual_seed(0)
    model = Two()
    inject_adapter_in_model(
        LoraConfig(r=3, lora_alpha=6, lora_dropout=dropout, target_modules="first|second"), model, ADAPTER
    )
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            nn.init.normal_(parameter, std=0.5)
        else:
            parameter.data = parameter.data.to(dtype)
    return model


def directly(model: Two) -> Two:
    for layer in lora_layers(model).values():
        add_directly(layer, ADAPTER)
    return model


def run(model: Two, x: Tensor) -> list[Tensor]:
    """Output, and gradients of the input and of LoRA."""
    x = x.clone().requires_grad_()
    torch.manual_seed(1)  # of the dropout
    out = model.train()(x)
    (out.float() ** 2).sum().backward()
    grads = [p.grad for n, p in model.named_parameters() if ".lora_" in n]
    return [out, x.grad, *grads]  # type: ignore[list-item]


@pytest.mark.parametrize("shape", [(7, 6), (2, 7, 6), (2, 3, 7, 6)])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_values_and_gradients_are_pefts(shape: tuple[int, ...], dropout: float) -> None:
    x = torch.randn(shape)
    for mine, theirs in zip(run(directly(adapted(dropout)), x), run(adapted(dropout), x), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("autocast", [False, True])
def test_beside_a_bf16_base(autocast: bool) -> None:
    """As training has it: base and inputs bf16, LoRA float32; gradients float32, no float32 activations."""
    x = torch.randn(2, 7, 6).bfloat16()
    seen: list[torch.dtype] = []
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (seen.append(t.dtype), t)[1], lambda t: t):
            found = run(directly(adapted(dtype=torch.bfloat16)), x)
        expected = run(adapted(dtype=torch.bfloat16), x)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == theirs.dtype
        assert float((mine - theirs).detach().norm() / theirs.detach().norm()) < 0.03  # bf16 has 8 bits
    assert [grad.dtype for grad in found[2:]] == [torch.float32] * 4
    assert seen.count(torch.float32) <= 1  # the test's own loss


def test_add_lora_sets_it_and_folding_takes_it_away() -> None:
    model = add_lora(Two(), LoraSettings(3, 6, 0.0))
    layers: list[Any] = list(lora_layers(model).values())
    assert all(layer.lora_variant == {ADAPTER: DirectLora} for layer in layers)
    for layer in layers:
        nn.init.normal_(layer.lora_B[ADAPTER].weight)
    x = torch.randn(5, 6)
    with adapters_on(model), torch.no_grad():
        before = model(x)
        torch.testing.assert_close(fold_lora(model)(x), before, atol=1e-5, rtol=1e-5)


def test_other_layers_stay_as_they_are() -> None:
    model = adapted()
    layer: Any = model.first
    layer.base_layer = nn.utils.parametrizations.weight_norm(layer.base_layer)
    add_directly(layer, ADAPTER)
    assert layer.lora_variant == {}
    add_as_peft(layer, ADAPTER)
    assert layer.cast_input_dtype_enabled
