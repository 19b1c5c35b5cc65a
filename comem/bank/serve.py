"""What a reader asks for memories: a small cache before a store, an encoder, or both; and `open_bank`."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from comem.bank.format import StoreError, content_hash, missing_message
from comem.bank.forms import Form
from comem.bank.reader import MemoryStore
from comem.bank.writer import StoreWriter
from comem.io.files import StorageError
from comem.io.images import Ahead
from comem.memory.bank import Bank, Counts, MemoryBank
from comem.memory.encoder import length_batches
from comem.types import KnowledgeItem

if TYPE_CHECKING:
    from comem.memory.encoder import MemoryEncoder

log = logging.getLogger(__name__)


def open_bank(
    path: str | Path, encoder: MemoryEncoder | None = None, width: int | None = None, *,
    cache_items: int = 1024,
) -> Bank:  # fmt: skip
    """Open a bank: a store's folder, or one .safetensors file.

    Example:
        >>> bank = comem.open_bank("runs/flags/bank")
        >>> bank.of(items).prefix()  # (8·n, d), in front of a question

    Args:
        path: the store's folder, or the file.
        encoder: in use; memories of another one are refused. A store asks it for what is missing.
        width: the reader's embedding width `d`; None takes any.
        cache_items: memories of a store kept in RAM.

    Raises:
        ValueError: neither, damaged, or of another encoder or width.
    """
    accepted = None if encoder is None else encoder.accepted_fingerprints()
    if Path(path).is_dir():
        return LiveBank(encoder, MemoryStore(path, accepted, width), cache_items)
    return MemoryBank.load(path, accepted, width)


class LiveBank(Bank):
    """A cache, behind it a store, behind that an encoder: each is asked for what those before lack.

    What a store holds costs one copy out of a mapped file: no encoder, no image file, no passage. A missing
    item is encoded, written to the store and served as the store has it, so that the first answer equals
    all later ones; while another process writes the store, it is only cached.

    Args:
        encoder: makes what is missing, a batch in few packed calls; None refuses it.
        store: opened for this encoder; None for memories in RAM alone.
        cache_items: memories kept in RAM, the least recently used go (1,024 of 8 × 3584 in bf16 are 56 MB).
        items_per_call: more missing items than this are encoded in several calls.
    """

    def __init__(
        self, encoder: MemoryEncoder | None, store: MemoryStore | None = None, cache_items: int = 4096,
        items_per_call: int = 64,
    ) -> None:  # fmt: skip
        if cache_items < 0 or items_per_call < 1:
            raise ValueError(f"{cache_items=}, {items_per_call=}: give at least 0 and 1")
        if encoder is None and store is None:
            raise ValueError("a bank needs a store, or an encoder that makes its memories")
        self.encoder, self.store = encoder, store
        varies = encoder is not None and encoder.num_vectors is None  # then only one call's fit together
        self.cache_items, self.items_per_call = 0 if varies else cache_items, items_per_call
        self._counts = Counts()
        self._cache: OrderedDict[Hashable, Tensor] = OrderedDict()  # by item, those of a store by id
        self._one_at_a_time = threading.RLock()
        ahead = encoder if store is None and encoder is not None and encoder.prepares else None
        self._inputs = None if ahead is None else Ahead(ahead.inputs, kept=16)
        self._coming: set[KnowledgeItem] = set()

    @property
    def fingerprint(self) -> str:
        """Of the store's encoder; without a store, of the encoder in use."""
        return self.store.info.encoder.fingerprint if self.store is not None else self._maker.fingerprint()

    @property
    def width(self) -> int:
        """`d`, that of the store; without a store, of the encoder in use."""
        return self.store.info.width if self.store is not None else self._maker.width

    @property
    def counts(self) -> Counts:
        """How many memories were read, cached and encoded so far."""
        return self._counts

    @property
    def opens_images(self) -> bool:
        """Of a store only those of missing items, which are few."""
        return self.store is None

    def __len__(self) -> int:
        return len(self._cache) if self.store is None else len(self.store)

    def close(self) -> None:
        """Let go of the store's files."""
        if self.store is not None:
            self.store.close()

    def describe(self) -> str:
        """As `Bank.describe`, with the number of encoder calls."""
        counts = self._counts
        stored = self.store is not None
        known = f"{counts.read:,} read, {counts.cached:,} cached" if stored else f"{counts.cached:,} kept"
        return f"{known}, {counts.encoded:,} encoded in {counts.encoder_calls:,} encoder calls"

    def ahead(self, items: Sequence[KnowledgeItem]) -> None:
        """Make the encoder's inputs for those that are not known, nor made for a batch before."""
        if self._inputs is None:  # a stored memory is read within a millisecond
            return
        missing = [item for item in items if item not in self._cache and item not in self._coming]
        self._coming.update(missing)
        for rows in length_batches(missing, self.items_per_call):
            self._inputs.make(tuple(missing[row] for row in rows))

    def select(self, ids: Sequence[str]) -> MemoryBank:
        """The stored memories of these ids, in this order; nothing is encoded.

        Raises:
            StoreError: an id is neither cached nor stored.
        """
        with self._one_at_a_time:
            return self._bank(ids, self._stored(ids), ids)

    def of(self, items: Sequence[KnowledgeItem]) -> MemoryBank:
        """The memories of these items, in this order; those that are missing are made.

        Raises:
            StoreError: an item is missing and there is no encoder.
        """
        ids = [item.id for item in items]
        keys: Sequence[Hashable] = ids if self.store is not None else items
        with self._one_at_a_time:
            found = self._stored(ids) if self.store is not None else self._cached(keys)
            missing = {key: item for key, item in zip(keys, items, strict=True) if key not in found}
            if missing and self.encoder is not None:
                found |= self._made(list(missing.values()), list(missing))
            self._coming.difference_update(items)
            return self._bank(ids, found, keys)

    @property
    def _maker(self) -> MemoryEncoder:
        assert self.encoder is not None
        return self.encoder

    def _cached(self, keys: Sequence[Hashable]) -> dict[Hashable, Tensor]:
        found = {key: self._cache[key] for key in keys if key in self._cache}
        for key in found:
            self._cache.move_to_end(key)
        self._counts.cached += len(found)
        return found

    def _stored(self, ids: Sequence[str]) -> dict[Hashable, Tensor]:
        """Those of the ids that are cached or stored."""
        found, store = self._cached(ids), self.store
        assert store is not None
        rest = [item_id for item_id in dict.fromkeys(ids) if item_id not in found]
        slots = [store.table.slot(item_id) for item_id in rest]
        if -1 in slots:  # another process may have added it
            store.refresh()
            slots = [store.table.slot(item_id) for item_id in rest]
        stored = {item_id: slot for item_id, slot in zip(rest, slots, strict=True) if slot >= 0}
        if stored:
            self._counts.read += len(stored)
            found |= self._keep(list(stored), as_tensor(store.form, store.rows(list(stored.values()))))
        return found

    def _made(self, items: Sequence[KnowledgeItem], keys: Sequence[Hashable]) -> dict[Hashable, Tensor]:
        """Encode items, add them to the store, and keep them."""
        prepared = self._taken if self._inputs else None
        made = self._maker.encode(items, self.items_per_call, prepared).checked().embeddings  # (n, q, d)
        self._counts.encoder_calls += -(-len(items) // self.items_per_call)
        self._counts.encoded += len(items)
        if self.store is not None:
            made = self._add(self.store, items, made.float().cpu().numpy())
        return self._keep(keys, made)

    def _taken(self, items: Sequence[KnowledgeItem]) -> Mapping[str, Tensor]:
        assert self._inputs is not None
        return self._inputs.take(tuple(items))

    def _add(self, store: MemoryStore, items: Sequence[KnowledgeItem], made: np.ndarray) -> Tensor:
        """Write memories to the store; what it gives for them from now on."""
        try:
            contents = [content_hash(item) for item in items]
            with StoreWriter(store.folder) as writer:
                writer.append([item.id for item in items], contents, made)
            store.refresh()
        except (StorageError, PermissionError) as error:
            log.warning("%d memories are not stored, only cached: %s", len(items), error)
        return as_tensor(store.form, store.form.pack(made))

    def _keep(self, keys: Sequence[Hashable], memories: Tensor) -> dict[Hashable, Tensor]:
        """Put memories `(n, q, d)` into the cache; the least recently used go."""
        found = dict(zip(keys, memories, strict=True))
        if self.cache_items:
            self._cache.update({key: memory.clone() for key, memory in found.items()})
            while len(self._cache) > self.cache_items:
                self._cache.popitem(last=False)
        return found

    def _bank(
        self, ids: Sequence[str], found: dict[Hashable, Tensor], keys: Sequence[Hashable]
    ) -> MemoryBank:
        """Those that were found, in order."""
        try:
            memories = [found[key] for key in keys]
        except KeyError as error:
            assert self.store is not None  # an encoder makes them all
            missing = [item_id for item_id in ids if item_id not in found]
            raise StoreError(missing_message(self.store.folder, missing, self.store.table)) from error
        if memories:
            return MemoryBank(torch.stack(memories), tuple(ids), self.fingerprint)
        queries = self.store.info.queries if self.store is not None else self._maker.num_vectors or 0
        return MemoryBank(torch.zeros(0, queries, self.width), (), self.fingerprint)


def as_tensor(form: Form, rows: np.ndarray) -> Tensor:
    """Packed memories uint8 `(n, stride)` as `(n, q, d)`: in the form's own type where torch has it."""
    own = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}.get(form.name)
    if own is None:
        return torch.from_numpy(form.unpack(rows))
    return torch.from_numpy(rows.reshape(-1)).view(own).view(len(rows), form.queries, form.width)
