"""Keys and values in fixed slots: every row begins at its own slot 0, so nothing is padded on the left."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from comem.backbones.packing import Segments


class SlotCache:
    """What transformers' models need of a cache: `update`, in place, at fixed addresses.

    Filled from one packed row (`fill`), then one token a row and step (`at`).

    Args:
        rows: rows `b` that it holds.
        slots: tokens a row can hold.
    """

    is_compileable = False

    def __init__(self, rows: int, slots: int, device: torch.device) -> None:
        self.rows, self.slots = rows, slots
        self.at = torch.zeros(rows, dtype=torch.long, device=device)  # where the next token goes
        self.keys: dict[int, Tensor] = {}  # by layer, (b, kv_heads, slots, w)
        self.values: dict[int, Tensor] = {}
        self._filling: tuple[Tensor, Tensor] | None = None

    def fill(self, segments: Segments) -> None:
        """What comes next is the packed prompt of the first `n` rows.

        Raises:
            ValueError: more rows than there are, or a row longer than the slots.
        """
        if len(segments.lengths) > self.rows or segments.longest > self.slots:
            raise ValueError(
                f"{len(segments.lengths)} rows of up to {segments.longest} tokens do not fit into "
                f"{self.rows} rows of {self.slots} slots"
            )
        slot = torch.arange(segments.longest, device=self.at.device).expand(segments.real.shape)
        row = torch.arange(len(segments.lengths), device=self.at.device)[:, None].expand(segments.real.shape)
        self._filling = row[segments.real], slot[segments.real]  # (total,) each
        self.at.zero_()
        self.at[: len(segments.lengths)] = (segments.cumulative[1:] - segments.cumulative[:-1]).long()

    def filled(self) -> None:
        """What comes next is one token a row."""
        self._filling = None

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values, and return those that attention needs.

        Args:
            key, value: `(1, kv_heads, total, w)` while filling, then `(b, kv_heads, 1, w)`.
        """
        if self._filling is not None:
            for kept, new in ((self.keys, key), (self.values, value)):
                if layer_idx not in kept:
                    shape = (self.rows, key.shape[1], self.slots, key.shape[3])
                    kept[layer_idx] = torch.zeros(shape, dtype=key.dtype, device=key.device)
                row, slot = self._filling
                kept[layer_idx][row, :, slot] = new[0].transpose(0, 1)
            return key, value
        row = torch.arange(self.rows, device=key.device)
        self.keys[layer_idx][row, :, self.at] = key[:, :, 0]
        self.values[layer_idx][row, :, self.at] = value[:, :, 0]
        return self.keys[layer_idx], self.values[layer_idx]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Not asked where positions and masks are given; transformers' models name it nevertheless."""
        return 0
