"""LoRA's part of a layer's output, added by the matrix product itself instead of by passes over memory.

peft computes `W x + (B (A dropout(x))) s` by six passes over tensors of the output's size, and turns `x` into
the adapters' float32 first, also where everything around is bf16: at 7B more than a megabyte moved for each
token and layer. Here `s B h` is accumulated into the output by one product, and `x` stays as it is. The
values are the same, up to the rounding of another order of summation.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from peft.tuners.lora.layer import Linear, LoraLayer, LoraVariant
from torch import Tensor, nn


class DirectLora(LoraVariant):
    """Vanilla LoRA as a variant of peft's, whose forward is all that differs."""

    @staticmethod
    def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any) -> Tensor:
        """Add LoRA's part to `result` `(…, out)`, in place.

        Args:
            module: the LoRA layer.
            active_adapter: its adapter's name.
            x: the layer's input `(…, in)`.
            result: what the adapted layer has made of it; nothing else holds it, and its own backward does
                not need it.
        """
        a, b = module.lora_A[active_adapter].weight, module.lora_B[active_adapter].weight  # (r, in), (out, r)
        dtype, scale = result.dtype, module.scaling[active_adapter]
        hidden = F.linear(module.lora_dropout[active_adapter](x).to(dtype), a.to(dtype))  # (…, r)
        b = b.to(dtype).T
        if result.ndim == 2:
            return result.addmm_(hidden, b, alpha=scale)
        if result.ndim == 3:
            return result.baddbmm_(hidden, b.expand(len(hidden), -1, -1), alpha=scale)
        return result + (hidden @ b) * scale


def add_directly(layer: LoraLayer, adapter: str) -> None:
    """Let a LoRA layer on an ordinary linear layer work so; others (a quantised base) stay as they are."""
    if type(layer) is Linear and type(layer.get_base_layer()) is nn.Linear:
        layer.lora_variant[adapter] = DirectLora
        layer.cast_input_dtype_enabled = False


def add_as_peft(layer: LoraLayer, adapter: str) -> None:
    """Undo `add_directly`: peft folds only layers of its own kinds."""
    layer.lora_variant.pop(adapter, None)
    layer.cast_input_dtype_enabled = True
