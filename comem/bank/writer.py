"""Writing a store: one process at a time, and nothing that was finished is lost when it dies.

The order makes it safe: memories, then ids, both on the disk; then the entries that speak for them. What has
no entry with a right checksum does not exist, and its room is used again.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from comem.bank.format import (
    ENTRY,
    IDS,
    LOCK,
    REMOVED,
    REPAIR,
    TABLE,
    EncoderInfo,
    EntryTable,
    StoreError,
    StoreInfo,
    default_shard_items,
    entry_crc,
    id_bytes,
    id_hash,
    is_store,
    read_info,
    shard_name,
    write_info,
)
from comem.bank.forms import Form, open_form
from comem.io.files import one_writer, storage_errors, sweep, sync

logger = logging.getLogger(__name__)

_WRITE = os.O_RDWR | os.O_CREAT
CHECKPOINT = 1 << 16  # entries without lookup.bin that a reader may have to scan (and 1/64 of all)


class StoreWriter:
    """Appends memories to a store; holds its lock until `close`.

    Args:
        folder: of a store (`create_store` makes one).
        durable: wait for the disk at each append (a power cut), not only for the system (kill -9).
        repair: open one whose ids were cut, too.

    Raises:
        StoreError: no store here, or one whose ids were cut.
        StorageError: another process writes it.
    """

    def __init__(self, folder: str | Path, *, durable: bool = True, repair: bool = False) -> None:
        self.folder, self.durable = Path(folder), durable
        self.info: StoreInfo = read_info(self.folder)
        self.form: Form = open_form(self.folder, self.info)
        self._shard = (-1, -1)  # number, file
        with ExitStack() as opened:  # lock and files, closed in the order opposite to that of opening
            opened.enter_context(one_writer(self.folder / LOCK))
            with storage_errors(self.folder):
                self._table_fd = self._open(TABLE, opened)
                self._ids_fd = self._open(IDS, opened)
                self.table = EntryTable(self.folder)
                opened.callback(self.table.close)
                if lost := self.table.lost():
                    logger.warning("%s: %s; a build makes them again", self.folder, lost)
                self._ids_end = self._cut_torn(repair)
            sweep(self.folder)  # what killed writers left
            if self.table.uncovered > self._slack():
                self.checkpoint()
            self._opened: ExitStack | None = opened.pop_all()

    def append(self, ids: Sequence[str], contents: Sequence[bytes], memories: np.ndarray) -> None:
        """Add memories, or put them in the place of older ones of the same ids: all of them or none.

        Args:
            ids: one per memory, each once.
            contents: 16 bytes per item, see `comem.bank.format`.
            memories: float32 `(n, q, d)`.

        Raises:
            ValueError: other sizes, an id twice, a memory that is not finite, or beyond what the form holds.
            StorageError: no space is left; the store is as before.
        """
        wanted = (len(ids), self.info.queries, self.info.width)
        if memories.shape != wanted:
            raise StoreError(f"{self.folder}: memories of shape {memories.shape}, expected {wanted}")
        bad = ~np.isfinite(memories).all(axis=(1, 2))
        if bad.any():
            name = ids[int(np.argmax(bad))]
            raise StoreError(f"the memory of {name!r} is not finite (NaN or infinite): check the encoder")
        self.append_rows(ids, contents, self.form.pack(np.asarray(memories, dtype=np.float32)))

    def append_rows(self, ids: Sequence[str], contents: Sequence[bytes], rows: np.ndarray) -> None:
        """As `append`, with memories that are packed already, uint8 `(n, stride)`."""
        if len(set(ids)) != len(ids):
            twice = next(i for i in ids if list(ids).count(i) > 1)
            raise StoreError(f"knowledge id {twice!r} comes twice in one append: give every item its own id")
        if rows.shape != (len(ids), self.info.stride) or rows.dtype != np.uint8:
            wanted = (len(ids), self.info.stride)
            raise StoreError(f"{self.folder}: rows of {rows.shape} {rows.dtype}, expected {wanted} uint8")
        if not len(ids):
            return
        with storage_errors(self.folder):
            self._write_rows(np.ascontiguousarray(rows))
            crcs = [zlib.crc32(row) for row in rows]
            self._commit(ids, contents, crcs, flags=0)

    def remove(self, ids: Sequence[str]) -> None:
        """Forget ids; their room stays taken until the store is exported or merged."""
        with storage_errors(self.folder):
            self._commit(ids, [bytes(16)] * len(ids), [0] * len(ids), flags=REMOVED)

    def forget(self, hashes: Sequence[bytes]) -> None:
        """As `remove`, of items whose ids can no longer be read."""
        nothing = [b""] * len(hashes)
        with storage_errors(self.folder):
            self._append_entries(hashes, nothing, [bytes(16)] * len(hashes), [0] * len(hashes), REMOVED)

    def blank(self) -> None:
        """Let entries that were changed say nothing any more; no lookup.bin speaks for them then."""
        end = 0
        for slot in range(self.table.count):
            raw = self.table.raw(slot)
            entry = np.frombuffer(raw, dtype=ENTRY).copy()
            if entry_crc(raw) != entry[0]["entry_crc"]:
                entry = np.zeros(1, dtype=ENTRY)
                entry["id_offset"], entry["flags"] = end, REMOVED
                entry["entry_crc"] = entry_crc(entry.tobytes())
                with storage_errors(self.folder):
                    _write_at(self._table_fd, memoryview(entry.tobytes()), slot * ENTRY.itemsize)
            end = int(entry[0]["id_offset"]) + int(entry[0]["id_length"])
        self._sync(self._table_fd)

    def content(self, item_id: str) -> bytes | None:
        """The content hash under which an item is stored, or None."""
        slot = self.table.slot(item_id)
        return None if slot < 0 else self.table.entry(slot)["content"].tobytes()

    def checkpoint(self) -> None:
        """Write lookup.bin anew, so that opening the store needs no scan."""
        if self.durable:
            os.fdatasync(self._table_fd)
        self.table.save_lookup()

    def close(self) -> None:
        """Write lookup.bin if entries were added, and let go of the lock."""
        if self._opened is None:
            return
        try:
            if self.table.uncovered:
                self.checkpoint()
        finally:
            self._release()

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, name: str, opened: ExitStack) -> int:
        fd = os.open(self.folder / name, _WRITE, 0o644)
        opened.callback(os.close, fd)
        return fd

    def _cut_torn(self, repair: bool) -> int:
        """Cut what a crash left behind the last whole entry; where the ids end."""
        os.ftruncate(self._table_fd, self.table.count * ENTRY.itemsize)
        end = 0
        if self.table.count:
            last = self.table.entry(self.table.count - 1)
            end = int(last["id_offset"]) + int(last["id_length"])
        if os.fstat(self._ids_fd).st_size < end and not repair:
            raise StoreError(f"{self.folder / IDS}: {end} bytes were written, it was cut: {REPAIR}")
        os.ftruncate(self._ids_fd, end)
        return end

    def _write_rows(self, rows: np.ndarray) -> None:
        """Write rows to the slots behind the last entry, shard by shard."""
        done = 0
        while done < len(rows):
            number, offset = self.info.place(self.table.count + done)
            room = self.info.shard_items - offset // self.info.stride
            part = rows[done : done + room]
            _write_at(self._shard_file(number), part.reshape(-1).data, offset)
            self._sync(self._shard[1])
            done += len(part)

    def _commit(self, ids: Sequence[str], contents: Sequence[bytes], crcs: Sequence[int], flags: int) -> None:
        """Ids, then entries; without the entries nothing has happened."""
        names, hashes = [id_bytes(item_id) for item_id in ids], [id_hash(item_id) for item_id in ids]
        for item_id, content in zip(ids, contents, strict=True):
            if len(content) != 16:
                raise StoreError(f"content hash of {item_id!r}: {len(content)} bytes, must be 16")
        _write_at(self._ids_fd, memoryview(b"".join(names)), self._ids_end)
        self._sync(self._ids_fd)
        self._append_entries(hashes, names, contents, crcs, flags)

    def _append_entries(
        self, hashes: Sequence[bytes], names: Sequence[bytes], contents: Sequence[bytes],
        crcs: Sequence[int], flags: int,
    ) -> None:  # fmt: skip
        """What makes items exist, or be gone."""
        entries = self._entries(hashes, names, contents, crcs, flags)
        try:
            _write_at(self._table_fd, memoryview(entries), self.table.count * ENTRY.itemsize)
            self._sync(self._table_fd)
        except BaseException:
            os.ftruncate(self._table_fd, self.table.count * ENTRY.itemsize)
            raise
        self._ids_end += sum(map(len, names))
        for key in hashes:
            self.table.note(key, self.table.count, bool(flags & REMOVED))
        if self.table.uncovered > self._slack():
            self.checkpoint()

    def _entries(
        self, hashes: Sequence[bytes], names: Sequence[bytes], contents: Sequence[bytes],
        crcs: Sequence[int], flags: int,
    ) -> bytes:  # fmt: skip
        now, offset, parts = int(time.time()), self._ids_end, []
        flags |= secrets.randbits(31) << 1  # a reader tells this append from one that was taken back
        for key, name, content, crc in zip(hashes, names, contents, crcs, strict=True):
            entry = np.zeros(1, dtype=ENTRY)
            entry["id_hash"], entry["content"] = np.void(key), np.void(content)
            entry["id_offset"], entry["id_length"], entry["flags"] = offset, len(name), flags
            entry["time"], entry["payload_crc"] = now, crc
            entry["entry_crc"] = entry_crc(entry.tobytes())
            parts.append(entry.tobytes())
            offset += len(name)
        return b"".join(parts)

    def _shard_file(self, number: int) -> int:
        """The shard, open for writing; only the last one is ever written."""
        if self._shard[0] != number:
            self._close_shard()
            self._shard = (number, os.open(self.folder / shard_name(number), _WRITE, 0o644))
            if self.durable:
                sync(self.folder)
        return self._shard[1]

    def _close_shard(self) -> None:
        if self._shard[1] >= 0:
            os.close(self._shard[1])
        self._shard = (-1, -1)

    def _sync(self, fd: int) -> None:
        if self.durable:
            os.fdatasync(fd)

    def _slack(self) -> int:
        return max(CHECKPOINT, self.table.covered // 64)

    def _release(self) -> None:
        self._close_shard()
        if self._opened is not None:
            self._opened.close()
        self._opened = None


def create_store(
    folder: str | Path, form: Form, encoder: EncoderInfo, *, shard_items: int | None = None,
    codec_sha256: str | None = None,
) -> StoreInfo:  # fmt: skip
    """Make an empty store; where one of the same form and encoder lies already, nothing is done.

    Raises:
        StoreError: the folder holds another store, or other files.
    """
    folder = Path(folder)
    info = StoreInfo(
        form.name, form.queries, form.width, form.stride, shard_items or default_shard_items(form.stride),
        encoder, codec_sha256,
    )  # fmt: skip
    if is_store(folder):
        found = read_info(folder)
        same = ("form", "queries", "width", "stride", "codec_sha256")
        differ = [name for name in same if getattr(found, name) != getattr(info, name)]
        if found.encoder.fingerprint != encoder.fingerprint:
            differ.append("encoder")
        if differ:
            raise StoreError(f"{folder}: holds a store of another {', '.join(differ)}: give another folder")
        return found
    with storage_errors(folder), one_writer(folder / LOCK):
        write_info(folder, info)
    return info


def _write_at(fd: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written
