"""Vectors that may be larger than memory: shards of .npy, mapped, read in pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from comem.io.files import whole_file


class Vectors:
    """Rows of several arrays, as one list of float32 vectors.

    Args:
        parts: `(n_i, d)` arrays of float32 or float16, usually memory-mapped.
        rows: int64 `(n,)`: which rows, in which order; None takes all as they come.
    """

    def __init__(self, parts: Sequence[np.ndarray], rows: np.ndarray | None = None) -> None:
        widths = {part.shape[1] for part in parts}
        if len(widths) != 1:
            raise ValueError(f"vectors of {len(widths)} different widths {sorted(widths)}: one is needed")
        self.parts, self.rows, self.dimension = list(parts), rows, int(widths.pop())
        self._starts = np.cumsum([0, *(len(part) for part in parts)])

    @classmethod
    def from_files(cls, paths: Sequence[str | Path], rows: np.ndarray | None = None) -> Vectors:
        """Map .npy files, as clip-retrieval and autofaiss write them (img_emb/img_emb_0.npy, …).

        Raises:
            ValueError: a file is cut, holds objects, or no vectors; names it.
        """
        parts = []
        for path in paths:
            part = load_array(path, mapped=True)
            if part.ndim != 2 or part.dtype not in (np.float32, np.float16):
                raise ValueError(f"{path}: {part.dtype} {part.shape}, expected float32 or float16 (n, d)")
            parts.append(part)
        if not parts:
            raise ValueError("no files of vectors were given")
        return cls(parts, rows)

    def __len__(self) -> int:
        return int(self._starts[-1]) if self.rows is None else len(self.rows)

    def take(self, places: np.ndarray) -> np.ndarray:
        """float32 `(m, d)`: the vectors at these places."""
        rows = np.asarray(places) if self.rows is None else self.rows[places]
        out = np.empty((len(rows), self.dimension), dtype=np.float32)
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        for owner in np.unique(owners):
            mine = owners == owner
            out[mine] = self.parts[owner][rows[mine] - self._starts[owner]]
        return out

    def chunks(self, size: int) -> Iterator[np.ndarray]:
        """float32 `(≤ size, d)` one after the other."""
        for start in range(0, len(self), size):
            yield self.take(np.arange(start, min(start + size, len(self))))

    def sample(self, count: int, seed: int = 0) -> np.ndarray:
        """float32 `(≤ count, d)`, spread at random."""
        if count >= len(self):
            return self.take(np.arange(len(self)))
        chosen = np.random.default_rng(seed).choice(len(self), count, replace=False)
        return self.take(np.sort(chosen))


def save_array(path: Path, array: np.ndarray) -> None:
    """Writes `.npy` atomically; never a pickled one.

    Raises:
        StorageError: when the disk is full.
    """
    array = np.ascontiguousarray(array)
    assert not array.dtype.hasobject
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
    with whole_file(path) as partial, open(partial, "wb") as file:
        # np.save hides the system's error number behind "… requested and … written".
        np.lib.format.write_array_header_1_0(file, header)
        file.write(array.data)


def load_array(path: str | Path, mapped: bool = False) -> np.ndarray:
    """Reads or maps `.npy` without unpickling.

    Raises:
        ValueError: for a file that is cut or holds objects.
    """
    try:
        return cast(np.ndarray, np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False))
    except (
        ValueError,
        EOFError,
        OSError,
        MemoryError,
        SyntaxError,
        TypeError,
    ) as error:  # headers of any kind
        raise ValueError(f"{path}: not a whole .npy file ({error}); remove it and run again") from error
