"""What SQLite leaves of deleted rows between the cells of its pages, overwritten with zeros.

`secure_delete` overwrites a cell that is deleted. It does not overwrite the copies that stay where a page
gave cells to its neighbours: they lie between a page's list of cells and its first cell, where nothing is
read. The format of the file says where that is (https://www.sqlite.org/fileformat2.html, 1.6 and 1.8; of its
journal, 3).
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

#: Kinds of pages with cells, and the bytes of their header.
_HEADERS = {2: 12, 5: 12, 10: 8, 13: 8}
_ROOT, _BRANCH = 1, 5  # in the map of pages: those with cells
#: How a journal begins of which all records come in one part: where the disk is waited for, these bytes are
#: written at the end only.
_ONE_PART = (bytes(12), bytes.fromhex("d9d505f920a163d7ffffffff"))


class Scrubber:
    """Overwrites the gaps in the pages that a transaction changed.

    Args:
        path: of a database with `auto_vacuum`, which has a map of its pages, and with a rollback journal;
            only this process writes to it.
        durable: wait for the disk.
    """

    def __init__(self, path: Path, durable: bool) -> None:
        self._journal, self._durable = Path(f"{path}-journal"), durable
        # To be closed after the connection: a close lets go of all locks that the process has on the file.
        self._file = os.open(path, os.O_RDWR)
        size = int.from_bytes(os.pread(self._file, 2, 16), "big")
        self._page = 65_536 if size == 1 else size
        self._usable = self._page - os.pread(self._file, 1, 20)[0]
        self._kinds = np.zeros(0, np.uint8)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def changed(self) -> np.ndarray | None:
        """Before the end of a transaction: numbers of the pages that it changed; None if that is not known.

        Pages that were free before it, or not there, are left out: `scrub` sees these itself.
        """
        try:
            journal = np.memmap(self._journal, np.uint8, "r")
        except (OSError, ValueError):  # none, or an empty one
            return None
        head, record = bytes(journal[:28]), self._page + 8  # number, page, checksum
        sector, page = (int.from_bytes(head[at : at + 4], "big") for at in (20, 24))
        if head[:12] not in _ONE_PART or page != self._page:
            return None
        records = journal[sector:]
        records = records[: len(records) // record * record].reshape(-1, record)
        return records[:, :4].copy().view(">u4").ravel().astype(np.int64)

    def scrub(self, changed: np.ndarray | None = None) -> bool:
        """After the end of the transaction: overwrite the gaps; whether there was anything in one.

        Args:
            changed: as `changed` said; None for all pages.
        """
        kinds, old = self._map(), self._kinds
        self._kinds = kinds
        cells = np.isin(kinds, (_ROOT, _BRANCH))
        if changed is None:
            pages = np.flatnonzero(cells)
        else:
            moved = kinds != np.pad(old, (0, max(0, len(kinds) - len(old))))[: len(kinds)]
            moved[changed[changed < len(kinds)]] = True
            pages = np.flatnonzero(cells & moved)
        found = sum(self._clean(int(page)) for page in pages)
        if found and self._durable:
            os.fsync(self._file)
        return bool(found)

    def _map(self) -> np.ndarray:
        """What each page is, uint8 by its number; 0 for the first, and for the pages of the map itself."""
        count = os.fstat(self._file).st_size // self._page
        group = self._usable // 5
        parts = [np.zeros(2, np.uint8)]
        for number in range(2, count + 1, group + 1):
            entries = np.frombuffer(os.pread(self._file, group * 5, (number - 1) * self._page), np.uint8)
            parts += [np.zeros(1, np.uint8), entries.reshape(-1, 5)[:, 0]]
        return np.concatenate(parts)[: count + 1]

    def _clean(self, number: int) -> bool:
        """Overwrite the gap of a page; whether there was anything in it."""
        place = (number - 1) * self._page
        page = os.pread(self._file, self._page, place)
        start = _HEADERS.get(page[0], self._page) + 2 * int.from_bytes(page[3:5], "big")
        end = int.from_bytes(page[5:7], "big") or 65_536
        if not start < end <= self._usable or not page[start:end].strip(b"\0"):
            return False
        os.pwrite(self._file, bytes(end - start), place + start)
        return True
