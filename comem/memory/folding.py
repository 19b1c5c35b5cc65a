"""LoRA by the cheaper order of multiplication, while an encoder reads without gradients.

A LoRA layer can compute `W x + s B (A x)` or `(W + s B A) x`. The first touches every token's output
four times more; the second pays once per call for a matrix of the layer's size, so it wins as soon as
a batch holds more tokens than the layer is wide. Both give the same values up to float32 rounding; in
half precision the sum `W + s B A` itself would be rounded, so there the first is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comem.memory.lora import ADAPTER, AdapterSwitch, adapter_switch

_EXACT = (torch.float32, torch.float64)
# By the model's switch, which is made anew when its layers change: each layer and its `break_even`.
_LAYERS: WeakKeyDictionary[AdapterSwitch, list[tuple[float, Any]]] = WeakKeyDictionary()


def break_even(fan_in: int, fan_out: int) -> float:
    """Tokens from which folding is less work: the harmonic mean of the matrix's sides."""
    return 2 * fan_in * fan_out / (fan_in + fan_out)


def folded_weight(layer: Any) -> Tensor:
    """`W + s B A` `(out, in)`, a new tensor."""
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight  # (r, in), (out, r)
    return torch.addmm(layer.get_base_layer().weight, b, a, alpha=layer.scaling[ADAPTER])


@contextmanager
def cheaper_order(model: nn.Module, tokens: int) -> Iterator[None]:
    """Inside the context, LoRA layers that are on fold themselves for large inputs.

    Nothing happens where it could be seen: with gradients, in training (dropout), in half precision.

    Args:
        tokens: the most rows that any layer will see; layers for which they are too few stay as they are.
    """
    layers = [] if torch.is_grad_enabled() or model.training else _worth_it(model, tokens)
    for least, layer in layers:
        layer.forward = partial(_forward, layer, least, layer.forward)
    try:
        yield
    finally:
        for _, layer in layers:
            del layer.forward  # back to the class's own


def _worth_it(model: nn.Module, tokens: int) -> list[tuple[float, Any]]:
    switch = adapter_switch(model)
    if switch not in _LAYERS:
        found = [(break_even(layer.in_features, layer.out_features), layer) for layer in switch.layers]
        _LAYERS[switch] = sorted(found, key=lambda pair: pair[0])
    return [pair for pair in _LAYERS[switch] if tokens > pair[0]]


def _forward(layer: Any, least: float, plain: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    base = layer.get_base_layer()
    few = x.numel() <= least * x.shape[-1]
    if few or layer.disable_adapters or layer.merged or base.weight.dtype not in _EXACT:
        return plain(x, *args, **kwargs)  # type: ignore[no-any-return]
    return F.linear(x, folded_weight(layer), base.bias)
