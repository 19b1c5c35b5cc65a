"""Checks every byte of a store that counts, and forgets what is damaged, so that a build makes it again."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from comem.bank.format import StoreError, entry_crc, id_hash, shard_name
from comem.bank.reader import MemoryStore
from comem.bank.writer import StoreWriter

Progress = Callable[[int], object]
_BLOCK = 256  # memories read at once


@dataclass(frozen=True)
class StoreReport:
    """What lies in a store, and what is wrong with it.

    Attributes:
        items: ids that are here.
        entries: all that was ever appended.
        superseded: entries in whose place a newer one of the same id stands, or that were removed.
        bytes: of all files.
        damaged: item → what is wrong with its memory.
        nameless: items of which even the id is damaged; an export leaves them out.
    """

    items: int
    entries: int
    superseded: int
    bytes: int
    damaged: dict[str, str]
    nameless: int

    @property
    def good(self) -> bool:
        return not self.damaged and not self.nameless


def verify_store(folder: str | Path, progress: Progress | None = None) -> StoreReport:
    """Read everything once and compare the checksums.

    Args:
        progress: called with the number of items just checked.

    Raises:
        StoreError: it cannot even be opened.
    """
    with MemoryStore(folder) as store:
        damaged: dict[str, str] = {}
        nameless = 0
        live = store.table.live()
        for start in range(0, len(live), _BLOCK):
            block = [int(slot) for slot in live[start : start + _BLOCK]]
            for slot in block:
                fault = _fault(store, slot)
                if fault and _named(store, slot):
                    damaged[store.table.id_of(store.table.entry(slot))] = fault
                nameless += bool(fault) and not _named(store, slot)
            if progress:
                progress(len(block))
        entries = store.table.count
        return StoreReport(
            len(live), entries, entries - len(live), folder_bytes(store.folder), damaged, nameless
        )


def drop_damaged(folder: str | Path, report: StoreReport) -> None:
    """Forget the damaged items; the next build encodes them again."""
    if report.damaged:
        with StoreWriter(folder) as writer:
            writer.remove(list(report.damaged))


def folder_bytes(folder: Path) -> int:
    """Bytes of a folder's files."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def _named(store: MemoryStore, slot: int) -> bool:
    """Whether the entry still says of which item it is."""
    entry = store.table.entry(slot)
    try:
        return id_hash(store.table.id_of(entry)) == entry["id_hash"].tobytes()
    except (UnicodeDecodeError, OverflowError, OSError, MemoryError):  # lengths and offsets of any size
        return False


def _fault(store: MemoryStore, slot: int) -> str | None:
    entry = store.table.entry(slot)
    if entry_crc(entry.tobytes()) != entry["entry_crc"]:
        return "its entry in table.bin was changed"
    if not _named(store, slot):
        return "its id in ids.bin was changed"
    name = shard_name(store.info.place(slot)[0])
    try:
        row = store.rows([slot])
    except StoreError:
        return f"{name} was cut or lost"
    return None if zlib.crc32(row.data) == entry["payload_crc"] else f"its memory in {name} was changed"
