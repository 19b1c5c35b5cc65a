"""What a batch is given before it goes to the model: M-RoPE positions, and memory that a GPU can fetch."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn


def reserved_id(model: nn.Module, used: Tensor, special: Sequence[int] = ()) -> int:
    """The highest embedding row that no input uses and that the model's config does not name.

    Qwen's tables have spare rows above the tokenizer's last id, so this is one that never occurs.

    Args:
        model: the model whose input embeddings are meant.
        used: `(b, l)` ids in use.
        special: further ids to leave alone (those of the tokenizer's special tokens).

    Raises:
        ValueError: if every row is in use.
    """
    distinct = used.unique()  # type: ignore[no-untyped-call]
    taken = set(distinct.tolist()) | set(special) | _config_ids(getattr(model, "config", None))
    rows = id_rows(model)
    for candidate in range(rows - 1, -1, -1):
        if candidate not in taken:
            return candidate
    raise ValueError(f"all {rows} embedding rows are in use: give placeholder_id, one that no input contains")


def id_rows(model: nn.Module) -> int:
    """Ids that the model both reads and scores: a repetition penalty looks up the score of every id read."""
    rows = _embeddings(model).num_embeddings
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None  # type: ignore[operator]
    return rows if head is None else min(rows, head.weight.shape[0])


def free_ids(model: nn.Module, processor: Any) -> list[int]:
    """Ids that no text yields, best first: a spare row of the table, else special tokens.

    Of those only the ones without a part in prompts (`ChatProcessor` cleans texts of special tokens). A
    processor may still write some of them.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    rows = id_rows(model)
    if len(tokenizer) < rows:
        return [rows - 1]
    roles = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id")
    taken = _config_ids(getattr(model, "config", None)) | {getattr(tokenizer, role) for role in roles}
    template = str(getattr(processor, "chat_template", ""))
    special = [
        id_ for id_, token in tokenizer.added_tokens_decoder.items()
        if token.special and id_ < rows and id_ not in taken and str(token) not in template
    ]  # fmt: skip
    return sorted(special, reverse=True)


def _config_ids(config: Any) -> set[int]:
    """Ids that a config names (`image_token_id`, `pad_token_id`, …), nested text configs included."""
    if config is None:
        return set()
    ids: set[int] = set()
    for part in (config, getattr(config, "text_config", None)):
        for name, value in vars(part).items() if part is not None else ():
            if name.endswith("token_id"):
                ids.update(value if isinstance(value, (list, tuple)) else [value])
    return {int(i) for i in ids if i is not None}


def _embeddings(model: nn.Module) -> nn.Embedding:
    return model.get_input_embeddings()  # type: ignore[operator, no-any-return]


def pinned(inputs: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The batch in page-locked memory if it is for a GPU and still on the CPU; else as it is."""
    if device.type != "cuda":
        return inputs
    return {name: value if value.is_cuda else value.pin_memory() for name, value in inputs.items()}


def with_positions(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add explicit M-RoPE `position_ids` `(3, n, l)`, and the token types they follow from.

    Left to itself, a Qwen-VL model counts padding as positions in batches without images, and keeps
    `rope_deltas` for its next call, which may be another reader's. They are computed on the CPU:
    transformers' code goes through rows and images in Python, and on a GPU every step of it would wait
    for the device.

    Args:
        model: a Qwen-VL model, or one with LoRA on it; its `get_rope_index` counts.
        inputs: `input_ids`, `attention_mask` `(n, l)`, and `image_grid_thw` `(images, 3)` if there are any.
    """
    if "position_ids" in inputs:
        return inputs
    config: Any = model.config
    types = inputs.get("mm_token_type_ids")
    if types is None:
        types = (inputs["input_ids"] == config.image_token_id).int()
    base: Any = model.base_model
    device, grid = inputs["input_ids"].device, inputs.get("image_grid_thw")
    positions, _ = base.get_rope_index(
        inputs["input_ids"].cpu(),
        mm_token_type_ids=types.cpu(),
        image_grid_thw=None if grid is None else grid.cpu(),
        attention_mask=inputs["attention_mask"].cpu(),
    )
    return {**inputs, "mm_token_type_ids": types, "position_ids": positions.to(device)}


#: What attention layers are called that keep a key and a value for each token.
_KEEPS_TOKENS = ("full_attention", "sliding_attention", "chunked_attention")
#: Rotary embeddings whose frequencies change with the length of the input: keys cannot be moved.
_CHANGING_ROPE = ("dynamic", "longrope")


def per_layer_table(model: Any) -> nn.Embedding | None:
    """The table from which each layer gets embeddings of its own (Gemma 3n, Gemma 4), if there is one."""
    found = (m for name, m in model.named_modules() if name.rpartition(".")[2] == "embed_tokens_per_layer")
    return next((m for m in found if isinstance(m, nn.Embedding)), None)


def decoder_layers(model: Any) -> nn.ModuleList:
    """The language model's layers."""
    return cast(nn.ModuleList, model.get_decoder().layers)


def cache_name(names: Container[str]) -> str:
    """What a forward calls its cache: `cache` since transformers 5.24, `past_key_values` before.

    Args:
        names: of its arguments.
    """
    return "cache" if "cache" in names else "past_key_values"


def cache_argument(model: Any) -> str:
    """`cache_name` for the forward of a model."""
    return cache_name(_arguments(type(model).forward))


@functools.cache
def _arguments(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def attends_fully(model: Any) -> bool:
    """Whether every layer of the language model is full self-attention: what a packed batch needs."""
    try:
        return len(memory_layers(model)) == len(decoder_layers(model))
    except AttributeError:
        return False


def attention(model: Any, layer: int) -> nn.Module:
    """A layer's self-attention."""
    return cast(nn.Module, model.get_decoder().layers[layer].self_attn)


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


def linear_layers(model: Any) -> tuple[int, ...]:
    """Layers that keep a state instead of keys and values: linear attention, state spaces, convolutions."""
    decoder = getattr(model, "get_decoder", lambda: None)()
    types: Sequence[str] = getattr(getattr(decoder, "config", None), "layer_types", None) or ()
    return tuple(i for i, kind in enumerate(types) if not kind.endswith(_KEEPS_TOKENS))


def keeps_state(model: Any) -> bool:
    """Whether a model may keep a state that padding goes through: not all its layers are known attention."""
    return bool(linear_layers(model)) or not _rotary_layers(model)


def _rotary_layers(model: Any) -> tuple[int, ...]:
    decoder = getattr(model, "get_decoder", lambda: None)()
    if not hasattr(decoder, "layers") or not hasattr(decoder, "rotary_emb"):
        return ()
    return memory_layers(model)


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
        if not hasattr(rotary, f"{name}_inv_freq"):
            raise ValueError(f"no rotary frequencies of {name} are to be found: keys cannot be moved")
        kind, frequencies = rotary.rope_type[name], getattr(rotary, f"{name}_inv_freq")
    if kind in _CHANGING_ROPE:
        raise ValueError(f"rotary embeddings of type {kind!r} change with the length: keys cannot be moved")
    return cast(Tensor, frequencies)


def text_positions(model: Any, mask: Tensor) -> dict[str, Tensor]:
    """The `position_ids` `(b, l)` that `generate` gives a left-padded batch, as a keyword.

    Without them a text model's forward counts padding as positions. Empty for models that make their own
    of ids and mask (M-RoPE), or know no positions (state-space models).

    Args:
        model: that is to generate.
        mask: `(b, l)`, 0 at padding.
    """
    base = model.base_model
    if hasattr(base, "get_rope_index") or "position_ids" not in _arguments(type(base).forward):
        return {}
    return {"position_ids": (mask.long().cumsum(dim=-1) - 1).clamp(min=0)}


def forget_positions(model: nn.Module) -> None:
    """Drop what Qwen-VL models remember between calls (`rope_deltas`), so that no call sees another's."""
    for module in (model, model.base_model, *model.children()):  # where transformers' models have it
        if "rope_deltas" in vars(module):
            module.rope_deltas = None  # type: ignore[union-attr]


@contextmanager
def fresh_positions(model: nn.Module) -> Iterator[None]:
    """Inside the context nothing is remembered of calls before it, and after it nothing of those inside."""
    forget_positions(model)
    try:
        yield
    finally:
        forget_positions(model)


def with_token_types(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Add `mm_token_type_ids` where images come without: Qwen2.5-VL then falls back to plain positions."""
    inputs = dict(inputs)
    if inputs.get("image_grid_thw") is not None and inputs.get("mm_token_type_ids") is None:
        config: Any = model.config
        ids = inputs["input_ids"]
        is_video = ids == getattr(config, "video_token_id", -1)
        inputs["mm_token_type_ids"] = (ids == config.image_token_id).int() + 2 * is_video.int()
    return inputs
