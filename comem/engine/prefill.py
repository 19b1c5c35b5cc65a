"""The prefill: all prompts of a batch in one packed pass, for short ones a recorded one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from comem.backbones.positions import cache_argument, forget_positions
from comem.backbones.prepared import Segments
from comem.memory.injection.prefix import memory_at


class SlotCache:
    """What transformers' models need of a cache: `update`, in place, at fixed addresses.

    Filled from packed rows (`filling`), then with one token a row and step (`at`). The last slot is for
    padding and never looked at.

    Args:
        rows: rows `b` that it holds.
        slots: tokens a row can hold, and one.
    """

    is_compileable = False

    def __init__(self, rows: int, slots: int, device: torch.device) -> None:
        self.rows, self.slots = rows, slots
        self.at = torch.zeros(rows, dtype=torch.long, device=device)  # where the next token goes
        self.keys: dict[int, Tensor] = {}  # by layer, (b, kv_heads, slots, w)
        self.values: dict[int, Tensor] = {}
        self._every = torch.arange(rows, device=device)
        self._filling: tuple[Tensor, Tensor] | None = None

    def start(self, segments: Segments) -> None:
        """The next token of each row goes behind these.

        Raises:
            ValueError: more rows than there are, or a row longer than the slots.
        """
        n = len(segments.lengths)
        if n > self.rows or segments.longest >= self.slots:
            raise ValueError(
                f"{n} rows of up to {segments.longest} tokens do not fit into {self.rows} rows of "
                f"{self.slots} slots, one of them for padding"
            )
        self.at.copy_(torch.tensor([*segments.lengths, *[0] * (self.rows - n)]), non_blocking=True)

    @contextmanager
    def filling(self, segments: Segments) -> Iterator[None]:
        """Inside the context, what comes is these packed rows; errors as `start`."""
        self.start(segments)
        shape = segments.real.shape
        slot = torch.arange(segments.longest, device=self.at.device).expand(shape)[segments.real]
        row = self._every[: shape[0], None].expand(shape)[segments.real]
        with self.filling_at(row, slot):
            yield

    @contextmanager
    def filling_at(self, row: Tensor, slot: Tensor) -> Iterator[None]:
        """Inside the context, what comes is tokens for these rows and slots, `(total,)` each."""
        self._filling = row, slot
        try:
            yield
        finally:
            self._filling = None

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values, and return those that attention needs.

        Args:
            key: `(1, kv_heads, total, w)` while filling, then `(b, kv_heads, 1, w)`.
            value: the same.
            layer_idx: the layer's number.
        """
        keys, values = self._of_layer(layer_idx, key)
        if self._filling is not None:
            row, slot = self._filling
            keys[row, :, slot] = key[0].transpose(0, 1)
            values[row, :, slot] = value[0].transpose(0, 1)
            return key, value
        keys[self._every, :, self.at] = key[:, :, 0]
        values[self._every, :, self.at] = value[:, :, 0]
        return keys, values

    def _of_layer(self, layer: int, like: Tensor) -> tuple[Tensor, Tensor]:
        if layer not in self.keys:
            shape = (self.rows, like.shape[1], self.slots, like.shape[3])
            self.keys[layer], self.values[layer] = like.new_zeros(shape), like.new_zeros(shape)
        return self.keys[layer], self.values[layer]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Not asked where positions and masks are given; transformers' models name it nevertheless."""
        return 0


class GraphPool:
    """Memory that recorded passes share, since only one of them runs at a time.

    What a pass returns lies in it: use it before the next one runs.
    """

    def __init__(self) -> None:
        self._handle: Any = None

    def record(self, work: Callable[[], Tensor]) -> tuple[Any, Tensor]:
        """The graph of one call of `work`, which is not carried out, and where its result will be."""
        graph = torch.cuda.CUDAGraph()
        # "thread_local": the thread that prepares the next batch may go on allocating meanwhile.
        with torch.cuda.graph(graph, pool=self._handle, capture_error_mode="thread_local"):
            result = work()
        self._handle = graph.pool()
        return graph, result


class Recorded:
    """`work`, run as it is the first time (which warms up), recorded the second, replayed from then on.

    Args:
        work: reads and writes buffers at fixed addresses only, and never waits for the device.
        pool: None runs it as it is for ever.
    """

    def __init__(self, work: Callable[[], Tensor], pool: GraphPool | None) -> None:
        self._work, self._pool = work, pool
        self._graph: Any = None
        self._result: Tensor | None = None
        self._warm = False

    def __call__(self) -> Tensor:
        """The work's result, for as long as no other recorded pass runs."""
        if self._pool is None or not self._warm:
            self._warm = True
            return self._work()
        if self._result is None:
            self._graph, self._result = self._pool.record(self._work)
        self._graph.replay()
        return self._result


_Sizes = tuple[tuple[int, ...], ...]


@dataclass
class WorkCounts:
    """Counts of work; a change that doubles one of them is a change for the worse whatever the clock says.

    Attributes:
        encoder_calls: batches of items that the encoder read.
        items_encoded: items in them.
        prefills: prompts batches read.
        prompt_tokens: tokens in them.
        padded_tokens: tokens that were computed for nothing, to fill a batch up.
        forward_passes: forward passes of the reader, prefills included.
        copies_to_device: tensors of prompts that were handed to the device; on a CPU nothing is copied.
    """

    encoder_calls: int = 0
    items_encoded: int = 0
    prefills: int = 0
    prompt_tokens: int = 0
    padded_tokens: int = 0
    forward_passes: int = 0
    copies_to_device: int = 0

    def add(self, **counted: int) -> None:
        """Add to the counters named."""
        for name, number in counted.items():
            setattr(self, name, getattr(self, name) + number)

    def as_dict(self) -> dict[str, int]:
        """All counters by name."""
        return asdict(self)


class VisionTower:
    """Reads images with the tower of a Qwen2-VL or Qwen2.5-VL.

    Args:
        model: the whole model.
        pool: records passes; None does not.
        kept: sizes of which buffers and graph are kept.
    """

    def __init__(self, model: Any, pool: GraphPool | None, kept: int = 16) -> None:
        self.tower: Any = model.base_model.visual
        self._pool, self._kept = pool, kept
        self._known: OrderedDict[_Sizes, _Pass] = OrderedDict()

    def __call__(self, pixels: Tensor, grid: Tensor) -> Tensor:
        """Image embeddings `(tokens, d)`, for use before the next recorded pass.

        Args:
            pixels: `(patches, channels · frames · 14 · 14)`, all images one after another.
            grid: `(images, 3)` on the CPU: frames, rows and columns of patches.
        """
        sizes = tuple(tuple(row) for row in grid.tolist())
        found = self._known.pop(sizes, None) or _Pass(self.tower, pixels, grid, self._pool)
        self._known[sizes] = found
        while len(self._known) > self._kept:
            self._known.popitem(last=False)
        found.pixels.copy_(pixels, non_blocking=True)
        return found.run()


class _Pass:
    """Buffers for images of certain sizes, and the pass over them."""

    def __init__(self, tower: Any, like: Tensor, grid: Tensor, pool: GraphPool | None) -> None:
        weight: Tensor = next(tower.parameters())
        self.tower, self.grid = tower, grid.to(weight.device)
        self.pixels = torch.empty(like.shape, dtype=weight.dtype, device=weight.device)
        self.layout = {
            name: value.to(weight.device) if isinstance(value, Tensor) else value
            for name, value in layout(tower, grid).items()
        }
        self.run = Recorded(self._run, pool)

    def _run(self) -> Tensor:
        found: Tensor = self.tower(self.pixels, grid_thw=self.grid, **self.layout).pooler_output
        return found


def layout(tower: Any, grid: Tensor) -> dict[str, Any]:
    """What follows from the images' sizes, by transformers' own functions, on the CPU.

    Computed inside the tower, each of it would wait for the device.
    """
    from transformers.vision_utils import (
        get_vision_attention_seqlens,
        get_vision_position_ids,
        get_vision_window_index,
    )

    merge = tower.spatial_merge_size
    images, _ = get_vision_attention_seqlens(grid, tower.config)
    found: dict[str, Any] = {
        "position_ids": get_vision_position_ids(grid, merge),
        "cu_seqlens": images,
        "max_seqlen": _longest(images),
    }
    if hasattr(tower, "window_size"):  # Qwen2.5-VL
        index, windows = get_vision_window_index(grid, merge, tower.window_size, tower.patch_size)
        found |= {"window_index": index, "cu_window_seqlens": windows, "max_window_seqlen": _longest(windows)}
    return found


def _longest(cumulative: Tensor) -> int:
    return int((cumulative[1:] - cumulative[:-1]).max())


#: Recorded prompts come in multiples of so many tokens; what is filled up counts as padding.
_BUCKET = 32
#: Longer prompts keep the device busy anyway: nothing is recorded for them.
_MOST = 4096
#: Lengths of which a recorded pass is kept.
_KEPT = 16


@dataclass(frozen=True)
class PackedPrompt:
    """A batch ready to be read, made ahead on the CPU.

    Attributes:
        inputs: packed `(1, total)` tensors, positions among them, and pixels.
        segments: where the rows lie.
        memory: `(1, total)`, True at memory positions.
        placeholder_id: what `input_ids` hold there.
        next_position: `(axes, b)`: where each row's first new token stands.
    """

    inputs: dict[str, Any]
    segments: Segments
    memory: Tensor
    placeholder_id: int
    next_position: Tensor


class Prefill:
    """Reads prompts into a cache.

    Args:
        model: takes packed batches.
        pool: records passes; None does not.
        counts: counts passes, tokens and copies.
    """

    def __init__(self, model: Any, pool: GraphPool | None, counts: WorkCounts) -> None:
        self.model, self.counts = model, counts
        self.device: torch.device = model.device
        vision = getattr(model.config, "vision_config", None)
        plain = hasattr(model.base_model, "visual") and not hasattr(vision, "deepstack_visual_indexes")
        self._pool = pool if plain else None  # Qwen3-VL adds images inside its layers, too
        self._tower = VisionTower(model, pool) if plain else None

    def __call__(
        self, prompt: PackedPrompt, memories: Sequence[Tensor | None], cache: SlotCache, passes: Passes
    ) -> Tensor:
        """Logits of each row's last token `(n, v)`, for use before the next pass.

        Args:
            prompt: the packed batch.
            memories: per row its memory `(m, d)`, or None.
            cache: where keys and values go.
            passes: recorded ones over this cache, which belong to its owner.
        """
        self.counts.add(prefills=1, prompt_tokens=prompt.segments.total)
        forget_positions(self.model)
        if self._pool is not None and prompt.segments.total <= _MOST - _BUCKET:
            return self._recorded(prompt, memories, cache, passes)
        return self._plain(prompt, memories, cache)

    def _plain(self, prompt: PackedPrompt, memories: Sequence[Tensor | None], cache: SlotCache) -> Tensor:
        inputs = {name: self._placed(value) for name, value in prompt.inputs.items()}
        segments = Segments.of(prompt.segments.lengths, self.device)
        last = segments.cumulative[1:].long() - 1
        with (
            memory_at(self.model, memories, self._placed(prompt.memory), prompt.placeholder_id),
            cache.filling(segments),
        ):
            out = self.model(
                **inputs, segments=segments, use_cache=True, logits_to_keep=last,
                attention_mask=any_mask(self.device), **{cache_argument(self.model): cache},
            )  # fmt: skip
        return out.logits[0]  # type: ignore[no-any-return]

    def _recorded(
        self, prompt: PackedPrompt, memories: Sequence[Tensor | None], cache: SlotCache, passes: Passes
    ) -> Tensor:
        tokens = -(-(prompt.segments.total + 1) // _BUCKET) * _BUCKET
        found = passes.pop(tokens, None) or Pass(self.model, cache, tokens, self._pool)
        passes[tokens] = found
        while len(passes) > _KEPT:
            passes.popitem(last=False)
        self.counts.add(padded_tokens=tokens - prompt.segments.total)
        found.set(self._embedded(prompt, memories), self._placed(prompt.inputs["position_ids"]), prompt)
        return found.run()[0, : len(prompt.segments.lengths)]

    def _embedded(self, prompt: PackedPrompt, memories: Sequence[Tensor | None]) -> Tensor:
        """Input embeddings `(total, d)` with memories and images in place."""
        ids = self._placed(prompt.inputs["input_ids"])
        with memory_at(self.model, memories, self._placed(prompt.memory), prompt.placeholder_id):
            embedded = self.model.get_input_embeddings()(ids)[0]
        pixels = prompt.inputs.get("pixel_values")
        if pixels is None or self._tower is None:
            return embedded  # type: ignore[no-any-return]
        seen = self._tower(self._placed(pixels), prompt.inputs["image_grid_thw"].cpu())
        where = (ids[0] == self.model.config.image_token_id)[:, None]
        return embedded.masked_scatter(where, seen.to(embedded))  # type: ignore[no-any-return]

    def _placed(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        kind = self.model.dtype if value.is_floating_point() else value.dtype
        self.counts.add(copies_to_device=1)
        return value.to(self.device, kind, non_blocking=True)


class Pass:
    """The language model's pass over so many packed tokens into one cache, at fixed addresses.

    Behind the last row comes a row of padding, whose keys and values go into a slot that is never looked at.
    """

    def __init__(self, model: Any, cache: SlotCache, tokens: int, pool: GraphPool | None) -> None:
        device, rows = model.device, cache.rows
        width = model.get_input_embeddings().weight.shape[1]
        self.model, self.cache = model, cache
        self.embedded = torch.zeros((1, tokens, width), dtype=model.dtype, device=device)
        self.positions = torch.zeros((3, 1, tokens), dtype=torch.long, device=device)
        self.cumulative = torch.zeros(rows + 2, dtype=torch.int32, device=device)
        self.last = torch.zeros(rows, dtype=torch.long, device=device)
        self.row = torch.zeros(tokens, dtype=torch.long, device=device)
        self.slot = torch.zeros(tokens, dtype=torch.long, device=device)
        self.mask = any_mask(device)
        self.run = Recorded(self._run, pool)

    def set(self, embedded: Tensor, positions: Tensor, prompt: PackedPrompt) -> None:
        """Put a prompt into the buffers."""
        lengths, total = prompt.segments.lengths, prompt.segments.total
        tokens, spare = len(self.row), self.cache.rows - len(lengths)
        ends = prompt.segments.cumulative.tolist()
        self.embedded[0, :total] = embedded
        self.positions[..., :total] = positions
        self.cumulative.copy_(
            torch.tensor([*ends, *[total] * spare, tokens], dtype=torch.int32), non_blocking=True
        )
        self.last.copy_(torch.tensor([end - 1 for end in ends[1:]] + [0] * spare), non_blocking=True)
        sizes = torch.tensor(lengths)
        row = torch.repeat_interleave(torch.arange(len(lengths)), sizes)
        slot = torch.arange(total) - torch.tensor(ends[:-1])[row]
        self.row.zero_()
        self.slot.fill_(self.cache.slots - 1)
        self.row[:total] = row.to(self.row.device, non_blocking=True)
        self.slot[:total] = slot.to(self.slot.device, non_blocking=True)
        self.cache.start(prompt.segments)

    def _run(self) -> Tensor:
        segments = Segments((len(self.row),), self.cumulative)  # how long the longest may be, at most
        with self.cache.filling_at(self.row, self.slot):
            out = self.model(
                inputs_embeds=self.embedded, position_ids=self.positions, attention_mask=self.mask,
                segments=segments, use_cache=True, logits_to_keep=self.last,
                **{cache_argument(self.model): self.cache},
            )  # fmt: skip
        logits: Tensor = out.logits
        return logits


#: By tokens.
Passes = OrderedDict[int, Pass]


def any_mask(device: torch.device) -> Tensor:
    """A mask of four dimensions: transformers takes it as it is and makes none; packed rows need none."""
    return torch.ones((1, 1, 1, 1), dtype=torch.bool, device=device)
