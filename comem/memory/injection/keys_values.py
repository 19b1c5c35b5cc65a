"""Keys and values of an untrained model over an item: what `vlm_as_memory` remembers (paper, Table 2).

An item is read once, alone, at positions that start at 0. `join` turns its keys to where they belong in
front of a question: rotary position embeddings are rotations, so a key moves by `s` positions when it is
rotated by `s` more (Su et al., arXiv 2104.09864, eq. 16); with M-RoPE the same shift goes to all three
axes. The question keeps its own positions, 0 and up, and the memory ends at -1: only distances count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from comem.backbones.base import Backbone, Injection
from comem.backbones.positions import (
    attention,
    cache_name,
    decoder_layers,
    fresh_positions,
    memory_layers,
    rotary_frequencies,
    with_token_types,
)
from comem.backbones.prepared import ATTENTION
from comem.backbones.specs import BackboneError, BackboneSpec


@dataclass(frozen=True)
class KVMemory:
    """What some layers keep of a stretch of tokens.

    Attributes:
        keys: by layer `(h, m, e)`: key heads, tokens, width of a head; position embeddings applied.
        values: by layer `(h, m, e)`.
        span: positions that the stretch takes, images as M-RoPE counts them; dropped tokens included.
    """

    keys: Mapping[int, Tensor]
    values: Mapping[int, Tensor]
    span: int

    def __len__(self) -> int:
        """Tokens per layer."""
        return next(iter(self.keys.values())).shape[1]

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that it is for."""
        return tuple(self.keys)


def default_layers(model: Any) -> tuple[int, ...]:
    """The paper's 17 to 19 of 28, scaled to the model's depth, without those that can hold no memory."""
    depth, able = len(decoder_layers(model)), memory_layers(model)
    if not able:
        raise ValueError("no layer of this model has full self-attention: it holds no keys and values")
    start, stop = round(17 * depth / 28), max(round(17 * depth / 28) + 1, round(20 * depth / 28))
    chosen = tuple(layer for layer in able if start <= layer < stop)
    return chosen or (min(able, key=lambda layer: abs(layer - start)),)


def check_layers(model: Any, layers: Sequence[int]) -> tuple[int, ...]:
    """The layers in order, each once.

    Raises:
        ValueError: none, or one that the model lacks or that is no full self-attention.
    """
    able = memory_layers(model)
    if wrong := sorted(set(layers) - set(able)):
        raise ValueError(f"layers {wrong} hold no memory; those with full self-attention: {list(able)}")
    if not layers:
        raise ValueError(f"no layers: choose from {list(able)}")
    return tuple(sorted(set(layers)))


@torch.no_grad()
def read_items(
    model: Any, inputs: Mapping[str, Tensor], layers: Sequence[int], fraction: float = 1.0,
    score_layer: int = 0,
) -> list[KVMemory]:  # fmt: skip
    """Run items through the model up to the last of `layers` and keep their keys and values there.

    Args:
        model: a causal model of transformers, in eval mode.
        inputs: a batch of items, padded on the right, on the model's device.
        layers: see `check_layers`.
        fraction: keep this share of each item's tokens, those that get most attention.
        score_layer: the layer whose attention, averaged over heads and queries, ranks them (the
            authors' code takes layer 0; authors_code.md 4).

    Returns:
        Per item its memory, padding left out.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction {fraction}: give more than 0 and at most 1 (the share of tokens to keep)")
    layers = check_layers(model, layers)
    scored = (*check_layers(model, [score_layer]),) if fraction < 1 else ()
    records, scores, positions = _run(model, inputs, layers, scored)
    mask = inputs["attention_mask"].bool().cpu()  # indices on the CPU serve layers on any device
    rows = []
    for row, real in enumerate(mask):
        kept = real.nonzero()[:, 0]
        if scores is not None:
            received = scores[row].float().cpu()[:, real].mean(dim=(0, 1))[kept]  # (l,)
            best = received.topk(ceil(fraction * len(kept))).indices.sort().values
            kept = kept[best]
        keys = {layer: records[layer][0][row][:, kept] for layer in layers}
        values = {layer: records[layer][1][row][:, kept] for layer in layers}
        taken = positions[..., row, :].cpu()[..., real]
        rows.append(KVMemory(keys, values, int(taken.max() - taken.min()) + 1))
    return rows


class _Enough(Exception):
    """All wanted layers have been seen; the rest of the forward pass is not needed."""


class _Record:
    """Stands where a layer's cache would be, and keeps what it is given."""

    def __init__(self, store: dict[int, tuple[Tensor, Tensor]], layer: int) -> None:
        self.store, self.layer = store, layer

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.store[self.layer] = keys, values
        return keys, values


def _run(
    model: Any, inputs: Mapping[str, Tensor], layers: Sequence[int], scored: Sequence[int]
) -> tuple[dict[int, tuple[Tensor, Tensor]], Tensor | None, Tensor]:
    """Keys and values `(b, h, l, e)` by layer, attention `(b, heads, l, l)` if asked, and positions."""
    records: dict[int, tuple[Tensor, Tensor]] = {}
    seen: dict[str, Tensor] = {}

    def stop(*_: Any) -> None:
        raise _Enough

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen["positions"] = kwargs["position_ids"] if "position_ids" in kwargs else args[1]

    def look(_: nn.Module, __: Any, output: tuple[Tensor, Tensor]) -> None:
        seen["scores"] = output[1]

    blocks = decoder_layers(model)
    with ExitStack() as stack:
        for layer in layers:
            hook = _swap_cache(_Record(records, layer))
            stack.callback(attention(model, layer).register_forward_pre_hook(hook, with_kwargs=True).remove)
        for layer in scored:
            stack.callback(attention(model, layer).register_forward_hook(look).remove)
            stack.enter_context(eager_attention(model))
        stack.callback(blocks[max(*layers, *scored, -1)].register_forward_hook(stop).remove)
        rotary = model.get_decoder().rotary_emb
        stack.callback(rotary.register_forward_pre_hook(note, with_kwargs=True).remove)
        stack.enter_context(fresh_positions(model))
        with suppress(_Enough):
            model(**inputs, use_cache=False)
    if "positions" not in seen or not records.keys() >= set(layers):
        raise ValueError("its layers take positions or keep keys and values in a way of their own")
    return records, seen.get("scores"), seen["positions"].expand(*_rows(seen["positions"], inputs))


def _rows(positions: Tensor, inputs: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Positions may come as one row for the whole batch."""
    return (*positions.shape[:-2], *inputs["attention_mask"].shape)


def _swap_cache(record: _Record) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """A pre-hook that puts a record in the place of an attention layer's cache."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, cache_name(kwargs): record}

    return hook


@contextmanager
def eager_attention(model: Any) -> Iterator[None]:
    """Attention that returns its weights, while the context is open."""
    config = model.get_decoder().config
    before = config._attn_implementation
    config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = before


def join(model: Any, items: Sequence[KVMemory], scale: float = 1.0) -> KVMemory:
    """Memories one after the other, each following the one before, the last one ending at position -1.

    Args:
        model: the model that read them, for its rotary frequencies.
        items: at least one, all of the same layers, as `read_items` made them.
        scale: factor on keys and values; the authors' code has 1.5 (authors_code.md 4).
    """
    if not items:
        raise ValueError("no memories to join: pass None for a question without items")
    starts = [-sum(item.span for item in items[i:]) for i in range(len(items))]
    keys, values = {}, {}
    for layer in items[0].layers:
        frequencies = rotary_frequencies(model, layer)
        turned = [rotate(m.keys[layer], s, frequencies) for m, s in zip(items, starts, strict=True)]
        keys[layer] = torch.cat(turned, dim=1) * scale
        values[layer] = torch.cat([item.values[layer] for item in items], dim=1) * scale
    return KVMemory(keys, values, sum(item.span for item in items))


def rotate(keys: Tensor, shift: int, frequencies: Tensor) -> Tensor:
    """Keys `(h, m, e)` moved by `shift` positions; dimension i is paired with i + r/2 of the first r = 2f.

    Args:
        keys: with their position embeddings.
        shift: positions, negative to the left.
        frequencies: `(f,)` radians per position.
    """
    angle = shift * frequencies.double().cpu()  # large shifts: float32 loses 1e-4 rad
    cos, sin = angle.cos().float().to(keys.device), angle.sin().float().to(keys.device)
    half = len(frequencies)
    sizes = [half, half, keys.shape[-1] - 2 * half]
    first, second, rest = keys.float().split(sizes, dim=-1)  # type: ignore[no-untyped-call]
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)
    return turned.to(keys.dtype)


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


@dataclass(frozen=True)
class KeysValues(Injection):
    """Keys and values (`KVMemory`, made by `join`) in front of what some layers attend to.

    ```python
    with KeysValues().attach(model, question, [join(model, read_items(model, item, layers))]):
        tokens = model.generate(**question)
    ```
    """

    takes = "keys_values"
    in_sequence = False

    @property
    def name(self) -> str:
        """Its row in `INJECTIONS`."""
        return "keys_values"

    def check(self, spec: BackboneSpec) -> None:
        """Refuse, with a BackboneError, a model whose keys and values cannot be reached."""
        if not spec.kv_memory:
            raise BackboneError(f"{spec.name}: its keys and values cannot be reached; use rag")

    @contextmanager
    def attach(
        self, model: Any, inputs: Mapping[str, Any], memories: Sequence[KVMemory | None]
    ) -> Iterator[dict[str, Any]]:
        """Put memories before the layers while the context is open; see `Injection.attach`.

        Args:
            model: the model that read the items, with sdpa or eager attention.
            inputs: of the model's processor, `(b, l)`.
            memories: per row of the batch a memory, or None.

        Raises:
            ValueError: an attention implementation whose masks cannot be widened, memories of different
                layers, or (in a call) another number of rows.
        """
        given = [memory for memory in memories if memory is not None]
        with ExitStack() as stack:
            stack.enter_context(fresh_positions(model))
            if given:
                stack.enter_context(_in_front(model, memories, given))
            yield with_token_types(model, inputs)


@contextmanager
def _in_front(model: Any, memories: Sequence[KVMemory | None], given: Sequence[KVMemory]) -> Iterator[None]:
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
        name = cache_name(kwargs)
        cache = kwargs.get(name)
        past = 0 if cache is None else int(cache.get_seq_length(layer))
        mask = _widened(kwargs.get("attention_mask"), shown, hidden.shape[1], past)
        return args, {**kwargs, "attention_mask": mask, name: _InFront(cache, keys, values)}

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


def keys_values(backbone: Backbone, encoder: Any = None) -> KeysValues:
    """The row of `INJECTIONS`: the same for every backbone."""
    return KeysValues()
