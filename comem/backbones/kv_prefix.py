"""Memory as keys and values in front of some layers of a frozen model; the other layers see none of it.

A hook in front of a chosen layer's attention gives it a view of the cache that puts the memory before
what the cache returns, and widens the mask. Cache, positions and masks of the model itself know nothing
of the memory, so `generate` works unmodified and no class is subclassed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from comem.backbones.decoder import attention
from comem.backbones.kv_memory import KVMemory
from comem.backbones.packing import ATTENTION

#: Attention whose masks we can widen.
_ATTENTION = ("sdpa", "eager", ATTENTION)  # the last is sdpa, where nothing is packed


class _InFront:
    """A layer's view of a cache: what it returns, with the memory `(b, h, M, e)` in front."""

    def __init__(self, cache: Any, keys: Tensor, values: Tensor) -> None:
        self.cache, self.keys, self.values = cache, keys, values

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.cache is not None:
            keys, values = self.cache.update(keys, values, *args, **kwargs)
        return torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2)


@contextmanager
def kv_prefix(model: Any, memories: Sequence[KVMemory | None]) -> Iterator[None]:
    """Put memories in front of each row of the calls that are made while the context is open.

    ```python
    with kv_prefix(model, [join(model, read_items(model, item, layers))]):
        tokens = model.generate(**question)
    ```

    Args:
        model: the model that read the items, with sdpa or eager attention.
        memories: per row of the batch a memory made by `join`, or None.

    Raises:
        ValueError: an attention implementation whose masks cannot be widened, memories of different
            layers, or (in a call) another number of rows.
    """
    given = [memory for memory in memories if memory is not None]
    if not given:
        yield
        return
    implementation = model.get_decoder().config._attn_implementation
    if implementation not in _ATTENTION:
        raise ValueError(f"attention {implementation!r} takes no key-value memory: load with attn='sdpa'")
    if len({memory.layers for memory in given}) > 1:
        raise ValueError("memories of different layers in one batch: read all items with the same layers")
    shown = _shown(memories)
    with ExitStack() as stack:
        for layer in given[0].layers:
            keys = _stack([None if m is None else m.keys[layer] for m in memories])
            values = _stack([None if m is None else m.values[layer] for m in memories])
            hook = _prefix_hook(layer, keys, values, shown.to(keys.device))
            stack.callback(attention(model, layer).register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


def _shown(memories: Sequence[KVMemory | None]) -> Tensor:
    """Where there is memory and not its padding, `(b, M)`; padding is on the left."""
    sizes = torch.tensor([0 if memory is None else len(memory) for memory in memories])
    longest = int(sizes.max())
    return torch.arange(longest) >= longest - sizes[:, None]


def _stack(tensors: Sequence[Tensor | None]) -> Tensor:
    """`(h, m, e)` of different m as one `(b, h, M, e)`, zeros on the left."""
    like = next(tensor for tensor in tensors if tensor is not None)
    longest = max(tensor.shape[1] for tensor in tensors if tensor is not None)
    out = like.new_zeros(len(tensors), like.shape[0], longest, like.shape[2])
    for row, tensor in zip(out, tensors, strict=True):
        if tensor is not None:
            row[:, longest - tensor.shape[1] :] = tensor
    return out


def _prefix_hook(layer: int, keys: Tensor, values: Tensor, shown: Tensor) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]  # (b, l, d)
        if len(hidden) != len(shown):
            raise ValueError(f"{len(shown)} memories for a batch of {len(hidden)} rows: give one per row")
        cache = kwargs.get("past_key_values")
        past = 0 if cache is None else int(cache.get_seq_length(layer))
        mask = _widened(kwargs.get("attention_mask"), shown, hidden.shape[1], past)
        return args, {**kwargs, "attention_mask": mask, "past_key_values": _InFront(cache, keys, values)}

    return hook


def _widened(mask: Tensor | None, shown: Tensor, queries: int, past: int) -> Tensor:
    """The layer's mask `(b, 1, queries, M + past + queries)`, bool, or added to the logits if it was.

    Without a mask, sdpa is causal: query i sees the past and the queries up to itself.
    """
    if mask is None:
        own = torch.ones(queries, past + queries, dtype=torch.bool, device=shown.device).tril(past)
        mask = own.expand(len(shown), 1, -1, -1)
    memory = shown[:, None, None].expand(-1, 1, mask.shape[2], -1)
    if mask.dtype != torch.bool:
        memory = torch.zeros_like(memory, dtype=mask.dtype).masked_fill(~memory, torch.finfo(mask.dtype).min)
    return torch.cat([memory, mask.expand(len(shown), -1, -1, -1)], dim=-1)
