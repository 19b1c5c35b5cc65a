"""Where things are in a decoder of transformers: its layers, which can hold memory, rotary frequencies."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary, ref

from torch import Tensor, nn

#: Rotary embeddings whose frequencies change with the length of the input: keys cannot be moved.
_CHANGING_ROPE = ("dynamic", "longrope")


# By model, so that not every call has to go through all of its modules.
_REMEMBERING: WeakKeyDictionary[nn.Module, list[ref[nn.Module]]] = WeakKeyDictionary()


def decoder_layers(model: Any) -> nn.ModuleList:
    """The language model's layers."""
    return model.get_decoder().layers


def attention(model: Any, layer: int) -> nn.Module:
    """A layer's self-attention."""
    return model.get_decoder().layers[layer].self_attn


def memory_layers(model: Any) -> tuple[int, ...]:
    """Layers with full self-attention: no cross-attention (Llama-3.2-Vision), no window (Gemma 3)."""
    decoder = model.get_decoder()
    types = getattr(decoder.config, "layer_types", None)
    window = getattr(decoder.config, "sliding_window", None) is not None
    return tuple(
        i
        for i, layer in enumerate(decoder.layers)
        if hasattr(layer, "self_attn") and (types[i] == "full_attention" if types else not window)
    )


def rotary_frequencies(model: Any, layer: int) -> Tensor:
    """Radians per position `(f,)`, from the fastest to the slowest pair of dimensions.

    Raises:
        ValueError: they depend on the input's length.
    """
    decoder = model.get_decoder()
    rotary = decoder.rotary_emb
    kind, frequencies = rotary.rope_type, getattr(rotary, "inv_freq", None)
    if frequencies is None:  # one set per type of layer
        name = decoder.config.layer_types[layer]
        kind, frequencies = rotary.rope_type[name], getattr(rotary, f"{name}_inv_freq")
    if kind in _CHANGING_ROPE:
        raise ValueError(f"rotary embeddings of type {kind!r} change with the length: keys cannot be moved")
    return frequencies


def text_positions(model: Any, mask: Tensor) -> dict[str, Tensor]:
    """The `position_ids` `(b, l)` that `generate` gives a left-padded batch, as a keyword.

    Without them a text model's forward counts padding as positions. Empty for models that make their own
    of ids and mask (M-RoPE).

    Args:
        mask: `(b, l)`, 0 at padding.
    """
    if hasattr(model.base_model, "get_rope_index"):
        return {}
    return {"position_ids": (mask.long().cumsum(dim=-1) - 1).clamp(min=0)}


def forget_positions(model: nn.Module) -> None:
    """Drop what Qwen-VL models remember between calls (`rope_deltas`), so that no call sees another's."""
    if model not in _REMEMBERING:
        _REMEMBERING[model] = [ref(m) for m in model.modules() if hasattr(m, "rope_deltas")]
    for found in _REMEMBERING[model]:
        if (module := found()) is not None:
            module.rope_deltas = None  # type: ignore[assignment]
