"""LoRA by the cheapest order of multiplication, while an encoder reads without gradients.

A LoRA layer computes `W x + s B (A x)`. Three ways give the same values up to rounding:

- peft's: the product, its scaling and the sum each write the whole output once more.
- folded, `(W + s B A) x`: pays once per call for a matrix of the layer's size, so it wins as soon as a batch
  holds more tokens than the layer is wide. Only in float32: in half precision `W + s B A` itself would be
  rounded, and the small product lost.
- added in place: `s B (A x)` goes on top of `W x` within one matrix product, summed in float32 before it is
  rounded once. In half precision always.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comem.memory.lora import ADAPTER, AdapterSwitch, adapter_switch

_EXACT = (torch.float32, torch.float64)
_HALF = (torch.float16, torch.bfloat16)
# By the model's switch, which is made anew when its layers change: each layer and its `break_even`.
_LAYERS: WeakKeyDictionary[AdapterSwitch, list[tuple[float, Any]]] = WeakKeyDictionary()


def break_even(fan_in: int, fan_out: int) -> float:
    """Tokens from which folding is less work: the harmonic mean of the matrix's sides."""
    return 2 * fan_in * fan_out / (fan_in + fan_out)


def folded_weight(layer: Any) -> Tensor:
    """`W + s B A` `(out, in)`, a new tensor."""
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight  # (r, in), (out, r)
    return torch.addmm(layer.get_base_layer().weight, b, a, alpha=layer.scaling[ADAPTER])


def added_in_place(layer: Any, x: Tensor) -> Tensor:
    """`W x + s B (A x)` `(…, out)` of `x` `(…, in)`, the second term added by the product that makes it."""
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    base = layer.get_base_layer()
    out: Tensor = base(x)
    low = F.linear(x, a.to(x.dtype)).flatten(0, -2)  # (tokens, r)
    rows = out.view(low.shape[0], -1)
    rows.addmm_(low, b.to(x.dtype).t(), alpha=layer.scaling[ADAPTER])
    return out


@contextmanager
def cheaper_order(model: nn.Module, tokens: int) -> Iterator[None]:
    """Inside the context, LoRA layers that are on take the cheapest way.

    Nothing happens where it could be seen: with gradients, and in training (dropout).

    Args:
        tokens: the most rows that any layer will see; in float32, layers for which they are too few stay as
            they are.
    """
    layers = [] if torch.is_grad_enabled() or model.training else _worth_it(model, tokens)
    for layer, way in layers:
        layer.forward = way
    try:
        yield
    finally:
        for layer, _ in layers:
            del layer.forward  # back to the class's own


def _worth_it(model: nn.Module, tokens: int) -> list[tuple[Any, Callable[..., Tensor]]]:
    """The layers with a cheaper way, and that way."""
    switch = adapter_switch(model)
    if switch not in _LAYERS:
        found = [(break_even(layer.in_features, layer.out_features), layer) for layer in switch.layers]
        _LAYERS[switch] = sorted(found, key=lambda pair: pair[0])
    return [
        (layer, partial(_forward, layer, least, layer.forward))
        for least, layer in _LAYERS[switch]
        if tokens > least or layer.get_base_layer().weight.dtype in _HALF
    ]


def _forward(layer: Any, least: float, plain: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    base = layer.get_base_layer()
    if layer.disable_adapters or layer.merged:
        return plain(x, *args, **kwargs)  # type: ignore[no-any-return]
    if base.weight.dtype in _HALF and x.dtype == base.weight.dtype:
        return added_in_place(layer, x)
    if base.weight.dtype in _EXACT and x.numel() > least * x.shape[-1]:
        return F.linear(x, folded_weight(layer), base.bias)
    return plain(x, *args, **kwargs)  # type: ignore[no-any-return]
