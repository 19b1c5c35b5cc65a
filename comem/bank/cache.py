"""What the comem mode reads: a store behind a small cache, and an encoder for what is missing."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from comem.bank.format import StoreError, content_hash
from comem.bank.forms import Form
from comem.bank.reader import MemoryStore
from comem.bank.table import missing_message
from comem.bank.writer import StoreWriter
from comem.io.files import StorageError
from comem.io.prefetch import Ahead
from comem.memory.bank import Memories, MemoryBank
from comem.memory.encoder import MemoryEncoder, length_batches
from comem.types import KnowledgeItem

if TYPE_CHECKING:
    from comem.memory.encoder import MemoryEncoder

log = logging.getLogger(__name__)


@dataclass
class Counts:
    """Where memories came from.

    Attributes:
        cached: out of the cache.
        read: out of the store.
        encoded: made by the encoder because the store had none.
        encoder_calls: how often the encoder was called.
    """

    cached: int = 0
    read: int = 0
    encoded: int = 0
    encoder_calls: int = 0


class StoredMemories:
    """Memories by item, for a reader.

    Items that the store holds cost one copy out of a mapped file: no encoder, no image file, no passage.
    A missing item is encoded, written to the store and served as the store has it, so that the first
    answer equals all later ones. When another process is writing the store, it is only kept in the cache.

    Args:
        store: opened for the encoder in use.
        encoder: makes missing memories; None refuses them.
        cache_items: memories kept in RAM (1,024 of 8 × 3584 in bfloat16 are 56 MB).
    """

    def __init__(
        self, store: MemoryStore, encoder: MemoryEncoder | None = None, cache_items: int = 1024
    ) -> None:
        if cache_items < 0:
            raise ValueError(f"cache_items={cache_items}: must be 0 or more")
        self.store, self.encoder, self.cache_items = store, encoder, cache_items
        self.counts = Counts()
        self._one_at_a_time = threading.RLock()
        self._cache: OrderedDict[str, Tensor] = OrderedDict()

    @classmethod
    def open(
        cls, folder: str | Path, encoder: MemoryEncoder | None = None, width: int | None = None,
        cache_items: int = 1024,
    ) -> StoredMemories:  # fmt: skip
        """Open a store's folder; errors as `MemoryStore`."""
        accepted = None if encoder is None else encoder.accepted_fingerprints()
        return cls(MemoryStore(folder, accepted, width), encoder, cache_items)

    @property
    def fingerprint(self) -> str:
        """Of the encoder that made the memories."""
        return self.store.info.encoder.fingerprint

    @property
    def width(self) -> int:
        """`d`."""
        return self.store.info.width

    def __len__(self) -> int:
        return len(self.store)

    @property
    def opens_pictures(self) -> bool:
        """Only of items that are missing, which are few."""
        return False

    def ahead(self, items: Sequence[KnowledgeItem]) -> None:
        """Nothing: a memory is read within a millisecond."""

    def describe(self) -> str:
        """Where the memories came from, and how often the encoder was called."""
        counts = self.counts
        return (
            f"{counts.read:,} read, {counts.cached:,} cached, {counts.encoded:,} encoded in"
            f" {counts.encoder_calls:,} encoder calls"
        )

    def select(self, ids: Sequence[str]) -> MemoryBank:
        """The memories of these ids, in this order; nothing is encoded.

        Raises:
            StoreError: an id is neither cached nor stored.
        """
        with self._one_at_a_time:
            found = self._known(ids)
        missing = [item_id for item_id in ids if item_id not in found]
        if missing:
            raise StoreError(missing_message(self.store.folder, missing, self.store.table))
        return self._bank(ids, found)

    def of(self, items: Sequence[KnowledgeItem]) -> MemoryBank:
        """The memories of these items, in this order; those that the store lacks are made.

        Raises:
            StoreError: an item is missing and there is no encoder.
        """
        ids = [item.id for item in items]
        if self.encoder is None:
            return self.select(ids)
        with self._one_at_a_time:
            found = self._known(ids)
            missing = [item for item in items if item.id not in found]
            if missing:
                found |= self._make(missing, self.encoder)
        return self._bank(ids, found)

    def _known(self, ids: Sequence[str]) -> dict[str, Tensor]:
        """Those of the ids that are cached or stored."""
        found = {item_id: self._cache[item_id] for item_id in ids if item_id in self._cache}
        for item_id in found:
            self._cache.move_to_end(item_id)
        self.counts.cached += len(found)
        rest = [item_id for item_id in dict.fromkeys(ids) if item_id not in found]
        slots = [self.store.table.slot(item_id) for item_id in rest]
        if -1 in slots:  # another process may have added it
            self.store.refresh()
            slots = [self.store.table.slot(item_id) for item_id in rest]
        stored = [(item_id, slot) for item_id, slot in zip(rest, slots, strict=True) if slot >= 0]
        if stored:
            rows = self.store.rows([slot for _, slot in stored])
            tensors = as_tensor(self.store.form, rows)
            self.counts.read += len(stored)
            found |= self._keep([item_id for item_id, _ in stored], tensors)
        return found

    def _make(self, items: Sequence[KnowledgeItem], encoder: MemoryEncoder) -> dict[str, Tensor]:
        """Encode items, add them to the store, and keep them."""
        made = encoder.encode(items).embeddings.float().cpu().numpy()  # (n, q, d)
        self.counts.encoder_calls += 1
        self.counts.encoded += len(items)
        rows = self.store.form.pack(made)
        ids = [item.id for item in items]
        try:
            contents = [content_hash(item) for item in items]
            with StoreWriter(self.store.folder) as writer:
                writer.append(ids, contents, made)
            self.store.refresh()
        except (StorageError, PermissionError) as error:
            log.warning("%d memories are not stored, only cached: %s", len(items), error)
        return self._keep(ids, as_tensor(self.store.form, rows))

    def _keep(self, ids: Sequence[str], memories: Tensor) -> dict[str, Tensor]:
        """Put memories `(n, q, d)` into the cache, the least recently used go."""
        found = dict(zip(ids, memories, strict=True))
        if self.cache_items:
            self._cache.update({item_id: memory.clone() for item_id, memory in found.items()})
            while len(self._cache) > self.cache_items:
                self._cache.popitem(last=False)
        return found

    def _bank(self, ids: Sequence[str], found: dict[str, Tensor]) -> MemoryBank:
        shape = (0, self.store.info.queries, self.width)
        memories = torch.stack([found[item_id] for item_id in ids]) if ids else torch.zeros(shape)
        return MemoryBank(memories, tuple(ids), self.fingerprint)


def open_memories(
    path: str | Path, encoder: MemoryEncoder | None = None, width: int | None = None
) -> Memories:
    """A store's folder, or a one-file bank.

    Args:
        encoder: in use; memories of another one are refused. A store asks it for what is missing.
        width: the reader's embedding width `d`.

    Raises:
        ValueError: neither, damaged, or of another encoder or width.
    """
    if Path(path).is_dir():
        return StoredMemories.open(path, encoder, width)
    accepted = None if encoder is None else encoder.accepted_fingerprints()
    return MemoryBank.load(path, accepted, width)


def as_tensor(form: Form, rows: np.ndarray) -> Tensor:
    """Packed memories uint8 `(n, stride)` as `(n, q, d)`: in the form's own type where torch has it."""
    own = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}.get(form.name)
    if own is None:
        return torch.from_numpy(form.unpack(rows))
    return torch.from_numpy(rows).view(own).view(len(rows), form.queries, form.width)


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
