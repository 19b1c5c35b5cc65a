"""The vision tower, for pictures whose sizes came before: what follows from sizes is computed once."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from comem.engine.graphs import GraphPool, Recorded

_Sizes = tuple[tuple[int, ...], ...]


class VisionTower:
    """Reads pictures with the tower of a Qwen2-VL or Qwen2.5-VL.

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
            pixels: `(patches, channels · frames · 14 · 14)`, all pictures one after another.
            grid: `(pictures, 3)` on the CPU: frames, rows and columns of patches.
        """
        sizes = tuple(tuple(row) for row in grid.tolist())
        found = self._known.pop(sizes, None) or _Pass(self.tower, pixels, grid, self._pool)
        self._known[sizes] = found
        while len(self._known) > self._kept:
            self._known.popitem(last=False)
        found.pixels.copy_(pixels, non_blocking=True)
        return found.run()


class _Pass:
    """Buffers for pictures of certain sizes, and the pass over them."""

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
    """What follows from the pictures' sizes, by transformers' own functions, on the CPU.

    Computed inside the tower, each of it would wait for the device.
    """
    from transformers.vision_utils import (
        get_vision_attention_seqlens,
        get_vision_position_ids,
        get_vision_window_index,
    )

    merge = tower.spatial_merge_size
    pictures, _ = get_vision_attention_seqlens(grid, tower.config)
    found: dict[str, Any] = {
        "position_ids": get_vision_position_ids(grid, merge),
        "cu_seqlens": pictures,
        "max_seqlen": _longest(pictures),
    }
    if hasattr(tower, "window_size"):  # Qwen2.5-VL
        index, windows = get_vision_window_index(grid, merge, tower.window_size, tower.patch_size)
        found |= {"window_index": index, "cu_window_seqlens": windows, "max_window_seqlen": _longest(windows)}
    return found


def _longest(cumulative: Tensor) -> int:
    return int((cumulative[1:] - cumulative[:-1]).max())
