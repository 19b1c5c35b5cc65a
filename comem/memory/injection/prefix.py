"""The soft prefix: memory embeddings in front of everything a frozen model reads (paper, section 3).

Reserved ids, one for each embedding, go to the front of each row's real tokens, and a forward hook on the
embedding layer replaces their embeddings by the memory. Because the model still receives ids, masks and
token types, its own code computes positions (M-RoPE included), cache and decoding unmodified:
no class is subclassed and none is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from comem.backbones.base import Backbone, Injection
from comem.backbones.positions import (
    free_ids,
    fresh_positions,
    per_layer_table,
    reserved_id,
    with_token_types,
)
from comem.backbones.prepared import NOT_TOKENS
from comem.backbones.specs import BackboneError, BackboneSpec

# What memory positions (and the padding to their left) hold in the (b, l) tensors that processors
# return: (value at a memory position, value at a padded position). None stands for the placeholder.
# Padding holds it too, so that a repetition penalty never hits a word because rows were padded.
_FILL: dict[str, tuple[int | None, int | None]] = {
    "input_ids": (None, None),
    "attention_mask": (1, 0),
    "mm_token_type_ids": (0, 0),
    "token_type_ids": (0, 0),
    "labels": (-100, -100),
    "cross_attention_mask": (0, 0),  # (b, l, images, tiles): like text before an image
}


@dataclass(frozen=True)
class Prefix(Injection):
    """Memory embeddings `(m, d)` in front of each row's real tokens.

    ```python
    with Prefix().attach(model, inputs, [memory]) as extended:      # memory (8k, d)
        tokens = model.generate(**extended)                          # or model(**extended)
    ```

    A subclass that defines `starts` puts them elsewhere in the row, as an infix; the engine takes part all
    the same.

    Attributes:
        free_ids: ids for memory positions, best first, of which the first is taken that the inputs do not
            contain (`comem.backbones.positions.free_ids`); with none left, `reserved_id`.
    """

    packs = True

    free_ids: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Its row in `INJECTIONS`."""
        return "prefix"

    def check(self, spec: BackboneSpec) -> None:
        """Refuse, with a BackboneError, a model that takes no embeddings."""
        if not spec.soft_prefix:
            raise BackboneError(f"{spec.name} takes no memory; use the baseline or rag mode with it")

    def starts(self, ids: Tensor, mask: Tensor) -> list[int]:
        """The column of each row before which its memory goes: its first real token.

        Args:
            ids: `(b, l)`.
            mask: `(b, l)`, 0 at padding.
        """
        return _first_real(mask)

    @contextmanager
    def attach(
        self, model: Any, inputs: Mapping[str, Any], memories: Sequence[Tensor | None]
    ) -> Iterator[dict[str, Any]]:
        """Put memories before the model while the context is open; see `Injection.attach`.

        The hook fills the prefill only: later calls with fewer ids (decoding with a cache) pass untouched,
        longer ones (without a cache) are filled again.

        Args:
            model: a causal model of transformers.
            inputs: of its processor, `(b, l)`.
            memories: per row `(m, d)` in the dtype of the model's embeddings, or None.

        Yields:
            The extended inputs, see `make_room`.

        Raises:
            ValueError: on a memory of another width or dtype, and as `make_room`.
        """
        _check_memories(memories, _embeddings(model).weight)
        extended, positions, placeholder = self.room(model, inputs, _sizes(memories))
        with memory_at(model, memories, positions, placeholder):
            yield extended

    def room(
        self, model: Any, inputs: Mapping[str, Any], sizes: Sequence[int]
    ) -> tuple[dict[str, Any], Tensor, int]:
        """As `Injection.room`; the id is the first free one that the inputs do not contain."""
        placeholder = self.placeholder(model, _ids(inputs))
        typed = with_token_types(model, inputs)
        extended, positions = make_room(typed, sizes, placeholder, self.starts)
        return extended, positions, placeholder

    def placeholder(self, model: Any, ids: Tensor) -> int:
        """The id of memory positions among `ids` `(b, l)`: the first free one that does not occur there."""
        free = (free for free in self.free_ids if not bool((ids == free).any()))
        found = next(free, None)
        return reserved_id(model, ids) if found is None else found


PREFIX = Prefix()


def _sizes(memories: Sequence[Tensor | None]) -> list[int]:
    return [0 if memory is None else len(memory) for memory in memories]


def without(inputs: Mapping[str, Any], marker: int) -> tuple[dict[str, Any], list[int | None]]:
    """Take a marker out of every row, padding the row on its left instead.

    Args:
        inputs: what a processor returns, `(b, l)`; a mask is added if there is none.
        marker: an id that stands at most once in a row's real tokens.

    Returns:
        The inputs, and per row the column at which the marker stood, None where there was none.

    Raises:
        ValueError: a row has it twice.
    """
    ids = _ids(inputs)
    mask = inputs.get("attention_mask", torch.ones_like(ids))
    inputs = {**inputs, "attention_mask": mask}
    columns: list[int | None] = []
    for row, found in enumerate(((ids == marker) & mask.bool()).tolist()):
        if (times := sum(found)) > 1:
            raise ValueError(f"row {row} has {times} videos: one in a conversation can be remembered")
        columns.append(found.index(True) if times else None)
    if columns == [None] * len(columns):
        return inputs, columns

    def cut(tensor: Tensor, padding: int) -> Tensor:
        rows = []
        for row, at in zip(tensor, columns, strict=True):
            pad = row.new_full((1, *row.shape[1:]), padding)
            rows.append(row if at is None else torch.cat([pad, row[:at], row[at + 1 :]]))
        return torch.stack(rows)

    for name, value in inputs.items():
        if _is_per_token(name, value, (ids.shape[0], ids.shape[1])):
            padding = _FILL[name][1]  # ids: any that is masked; the row's own first stays within the table
            inputs[name] = cut(value, int(ids[0, 0]) if padding is None else padding)
    return inputs, [None if at is None else at + 1 for at in columns]


def make_room(
    inputs: Mapping[str, Any],
    sizes: Sequence[int],
    placeholder_id: int,
    starts: Callable[[Tensor, Tensor], Sequence[int]] | None = None,
) -> tuple[dict[str, Any], Tensor]:
    """Make room for memories, by default in front of each row's real tokens.

    Rows come out as `[padding][memory][question]`, padded on the left to one length `L`, so the question is
    always in the last `l` columns, whatever each row's memory is.

    Args:
        inputs: what a processor returns; every `(b, l)` tensor is extended, the rest passes through.
        sizes: embeddings of each row's memory; they may differ.
        placeholder_id: an id that occurs nowhere in the inputs.
        starts: of ids and mask `(b, l)`, each row's column before which its memory goes; None for the front.

    Returns:
        The inputs with `(b, L)` tensors, and the memory positions `(b, L)`, bool.

    Raises:
        ValueError: on the wrong number of memories, a placeholder that occurs, a tensor per token that is
            not known here, or positions that are already given.
    """
    ids = _checked_ids(inputs, len(sizes), placeholder_id)
    b, length = ids.shape
    mask = inputs.get("attention_mask")
    mask = torch.ones_like(ids) if mask is None else mask
    first = _first_real(mask)
    extended = {**inputs, "attention_mask": mask}
    if not any(sizes):
        return extended, torch.zeros_like(ids, dtype=torch.bool)
    places = first if starts is None else starts(ids, mask)
    total = max(length, *(length - f + m for f, m in zip(first, sizes, strict=True)))

    def extend(tensor: Tensor, memory: int, padding: int) -> Tensor:
        rows = []
        for row, start, at, size in zip(tensor, first, places, sizes, strict=True):
            rest = row.shape[1:]  # of a cross-attention mask: images, tiles
            pad = row.new_full((total - (length - start) - size, *rest), padding)
            rows.append(torch.cat([pad, row[start:at], row.new_full((size, *rest), memory), row[at:]]))
        return torch.stack(rows)

    for name, value in extended.items():
        if not _is_per_token(name, value, (b, length)):
            continue
        memory, padding = (placeholder_id if fill is None else fill for fill in _FILL[name])
        extended[name] = extend(value, memory, padding)
    positions = extend(torch.zeros_like(ids), 1, 0).bool()
    return extended, positions


def _ids(inputs: Mapping[str, Any]) -> Tensor:
    ids = inputs.get("input_ids")
    if not isinstance(ids, Tensor) or ids.ndim != 2:
        raise ValueError("a soft prefix needs input_ids of shape (b, l), not embeddings")
    return ids


def _checked_ids(inputs: Mapping[str, Any], rows: int, placeholder_id: int) -> Tensor:
    ids = _ids(inputs)
    for name in ("inputs_embeds", "position_ids"):
        if inputs.get(name) is not None:
            raise ValueError(f"remove {name} from the inputs: the model computes it with the memory in place")
    if rows != len(ids):
        raise ValueError(f"{rows} memories for {len(ids)} rows: one per row, None for no memory")
    if bool((ids == placeholder_id).any()):
        raise ValueError(f"placeholder id {placeholder_id} occurs in input_ids: choose another")
    return ids


def _first_real(mask: Tensor) -> list[int]:
    """Index of each row's first real token, from the mask `(b, l)`."""
    if not bool(mask.any(dim=1).all()):
        raise ValueError("a row's attention_mask is 0 everywhere: an empty question")
    return mask.bool().int().argmax(dim=1).tolist()


def _is_per_token(name: str, value: Any, shape: tuple[int, int]) -> bool:
    if not isinstance(value, Tensor) or tuple(value.shape[:2]) != shape or name in NOT_TOKENS:
        return False
    if value.ndim > 2 and name not in _FILL:
        return False
    if name not in _FILL:
        raise ValueError(f"do not know what {name!r} {shape} holds at memory positions; known: {list(_FILL)}")
    return True


@contextmanager
def memory_at(
    model: nn.Module, memories: Sequence[Tensor | None], positions: Tensor, placeholder_id: int
) -> Iterator[None]:
    """Fill the memories' positions while the context is open, for inputs in which room was made before.

    Qwen-VL's remembered `rope_deltas` are dropped before and after, so that no call sees another's.

    Args:
        model: whose input embeddings are filled.
        memories: per row `(m, d)`, or None.
        positions: `(b, L)` of `make_room`, or `(1, total)` of a packed batch.
        placeholder_id: the id that the inputs hold at these positions.

    Raises:
        ValueError: on a memory of another width or dtype.
    """
    table = _embeddings(model)
    _check_memories(memories, table.weight)
    if not 0 <= placeholder_id < table.num_embeddings:
        raise ValueError(f"placeholder id {placeholder_id} is outside the {table.num_embeddings} embeddings")
    handles = [table.register_forward_hook(_fill_hook(memories, positions, placeholder_id))]
    if (each := per_layer_table(model)) is not None:
        handles.append(each.register_forward_pre_hook(_as_images(positions, placeholder_id)))
    try:
        with fresh_positions(model):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _embeddings(model: nn.Module) -> nn.Embedding:
    return model.get_input_embeddings()  # type: ignore[operator, no-any-return]


def _check_memories(memories: Sequence[Tensor | None], weight: Tensor) -> None:
    width = weight.shape[1]
    for row, prefix in enumerate(memories):
        if prefix is None:
            continue
        if prefix.ndim != 2 or prefix.shape[1] != width:
            raise ValueError(
                f"prefix {row} has shape {tuple(prefix.shape)}, the model reads (m, {width}): "
                "it comes from an encoder of another width, or its projection is missing"
            )
        if prefix.dtype != weight.dtype:
            raise ValueError(
                f"prefix {row} is {prefix.dtype}, the model's embeddings are {weight.dtype}: "
                f"convert it with .to({weight.dtype})"
            )


def _fill_hook(
    memories: Sequence[Tensor | None], positions: Tensor, placeholder_id: int
) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor | None]:
    """The hook that puts `memories` at `positions` `(b, L)` of the embeddings `(b, L, d)`.

    It goes by position, not by id alone: a model may *generate* the reserved id.
    """
    rows, length = positions.shape
    given = [p for p in memories if p is not None and len(p)]

    def fill(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not given or not args or args[0].ndim != 2:
            return None
        ids = args[0]
        copies, rest = divmod(len(ids), rows)  # beams and num_return_sequences repeat each row
        if rest or ids.shape[1] < length:
            if ids.shape[1] > 1 and bool((ids == placeholder_id).any()):
                raise ValueError(f"prompt of {length} tokens read in parts of {ids.shape[1]}: not supported")
            return None
        where = nn.functional.pad(positions.to(ids.device), (0, ids.shape[1] - length))
        where = where.repeat_interleave(copies, dim=0)
        if not bool(((ids == placeholder_id) | ~where).all()):
            return None  # other rows, as when the same model encodes items while the context is open
        memory = torch.cat([p for p in memories if p is not None for _ in range(copies)])
        return output.masked_scatter(where[..., None], memory.to(output))

    return fill


#: The row of a layer's own table that Gemma's models give the positions of images: the padding's.
_NO_WORD = 0


def _as_images(
    positions: Tensor, placeholder_id: int
) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...] | None]:
    """The hook by which each layer's own table gives memory what it gives images: no word's row."""

    def ids_of(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not args or args[0].ndim != 2 or args[0].shape[1] < positions.shape[1]:
            return None
        return (args[0].masked_fill(args[0] == placeholder_id, _NO_WORD), *args[1:])

    return ids_of


def prefix_for(backbone: Backbone, encoder: Any = None) -> Prefix:
    """The soft prefix, with ids that no text of the backbone's tokenizer yields."""
    if not backbone.spec.soft_prefix:
        return PREFIX
    return Prefix(tuple(free_ids(backbone.model, backbone.processor)))
