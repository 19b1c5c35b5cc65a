"""Memories of an encoder that reads no item twice: what it has made stays in RAM."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from comem.ahead import Ahead
from comem.memory.bank import MemoryBank
from comem.memory.encoder import MemoryEncoder, length_batches
from comem.types import KnowledgeItem


class RememberedMemories:
    """`Memories` of an encoder, kept by item; the least recently used go.

    Args:
        encoder: makes what is missing, all of a batch in one packed call.
        items: memories kept (4,096 of 8 × 3584 in bfloat16 are 235 MB).
        items_per_call: more missing items than this are encoded in several calls.
    """

    def __init__(self, encoder: MemoryEncoder, items: int = 4096, items_per_call: int = 64) -> None:
        if items < 0 or items_per_call < 1:
            raise ValueError(f"items={items}, items_per_call={items_per_call}: give at least 0 and 1")
        self.encoder, self.items, self.items_per_call = encoder, items, items_per_call
        self.encoder_calls = self.encoded = self.recalled = 0
        self._inputs: Ahead[tuple[KnowledgeItem, ...], dict[str, Tensor]] = Ahead(encoder.inputs, kept=16)
        self._coming: set[KnowledgeItem] = set()
        self._kept: OrderedDict[KnowledgeItem, Tensor] = OrderedDict()

    @property
    def fingerprint(self) -> str:
        """Of the encoder."""
        return self.encoder.fingerprint()

    @property
    def width(self) -> int:
        """`d`."""
        return self.encoder.width

    @property
    def opens_pictures(self) -> bool:
        return True

    def ahead(self, items: Sequence[KnowledgeItem]) -> None:
        """Make the encoder's inputs for those that are not known, nor made for a batch before."""
        missing = [item for item in items if item not in self._kept and item not in self._coming]
        self._coming.update(missing)
        for rows in length_batches(missing, self.items_per_call):
            self._inputs.make(tuple(missing[row] for row in rows))

    def of(self, items: Sequence[KnowledgeItem]) -> MemoryBank:
        """The memories of these items, in this order; those not known yet are encoded together."""
        missing = [item for item in items if item not in self._kept]
        found = {item: self._kept[item] for item in items if item in self._kept}
        self.recalled += len(found)
        if missing:
            made = self.encoder.encode(missing, self.items_per_call, self._taken).embeddings
            self.encoder_calls += -(-len(missing) // self.items_per_call)
            self.encoded += len(missing)
            found |= zip(missing, made, strict=True)
        self._coming.difference_update(items)
        for item in items:
            self._kept[item] = found[item]
            self._kept.move_to_end(item)
        while len(self._kept) > self.items:
            self._kept.popitem(last=False)
        memories = [found[item] for item in items]
        shape = (0, self.encoder.qformer.config.num_queries, self.width)
        stacked = torch.stack(memories) if memories else torch.zeros(shape)
        return MemoryBank(stacked, tuple(item.id for item in items), self.fingerprint)

    def _taken(self, items: Sequence[KnowledgeItem]) -> dict[str, Tensor]:
        return self._inputs.take(tuple(items))

    def describe(self) -> str:
        """Where the memories came from."""
        return f"{self.recalled:,} kept, {self.encoded:,} encoded in {self.encoder_calls:,} encoder calls"
