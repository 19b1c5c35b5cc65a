"""Vectors that may be larger than memory: shards of .npy, mapped, read in pieces."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from comem.io.files import storage_errors, write_json
from comem.io.jsonl import read_json
from comem.retrieval.knowledge import ids_checksum


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
            try:
                part = np.load(path, mmap_mode="r", allow_pickle=False)
            except (ValueError, EOFError, OSError) as error:
                raise ValueError(f"{path}: not a whole .npy file ({error}); make it again") from error
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


logger = logging.getLogger(__name__)

PLAN, LOCK = "plan.json", ".lock"
Kind = Literal["img", "text"]


@dataclass(frozen=True)
class ShardPlan:
    """What decides the content of all shards; kept beside them.

    Attributes:
        embedder: its fingerprint.
        inputs_sha256: checksum of the list of paths or texts.
        count: how many these are.
        shard_size: inputs a shard; where shards are there already, theirs counts.
        dtype: of the stored vectors.
        kind: what is embedded.
    """

    embedder: str
    inputs_sha256: str
    count: int
    shard_size: int
    dtype: str = "float32"
    kind: Kind = "img"

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return -(-self.count // self.shard_size)

    def span(self, number: int) -> slice:
        """The inputs of a shard."""
        return slice(number * self.shard_size, min((number + 1) * self.shard_size, self.count))


@dataclass(frozen=True)
class ShardFolder:
    """The files of a plan. Each shard's record is written last and vouches for its two other files."""

    folder: Path
    plan: ShardPlan

    def _name(self, number: int) -> str:
        return str(number).zfill(len(str(max(self.plan.shards - 1, 0))))  # readers sort the names

    def vectors(self, number: int) -> Path:
        """`.npy` of the vectors."""
        return self.folder / f"{self.plan.kind}_emb" / f"{self.plan.kind}_emb_{self._name(number)}.npy"

    def metadata(self, number: int) -> Path:
        """`.parquet` with a line for each vector."""
        return self.folder / "metadata" / f"metadata_{self._name(number)}.parquet"

    def record(self, number: int) -> Path:
        """`.json` with the positions of the vectors in the list of inputs, and the faults of the others."""
        return self.folder / "shards" / f"{self.plan.kind}_{self._name(number)}.json"

    def unfinished(self) -> list[int]:
        """The shards that are still to be made."""
        return [number for number in range(self.plan.shards) if not self.record(number).is_file()]

    def save(
        self, number: int, vectors: np.ndarray, columns: dict[str, list[str]], record: dict[str, Any]
    ) -> None:
        """Writes one shard, the record last.

        Raises:
            StorageError: when the disk is full.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        for path in (self.vectors(number), self.metadata(number)):
            path.parent.mkdir(parents=True, exist_ok=True)
        save_array(self.vectors(number), vectors.astype(self.plan.dtype))
        path = self.metadata(number)
        partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with storage_errors(path):
                pq.write_table(
                    pa.table({name: pa.array(v, pa.string()) for name, v in columns.items()}), partial
                )
                os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        write_json(self.record(number), record)


def paths_checksum(paths: Sequence[str], folder: Path) -> str:
    """Checksum of paths as they lie to the folder of the shards, so that both can be moved together."""
    root = os.path.join(os.path.normpath(folder.parent), "")
    return ids_checksum(
        path[len(root) :] if path.startswith(root) else os.path.abspath(path) for path in paths
    )


def open_shards(folder: Path, plan: ShardPlan) -> ShardFolder:
    """The shards in a folder, those of another plan removed.

    Where only the shard size or the stored precision differ, the plan of what is there holds on.
    """
    path = folder / f"{plan.kind}_{PLAN}"
    if path.is_file():
        try:
            found = ShardPlan(**read_json(path))
        except TypeError:  # of an older version
            found = None
        same = found is not None and [found.embedder, found.inputs_sha256] == [
            plan.embedder,
            plan.inputs_sha256,
        ]
        if same and found is not None:
            return ShardFolder(folder, found)
        logger.warning("%s: made from other inputs or by another embedder; embedding starts anew", folder)
        for pattern in (f"{plan.kind}_emb/*.npy", "metadata/*.parquet", f"shards/{plan.kind}_*.json"):
            for old in folder.glob(pattern):
                old.unlink()
    write_json(path, asdict(plan))
    return ShardFolder(folder, plan)


def save_array(path: Path, array: np.ndarray) -> None:
    """Writes `.npy` atomically; never a pickled one.

    Raises:
        StorageError: when the disk is full.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with storage_errors(path):
            array = np.ascontiguousarray(array)
            assert not array.dtype.hasobject
            header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
            with open(partial, "wb") as file:
                # np.save hides the system's error number behind "… requested and … written".
                np.lib.format.write_array_header_1_0(file, header)
                file.write(array.data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_array(path: Path) -> np.ndarray:
    """Reads `.npy` without unpickling.

    Raises:
        ValueError: for a file that is cut or holds objects.
    """
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a whole .npy file ({error}); remove it and run again") from error
