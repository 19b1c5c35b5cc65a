"""The id table: entries in table.bin, ids in ids.bin, and lookup.bin, which finds an id without a scan.

Only table.bin and ids.bin hold facts; lookup.bin can be made from them and is ignored when it does not fit.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from comem.bank.format import ENTRY, IDS, LOOKUP, REMOVED, TABLE, entry_crc, id_hash
from comem.io.files import write_atomic

MAGIC = b"CMLOOKUP"
#: magic, version, 0, entries covered, keys, CRC of the last entry covered, CRC of this header before it
HEADER = struct.Struct("<8sIIQQII24x")
_CHECKED = 36  # bytes of the header before its CRC
_SCAN = 1 << 16  # entries read at once


class EntryTable:
    """Which slot holds the memory of an id; what a writer adds is known at once, to itself.

    Args:
        folder: of a store; without table.bin it is empty.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._keys = np.zeros(0, dtype=np.uint64)  # (m,), sorted
        self._slots = np.zeros(0, dtype=np.uint64)  # (m,), of the keys
        self._covered = 0  # entries that keys and slots speak for
        self._tail: dict[bytes, int] = {}  # id hash → slot, or -1 for removed; newer than the keys
        self.count = 0
        self._table = self._ids = -1
        self.refresh()

    def refresh(self) -> None:
        """Read what a writer has appended since."""
        if self._table < 0 and not self._open():
            return
        if self._covered == 0:  # before the size of the table, which may grow in between
            self._load_lookup()
        count = _valid_count(self._table)
        if count < self._covered:  # the table was replaced by an older one
            self._keys, self._slots, self._covered, self._tail = _none(), _none(), 0, {}
            self.count = 0
        start = max(self.count, self._covered)
        for first in range(start, count, _SCAN):
            for slot, entry in self._valid(first, min(first + _SCAN, count)):
                self.note(entry["id_hash"].tobytes(), slot, bool(entry["flags"] & REMOVED))
        self.count = count

    def note(self, key: bytes, slot: int, removed: bool) -> None:
        """Let an entry count, as the newest of its id."""
        self._tail[key] = -1 if removed else slot
        self.count = max(self.count, slot + 1)

    @property
    def uncovered(self) -> int:
        """Entries that lookup.bin does not speak for yet."""
        return len(self._tail)

    @property
    def covered(self) -> int:
        """Entries that lookup.bin speaks for."""
        return self._covered

    def slot(self, item_id: str) -> int:
        """The slot of an id, or -1."""
        key = id_hash(item_id)
        if key in self._tail:
            return self._tail[key]
        return self._find(key)

    def live(self) -> np.ndarray:
        """int64 `(n,)`: the slots that count, in the order in which they were appended."""
        keys, slots = self._merged()
        return np.sort(slots.astype(np.int64))

    def __len__(self) -> int:
        """Number of ids."""
        return len(self._keys) + sum((slot >= 0) - (self._find(key) >= 0) for key, slot in self._tail.items())

    def entry(self, slot: int) -> Any:
        """One entry, as a numpy record."""
        return np.frombuffer(os.pread(self._table, ENTRY.itemsize, slot * ENTRY.itemsize), dtype=ENTRY)[0]

    def entries(self, start: int, stop: int) -> np.ndarray:
        """Entries start … stop - 1, as `ENTRY` records `(stop - start,)`."""
        size = ENTRY.itemsize
        return np.frombuffer(os.pread(self._table, (stop - start) * size, start * size), dtype=ENTRY)

    def id_of(self, entry: Any) -> str:
        """The id of an entry."""
        raw = os.pread(self._ids, int(entry["id_length"]), int(entry["id_offset"]))
        return raw.decode("utf-8", "surrogatepass")

    def ids(self, slots: Iterable[int] | None = None) -> list[str]:
        """The ids of slots; by default of all that count."""
        return [self.id_of(self.entry(int(slot))) for slot in (self.live() if slots is None else slots)]

    def save_lookup(self) -> None:
        """Write lookup.bin for all entries; call it only when table.bin is on the disk.

        Raises:
            StorageError: no space is left.
        """
        self._keys, self._slots = self._merged()
        self._covered, self._tail = self.count, {}
        last = int(self.entry(self.count - 1)["entry_crc"]) if self.count else 0
        head = HEADER.pack(MAGIC, 1, 0, self.count, len(self._keys), last, 0)
        head = HEADER.pack(MAGIC, 1, 0, self.count, len(self._keys), last, zlib.crc32(head[:_CHECKED]))
        body = self._keys.astype("<u8").tobytes() + self._slots.astype("<u8").tobytes()
        write_atomic(self.folder / LOOKUP, head + body)

    def close(self) -> None:
        """Let go of the files."""
        for fd in (self._table, self._ids):
            if fd >= 0:
                os.close(fd)
        self._table = self._ids = -1

    def _open(self) -> bool:
        if not (self.folder / TABLE).is_file() or not (self.folder / IDS).is_file():
            return False
        self._table = os.open(self.folder / TABLE, os.O_RDONLY)
        self._ids = os.open(self.folder / IDS, os.O_RDONLY)
        return True

    def _load_lookup(self) -> None:
        """Map lookup.bin, if it is there and fits the table; a writer may replace it at any moment."""
        try:
            with open(self.folder / LOOKUP, "rb") as file:  # one file from the first check to the mapping
                keys, count = self._checked_lookup(file)
                if count == 0:
                    return
                both = np.zeros((2, 0), dtype=np.uint64)
                if keys:
                    both = np.memmap(file, dtype="<u8", mode="r", offset=HEADER.size, shape=(2, keys))
        except FileNotFoundError:
            return
        self._keys, self._slots, self._covered = both[0], both[1], count
        self._tail, self.count = {}, 0  # what was scanned before may be older than what the keys say

    def _checked_lookup(self, file: BinaryIO) -> tuple[int, int]:
        """Keys and covered entries of an opened lookup.bin; no entries where it does not fit the table."""
        head, size = file.read(HEADER.size), os.fstat(file.fileno()).st_size
        if len(head) < HEADER.size:
            return 0, 0
        magic, version, _, count, keys, last, crc = HEADER.unpack(head)
        fits = size == HEADER.size + 16 * keys and count * ENTRY.itemsize <= os.fstat(self._table).st_size
        if (magic, version, crc) != (MAGIC, 1, zlib.crc32(head[:_CHECKED])) or not fits or count == 0:
            return 0, 0
        return (keys, count) if int(self.entry(count - 1)["entry_crc"]) == last else (0, 0)

    def _find(self, key: bytes) -> int:
        """The slot by the sorted keys, or -1; the keys hold half of the hash, the entry has all of it."""
        half = np.uint64(int.from_bytes(key[:8], "little"))
        place = int(np.searchsorted(self._keys, half))
        while place < len(self._keys) and self._keys[place] == half:
            slot = int(self._slots[place])
            if os.pread(self._table, len(key), slot * ENTRY.itemsize) == key:  # where the entry's hash lies
                return slot
            place += 1
        return -1

    def _merged(self) -> tuple[np.ndarray, np.ndarray]:
        """Keys and slots with the tail worked in: sorted by key, removed ids left out."""
        if not self._tail:
            return self._keys, self._slots
        old = {self._find(key) for key in self._tail}
        stay = ~np.isin(self._slots, np.array(sorted(old - {-1}), dtype=np.uint64))
        alive = [(int.from_bytes(key[:8], "little"), slot) for key, slot in self._tail.items() if slot >= 0]
        new = np.array(alive, dtype=np.uint64).reshape(-1, 2)
        keys = np.concatenate([self._keys[stay], new[:, 0]])
        slots = np.concatenate([self._slots[stay], new[:, 1]])
        order = np.argsort(keys, kind="stable")
        return keys[order], slots[order]

    def _valid(self, start: int, stop: int) -> list[tuple[int, Any]]:
        """Slot and entry of those whose checksum is right."""
        entries = self.entries(start, stop)
        raw, size = entries.tobytes(), ENTRY.itemsize
        return [
            (start + i, entry)
            for i, entry in enumerate(entries)
            if entry_crc(raw[i * size : (i + 1) * size]) == entry["entry_crc"]
        ]


def _none() -> np.ndarray:
    return np.zeros(0, dtype=np.uint64)


def _valid_count(fd: int) -> int:
    """Entries up to the last one with a right checksum: what follows is a torn write."""
    size = ENTRY.itemsize
    count = os.fstat(fd).st_size // size
    while count:
        raw = os.pread(fd, size, (count - 1) * size)
        if len(raw) == size and entry_crc(raw) == int.from_bytes(raw[-4:], "little"):
            break
        count -= 1
    return count


def missing_message(folder: Path, missing: Sequence[str], known: EntryTable) -> str:
    """What to say about ids that are not there; the nearest of the first ten thousand are named."""
    import difflib

    near = difflib.get_close_matches(missing[0], known.ids(known.live()[:10000]), n=3)
    hint = f"did you mean {', '.join(near)}?" if near else "add it with comem bank build, or give an encoder"
    return (
        f"{folder}: {len(missing)} ids are not in this store of {len(known)} items,"
        f" first {missing[0]!r}; {hint}"
    )
