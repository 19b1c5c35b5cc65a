"""Media of a frozen or trained decoder: gated cross-attention blocks before some of its layers.

Every position of a row, text and image placeholders alike, attends without causality to the row's media:
image tokens (CoMemo, arXiv 2506.06279), or memories of retrieved items. The sequence and the cache of the
self-attention do not grow. Blocks are modules of their own, hung before the layers by hooks that are there
only while a context is open: no class of transformers is subclassed, and nothing is left on the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from comem.backbones.positions import decoder_layers

#: Of the blocks, not of the decoder (reference/comemo.md 3).
ROPE_BASE = 1e6
NORM_EPS = 1e-5


class MediaError(ValueError):
    """Media or a decoder that do not fit the blocks; the message names the remedy."""


@dataclass(frozen=True)
class BlockSizes:
    """What the blocks of one decoder are like.

    Attributes:
        width: `D` of the decoder, and of the media behind their projection.
        heads: of the cross-attention, each with keys and values of its own.
        head_dim: width of a head; `heads · head_dim` need not be `width`.
        intermediate: width of the feed-forward layer.
        layers: before which decoder layers there is a block, counted from 0.
        media_width: width of the media; None as the decoder's, without a projection.
        null_key: a learned key with value 0 beside the media: where to look if nothing there helps.
    """

    width: int
    heads: int
    head_dim: int
    intermediate: int
    layers: tuple[int, ...]
    media_width: int | None = None
    null_key: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        for name in ("width", "heads", "head_dim", "intermediate"):
            if getattr(self, name) < 1:
                raise MediaError(f"blocks: {name}={getattr(self, name)}: give at least 1")
        if self.head_dim % 2:
            raise MediaError(f"blocks: head_dim={self.head_dim}: rotary positions need an even number")
        if not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
            raise MediaError(f"blocks: layers={list(self.layers)}: give some, from 0, ascending, each once")


def every(count: int, number_of_layers: int) -> tuple[int, ...]:
    """The layers `l` with `(l + 1) % count == 0`.

    Raises:
        MediaError: there are none.
    """
    if not 1 <= count <= number_of_layers:
        raise MediaError(f"a block every {count} of {number_of_layers} layers: give 1 to {number_of_layers}")
    return tuple(range(count - 1, number_of_layers, count))


@dataclass(frozen=True)
class Media:
    """What the rows of a batch attend to.

    Attributes:
        values: `(b, M, d)`, rows that have fewer filled up at the end.
        counts: how many of them are each row's own; a row with 0 skips the blocks, it is the base model.
        ids: `(b, M)` positions of the keys; None for none, neither on keys nor on queries.
        query_id: position of all queries, where media have positions among themselves; None: the decoder's.
        spans: of one row that holds several samples one behind the other: per sample where its tokens begin
            and end, and where its media do. The samples do not see each other's.
    """

    values: Tensor
    counts: tuple[int, ...]
    ids: Tensor | None = None
    spans: tuple[tuple[int, int, int, int], ...] = ()
    query_id: int | None = None

    @classmethod
    def of(cls, rows: Sequence[Tensor | None], ids: Sequence[Tensor | None] | None = None) -> Media | None:
        """Media of a batch, each row's `(m, d)` or None; None if no row has any.

        Args:
            rows: of one width.
            ids: per row positions `(m,)`, or None for media without positions.
        """
        given = [row for row in rows if row is not None and len(row)]
        if not given:
            return None
        counts = tuple(0 if row is None else len(row) for row in rows)
        values = given[0].new_zeros(len(rows), max(counts), given[0].shape[1])
        values = torch.stack(
            [
                own if row is None else F.pad(row, (0, 0, 0, len(own) - len(row)))
                for own, row in zip(values, rows, strict=True)
            ]
        )
        if ids is None:
            return cls(values, counts)
        places = torch.zeros(len(rows), max(counts), dtype=torch.long, device=values.device)
        for place, own in zip(places, ids, strict=True):
            if own is not None:
                place[: len(own)] = own
        return cls(values, counts, places)


class MediaBlock(nn.Module):
    """Cross-attention to the media, then a feed-forward layer, each behind a gate that starts at 0.

    Args:
        sizes: of the block.
    """

    def __init__(self, sizes: BlockSizes) -> None:
        super().__init__()
        inner = sizes.heads * sizes.head_dim
        self.heads, self.head_dim = sizes.heads, sizes.head_dim
        self.attn_gate, self.ff_gate = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        self.norm = nn.Parameter(torch.ones(sizes.width))  # of hidden states and media alike
        self.to_q = nn.Linear(sizes.width, inner, bias=False)
        self.to_kv = nn.Linear(sizes.width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, sizes.width, bias=False)
        self.ff_norm = nn.Parameter(torch.ones(sizes.width))
        self.w1 = nn.Linear(sizes.width, sizes.intermediate, bias=False)
        self.w2 = nn.Linear(sizes.intermediate, sizes.width, bias=False)
        self.w3 = nn.Linear(sizes.width, sizes.intermediate, bias=False)
        self.null_key = nn.Parameter(torch.zeros(sizes.heads, 1, sizes.head_dim)) if sizes.null_key else None

    def keys_values(self, media: Tensor, ids: Tensor | None) -> tuple[Tensor, Tensor]:
        """Rotated keys and values `(b, H, M, e)` of media `(b, M, d)` at `(b, M)`: once for an image set."""
        keys, values = self._heads(linear(self.to_kv, rms(media, self.norm))).chunk(2, dim=1)
        return (keys if ids is None else rotate(keys, ids)), values

    def forward(
        self,
        hidden: Tensor,
        keys: Tensor,
        values: Tensor,
        ids: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Hidden states as they enter the layer.

        Args:
            hidden: `(b, l, d)`.
            keys: `(b, H, M, e)`, as `keys_values` gives them.
            values: the same.
            ids: positions of the queries `(b, l)`; None for none.
            mask: `(b, 1, 1, M)`, which media there are; None for all.

        Returns:
            `(b, l, d)`.
        """
        query = self._heads(linear(self.to_q, rms(hidden, self.norm)))  # (b, H, l, e)
        query = query if ids is None else rotate(query, ids)
        keys, values, mask = self._with_null(keys, values, mask)
        seen = F.scaled_dot_product_attention(
            query, keys.to(query.dtype), values.to(query.dtype), attn_mask=mask
        )
        seen = linear(self.to_out, seen.transpose(1, 2).flatten(2))
        hidden = hidden + self.attn_gate.tanh().to(hidden.dtype) * seen.to(hidden.dtype)
        inner = rms(hidden, self.ff_norm)
        fed = linear(self.w2, F.silu(linear(self.w1, inner)) * linear(self.w3, inner))
        return hidden + self.ff_gate.tanh().to(hidden.dtype) * fed.to(hidden.dtype)

    def _heads(self, x: Tensor) -> Tensor:
        """`(b, l, n·e)` to `(b, n, l, e)`."""
        return cast(Tensor, x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2))  # type: ignore[no-untyped-call]

    def _with_null(
        self, keys: Tensor, values: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The same with the null key in front, which every row sees."""
        if self.null_key is None:
            return keys, values, mask
        null = self.null_key.to(keys.dtype).expand(len(keys), -1, -1, -1)
        keys, values = torch.cat([null, keys], dim=2), F.pad(values, (0, 0, 1, 0))
        return keys, values, None if mask is None else F.pad(mask, (1, 0), value=True)


def _projections(layer: nn.Module) -> tuple[Tensor, ...]:
    """Weights of a layer's query, key, value and output projections, without LoRA.

    Raises:
        MediaError: it has none under these names, or they are no plain matrices (4-bit).
    """
    found = []
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        given = getattr(getattr(layer, "self_attn", None), name, None)
        weight = getattr(getattr(given, "base_layer", given), "weight", None)
        if not hasattr(layer, "input_layernorm") or weight is None or not weight.is_floating_point():
            raise MediaError(
                f"{type(layer).__name__}: no {name} whose weights blocks could start with; set start=random"
            )
        found.append(weight.detach())
    return tuple(found)


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """A layer on inputs of another dtype: what is trained stays in float32 beside a decoder in bfloat16."""
    if layer.weight.dtype == x.dtype:
        return cast(Tensor, layer(x))
    return F.linear(x, layer.weight.to(x.dtype), None if layer.bias is None else layer.bias.to(x.dtype))


def rms(x: Tensor, weight: Tensor) -> Tensor:
    """RMSNorm in float32, in the dtype of its input."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + NORM_EPS)
    return weight.to(x.dtype) * wide.to(x.dtype)


def rotate(x: Tensor, ids: Tensor) -> Tensor:
    """Rotary positions on `(b, H, l, e)`, first half with second half, in float32.

    Args:
        x: queries or keys.
        ids: positions `(b, l)`.
    """
    half = x.shape[-1] // 2
    frequencies = 1.0 / ROPE_BASE ** (torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = ids.to(x.device)[:, None, :, None].float() * frequencies  # (b, 1, l, e / 2)
    cos, sin = angles.cos(), angles.sin()
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


class MediaBlocks(nn.Module):
    """The blocks of one decoder.

    ```python
    blocks = MediaBlocks(BlockSizes(width=2048, heads=16, head_dim=128, intermediate=8192, layers=(3, 7)))
    with blocks.attach(model, Media.of([images]), position_ids=ids):
        tokens = model.generate(**inputs)
    ```

    Args:
        sizes: of all of them.

    Attributes:
        checkpointing: compute each block again in the backward pass. The layers' own checkpointing does not
            reach what hooks do.
    """

    def __init__(self, sizes: BlockSizes) -> None:
        super().__init__()
        self.sizes, self.checkpointing = sizes, False
        self.blocks = nn.ModuleDict({str(layer): MediaBlock(sizes) for layer in sizes.layers})
        self.project: nn.Linear | None = None
        if sizes.media_width is not None and sizes.media_width != sizes.width:
            self.project = nn.Linear(sizes.media_width, sizes.width)

    def start(self, std: float = 0.02) -> None:
        """Draw the matrices anew; norms are 1, gates and the null key 0, so the decoder is the base."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @torch.no_grad()
    def start_as(self, model: Any) -> None:
        """Projections and norm as the self-attention of each block's layer has them; gates stay at 0.

        A frozen reader then looks for memories as it looks for words in front of the question. Biases,
        positions and norms of heads are not taken over.

        Args:
            model: a causal model of transformers, whose heads the blocks have.

        Raises:
            MediaError: a decoder without such projections, or with other heads.
        """
        for number, layer in self._layers(model).items():
            block = cast(MediaBlock, self.blocks[number])
            query, key, value, out = _projections(layer)
            copies = block.to_q.out_features // max(len(key), 1)
            if query.shape != block.to_q.weight.shape or copies * len(key) != len(query):
                raise MediaError(
                    f"blocks of {block.heads} heads of {block.head_dim} cannot start as the reader's layer "
                    f"{number} with {tuple(query.shape)}: leave heads and head_dim at 0, or set start=random"
                )
            key, value = (
                w.reshape(-1, block.head_dim, w.shape[1]).repeat_interleave(copies, 0).flatten(0, 1)
                for w in (key, value)
            )
            scale = getattr(cast(Any, layer).self_attn, "scaling", block.head_dim**-0.5)
            block.to_q.weight.copy_(query * (scale * block.head_dim**0.5))
            block.to_kv.weight.copy_(torch.cat([key, value]))
            block.to_out.weight.copy_(out)
            signs = torch.ones_like(block.norm)
            signs[1::2] = -1  # mean 0, so that a LayerNorm gives its weight, too
            block.norm.copy_(cast(Any, layer).input_layernorm(signs.to(out)[None])[0] * signs)

    def gates(self) -> dict[str, float]:
        """|tanh| of each gate by name: how much of the memory path each layer lets in."""
        return {
            f"{name}/{layer}": float(getattr(block, name).detach().tanh().abs())
            for layer, block in self.blocks.items()
            for name in ("attn_gate", "ff_gate")
        }

    def gate_parameters(self) -> list[nn.Parameter]:
        """The gates."""
        return [getattr(block, name) for block in self.blocks.values() for name in ("attn_gate", "ff_gate")]

    @contextmanager
    def attach(
        self, model: Any, media: Media | None, query_jump: Sequence[int] | None = None
    ) -> Iterator[None]:
        """Have a decoder attend to media in every call while the context is open.

        Keys and values are computed here, once. Beams and other copies of rows take their row's. Nothing
        stays on the model or on the blocks, even after an error.

        Args:
            model: a causal model of transformers.
            media: of the rows in their order; None leaves the model alone.
            query_jump: by how much the positions of decoded tokens are ahead of the decoder's, per row: a
                defect of the authors' code, for their outputs (reference/comemo.md D3).

        Raises:
            MediaError: media of another width, or a decoder whose layers cannot be hooked.
        """
        if media is None or not any(media.counts):
            yield
            return
        layers = self._layers(model)
        self._check(media)
        call = _Call(self, media, query_jump)
        with ExitStack() as hooks:
            if media.ids is not None and media.query_id is None:
                hook = model.get_decoder().register_forward_pre_hook(call.note_positions, with_kwargs=True)
                hooks.callback(hook.remove)
            for number, layer in layers.items():
                hook = layer.register_forward_pre_hook(call.before(number), with_kwargs=True)
                hooks.callback(hook.remove)
            yield

    def _layers(self, model: Any) -> dict[str, nn.Module]:
        """The layers with a block, by number."""
        try:
            found = decoder_layers(model)
            width = int(model.get_decoder().config.hidden_size)
        except AttributeError as error:
            raise MediaError(
                f"{type(model).__name__}: its decoder has no list of layers (get_decoder().layers), so no "
                "block can "
                "be put before one; take a decoder of transformers"
            ) from error
        if self.sizes.layers[-1] >= len(found):
            raise MediaError(
                f"blocks before layers {list(self.sizes.layers)}, but the decoder has {len(found)} layers"
            )
        if width != self.sizes.width:
            raise MediaError(
                f"blocks of width {self.sizes.width} for a decoder of width {width}: not its own blocks"
            )
        return {number: found[int(number)] for number in self.blocks}

    def _check(self, media: Media) -> None:
        width = self.sizes.media_width or self.sizes.width
        if media.values.ndim != 3 or media.values.shape[-1] != width:
            raise MediaError(
                f"media of shape {tuple(media.values.shape)}, the blocks read (b, M, {width}): they come "
                "from another "
                "encoder, or their projection is missing (media_width)"
            )
        if media.ids is not None and media.ids.shape != media.values.shape[:2]:
            raise MediaError(f"{tuple(media.ids.shape)} positions for {tuple(media.values.shape[:2])} media")
        if len(media.counts) != (len(media.spans) or len(media.values)):
            raise MediaError(
                f"{len(media.counts)} counts of media for {len(media.spans) or len(media.values)} rows"
            )


class _Call:
    """What the hooks of one open context share: keys and values, and the positions of the running forward."""

    def __init__(self, blocks: MediaBlocks, media: Media, query_jump: Sequence[int] | None) -> None:
        self.blocks, self.media = blocks, media
        self.rows = len(media.values)
        values = media.values if blocks.project is None else linear(blocks.project, media.values)
        self.known = {
            number: cast(MediaBlock, block).keys_values(values, media.ids)
            for number, block in blocks.blocks.items()
        }
        self.mask = _mask(media)
        self.jump = None if query_jump is None else torch.tensor(query_jump, device=values.device)
        self.ids: Tensor | None = None
        self.copied: dict[tuple[str, int], tuple[Tensor | None, ...]] = {}

    def note_positions(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Positions of the queries, as the decoder gets them; the running index where it gets none."""
        embeds = kwargs.get("inputs_embeds")
        shape = (kwargs["input_ids"] if embeds is None else embeds).shape[:2] if kwargs else args[0].shape[:2]
        cache = kwargs.get("past_key_values", kwargs.get("cache"))
        ids = kwargs.get("position_ids")
        past = 0 if cache is None else int(cache.get_seq_length())
        if ids is None:
            ids = torch.arange(past, past + shape[1], device=self.media.values.device).expand(shape)
        while ids.ndim > 2:
            ids = ids[0]
        ids = ids.expand(shape)
        if ids.shape[1] > 1 and cache is None and kwargs.get("attention_mask") is None:
            _refuse_jumps(ids)
        if self.jump is not None and past:
            ids = ids + self.jump.repeat_interleave(shape[0] // self.rows)[:, None]
        self.ids = ids

    def before(self, number: str) -> Any:
        """The hook of one layer."""

        def hook(
            _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            if args:
                return (self.through(number, args[0]), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": self.through(number, kwargs["hidden_states"])}

        return hook

    def through(self, number: str, hidden: Tensor) -> Tensor:
        """The hidden states `(rows, l, d)` behind the block; those of rows without media as they are."""
        if self.media.query_id is not None:
            self.ids = torch.full(hidden.shape[:2], self.media.query_id, device=hidden.device)
        if self.media.spans:
            return self._through_spans(number, hidden)
        copies, rest = divmod(len(hidden), self.rows)
        if rest or not copies:
            return hidden  # other rows, as when the same model encodes items while the context is open
        has = [row for row, count in enumerate(self.media.counts) for _ in range(copies) if count]
        keys, values, *mask = self._copied(number, copies)
        if len(has) == len(hidden):
            return self._block(number, hidden, keys, values, self.ids, *mask)
        at = torch.tensor(
            [i for i in range(len(hidden)) if self.media.counts[i // copies]], device=hidden.device
        )
        ids = None if self.ids is None else self.ids[at]
        mask = [m if m is None else m[at] for m in mask]
        return hidden.index_copy(0, at, self._block(number, hidden[at], keys[at], values[at], ids, *mask))

    def _through_spans(self, number: str, hidden: Tensor) -> Tensor:
        """Samples of one packed row, each with its own media: as if each came alone."""
        keys, values = self.known[number]
        parts, done = [], 0
        for start, end, first, last in self.media.spans:
            parts.append(hidden[:, done:start])
            part = hidden[:, start:end]
            if last > first:
                ids = None if self.ids is None else self.ids[:, start:end]
                part = self._block(number, part, keys[:, :, first:last], values[:, :, first:last], ids, None)
            parts.append(part)
            done = end
        return torch.cat([*parts, hidden[:, done:]], dim=1)

    def _copied(self, number: str, copies: int) -> tuple[Any, ...]:
        """Keys, values and mask with each row as often as beams repeat it."""
        if copies == 1:
            return (*self.known[number], self.mask)
        if (number, copies) not in self.copied:
            each: tuple[Tensor | None, ...] = (*self.known[number], self.mask)
            self.copied[number, copies] = tuple(
                x if x is None else x.repeat_interleave(copies, dim=0) for x in each
            )
        return self.copied[number, copies]

    def _block(self, number: str, hidden: Tensor, *given: Any) -> Tensor:
        block = self.blocks.blocks[number]
        if self.blocks.checkpointing and torch.is_grad_enabled():
            return cast(Tensor, checkpoint(block, hidden, *given, use_reentrant=False))
        return cast(Tensor, block(hidden, *given))


def _refuse_jumps(ids: Tensor) -> None:
    """Refuse positions `(b, l)` that jump where no mask says that a row is one sample."""
    if bool((ids.diff(dim=-1) != 1).any()):
        raise MediaError(
            "position_ids that jump, without an attention_mask: transformers takes each jump for the "
            "start of "
            "another sample; pass attention_mask (all ones where nothing is padded)"
        )


def _mask(media: Media) -> Tensor | None:
    """`(b, 1, 1, M)`, which media are a row's own; None where all have as many."""
    most = media.values.shape[1]
    if media.spans or all(count == most for count in media.counts):
        return None
    counts = torch.tensor(media.counts, device=media.values.device)
    return (torch.arange(most, device=media.values.device) < counts[:, None])[:, None, None]
