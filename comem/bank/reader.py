"""Reading a store: memory-mapped, safe beside a writer, without torch."""

from __future__ import annotations

import mmap
import os
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from comem.bank.format import (
    ENTRY,
    REPAIR,
    EntryTable,
    StoreError,
    StoreInfo,
    entry_crc,
    missing_message,
    read_info,
    shard_name,
)
from comem.bank.forms import Form, open_form


class MemoryStore:
    """Memories by item id. Any number of processes may read while one writes.

    What is read was whole on the disk before its entry was written, and is never changed afterwards;
    `refresh` sees what was added since.

    Args:
        folder: of the store.
        accepted: fingerprints of encoders whose memories are wanted; None takes any.
        width: the reader's embedding width `d`; None takes any.
        repair: open one whose table was cut, too: to verify and mend it.

    Raises:
        StoreError: no store, another encoder or width, a missing or changed codec, or a table that was cut;
            names the remedy.
    """

    def __init__(
        self, folder: str | Path, accepted: str | Collection[str] | None = None, width: int | None = None,
        *, repair: bool = False,
    ) -> None:  # fmt: skip
        self.folder = Path(folder)
        self.info: StoreInfo = read_info(self.folder)
        check_encoder(self.folder, self.info.encoder.fingerprint, accepted)
        if width is not None and self.info.width != width:
            raise StoreError(
                f"{self.folder}: memories of width {self.info.width}, the reader needs {width}: "
                "encode the items with an encoder for this reader"
            )
        self.form: Form = open_form(self.folder, self.info)
        self.table = EntryTable(self.folder)
        if (lost := self.table.lost()) and not repair:
            self.table.close()
            raise StoreError(f"{self.folder}: {lost}: {REPAIR}")
        self._shards: dict[int, mmap.mmap] = {}

    def __len__(self) -> int:
        return len(self.table)

    def __contains__(self, item_id: object) -> bool:
        return isinstance(item_id, str) and self.table.slot(item_id) >= 0

    def refresh(self) -> None:
        """See what a writer has added since."""
        self.table.refresh()

    def slots(self, ids: Sequence[str]) -> np.ndarray:
        """int64 `(n,)`: where the memories of these ids lie.

        Raises:
            ValueError: an id is not here; the nearest are named.
        """
        found = [self.table.slot(item_id) for item_id in ids]
        missing = [item_id for item_id, slot in zip(ids, found, strict=True) if slot < 0]
        if missing:
            raise StoreError(missing_message(self.folder, missing, self.table))
        return np.array(found, dtype=np.int64)

    def rows(self, slots: Sequence[int] | np.ndarray, *, check: bool = True) -> np.ndarray:
        """The bytes of slots, uint8 `(n, stride)`, copied out of the mapped files.

        Args:
            slots: of the table.
            check: compare each memory with its checksum.

        Raises:
            StoreError: a shard is missing or was cut, or a memory was changed.
        """
        stride = self.info.stride
        places = [self.info.place(int(slot)) for slot in slots]
        maps = [self._mapped(shard, offset + stride) for shard, offset in places]
        if len(places) > 1:  # ask for all of them at once, so that a cold disk works in parallel
            for part, (_, offset) in zip(maps, places, strict=True):
                start = offset - offset % mmap.PAGESIZE
                part.madvise(mmap.MADV_WILLNEED, start, offset + stride - start)
        out = np.empty((len(places), stride), dtype=np.uint8)
        for row, (part, (_, offset)) in enumerate(zip(maps, places, strict=True)):
            out[row] = np.frombuffer(part, dtype=np.uint8, count=stride, offset=offset)
        if check:
            self._check(slots, out)
        return out

    def _check(self, slots: Sequence[int] | np.ndarray, rows: np.ndarray) -> None:
        for slot, row in zip(slots, rows, strict=True):
            raw = self.table.raw(int(slot))
            entry = np.frombuffer(raw, dtype=ENTRY)[0]
            if entry_crc(raw) != entry["entry_crc"] or zlib.crc32(row) != entry["payload_crc"]:
                name = shard_name(self.info.place(int(slot))[0])
                raise StoreError(f"{self.folder}: a memory in {name} or its entry was changed: {REPAIR}")

    def read(self, ids: Sequence[str]) -> np.ndarray:
        """float32 `(n, q, d)`: the memories of these items, in this order.

        Raises:
            StoreError: an id is not here, or a shard is damaged.
        """
        return self.form.unpack(self.rows(self.slots(ids)))

    def close(self) -> None:
        """Let go of the files."""
        self.table.close()
        for part in self._shards.values():
            part.close()
        self._shards.clear()

    def __enter__(self) -> MemoryStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _mapped(self, number: int, needed: int) -> mmap.mmap:
        """A shard, mapped at least so far; it may have grown since it was mapped last."""
        part = self._shards.get(number)
        if part is not None and len(part) >= needed:
            return part
        path = self.folder / shard_name(number)
        size = path.stat().st_size if path.is_file() else 0
        if size < needed:
            raise StoreError(f"{path}: {size} bytes, but {needed} were written; it was cut or lost: {REPAIR}")
        fd = os.open(path, os.O_RDONLY)
        try:
            self._shards[number] = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(fd)
        return self._shards[number]


def check_encoder(folder: Path, found: str, accepted: str | Collection[str] | None) -> None:
    """Refuse memories of another encoder.

    Raises:
        StoreError: names both and the remedy.
    """
    names = (accepted,) if isinstance(accepted, str) else accepted
    if names is not None and found not in names:
        wanted = " or ".join(f"{name[:12]}…" for name in names)
        raise StoreError(
            f"{folder}: made by another encoder (fingerprint {found[:12]}…, expected {wanted}): give another"
            " folder and encode the items again, or load the encoder that made it"
        )
