"""Ranking an approximate index's candidates again, by the vectors themselves."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np

_BLOCK = 64  # queries ranked again at once: their candidates stay in the processor's cache
_MAPPED = 1 << 15  # rows read before their pages are let go: the system maps up to 64 KiB around each


class HalfVectors:
    """The vectors in float16, memory-mapped: float16 `(n, d)` in an .npy file.

    Args:
        path: the file.
        shape: what it has to hold.

    Raises:
        ValueError: damaged, or of another shape.

    Rows are read here and there, so the system is told not to fetch what lies around; and what was read is
    let go now and then, or much of the file would count as this process's memory.
    """

    def __init__(self, path: Path, shape: tuple[int, int]) -> None:
        try:
            self.array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (EOFError, ValueError) as error:
            raise ValueError(f"{path}: damaged ({error}); build the index again") from error
        if self.array.shape != shape:
            raise ValueError(f"{path}: holds {self.array.shape}, the index {shape}; build the index again")
        self._mapping: Any = getattr(self.array, "_mmap", None)
        self._advise("MADV_RANDOM")
        self._read = 0  # rows since they were last let go

    def rank(self, queries: np.ndarray, places: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The best k of each query's candidates by inner product, best first.

        Args:
            queries: float32 `(b, d)`.
            places: int64 `(b, m)`; -1 for none.

        Returns:
            float32 scores and int64 places, both `(b, k)`.
        """
        scores = np.empty((len(queries), k), dtype=np.float32)
        found = np.empty((len(queries), k), dtype=np.int64)
        for start in range(0, len(queries), _BLOCK):
            rows = slice(start, start + _BLOCK)
            block = places[rows]
            vectors = self.array[np.maximum(block, 0)].astype(np.float32)  # (b, m, d)
            exact = np.einsum("bmd,bd->bm", vectors, queries[rows])
            exact[block < 0] = -np.inf
            order = np.argsort(-exact, axis=1, kind="stable")[:, :k]
            scores[rows] = np.take_along_axis(exact, order, axis=1)
            found[rows] = np.take_along_axis(block, order, axis=1)
            self._read += block.size
            if self._read >= _MAPPED:
                self._advise("MADV_DONTNEED")  # the system's cache keeps them
                self._read = 0
        return scores, found

    def _advise(self, what: str) -> None:
        """Tell the system how the file is read, where there is a way to."""
        if self._mapping is not None and hasattr(mmap, what):
            self._mapping.madvise(getattr(mmap, what))
