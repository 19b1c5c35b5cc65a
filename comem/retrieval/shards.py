"""Embedding many pictures so that an interruption costs at most one shard."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from comem.images import ImageError, open_image
from comem.records import StorageError, read_json, write_json
from comem.retrieval.embedder import Embedder
from comem.retrieval.knowledge import ids_checksum

logger = logging.getLogger(__name__)

PLAN = "plan.json"


@dataclass(frozen=True)
class EmbeddedImages:
    """Vectors of the readable pictures, and which those are.

    Attributes:
        vectors: float32 (m, d), each row of length 1.
        positions: int64 (m,), ascending: the place of each vector in the list of paths.
        faults: what was wrong with each picture that could not be read, by path.
    """

    vectors: np.ndarray
    positions: np.ndarray
    faults: dict[str, str]


def embed_paths(
    paths: Sequence[str],
    embedder: Embedder,
    folder: Path,
    *,
    shard_size: int = 4096,
    batch_size: int = 64,
    half: bool = False,
    progress: bool = True,
) -> EmbeddedImages:
    """Embeds pictures shard by shard; what an earlier, interrupted call finished is taken over.

    Each shard is `img_emb_N.npy` (m, d) beside `shard_N.json` (positions and faults), both written
    atomically. Shards of another embedder, or of another list of pictures, are not used.

    Args:
        half: store float16 (half the size; the vectors come back as float32).

    Raises:
        StorageError: when the disk is full; the finished shards stay.
    """
    from tqdm import tqdm

    folder.mkdir(parents=True, exist_ok=True)
    dtype = "float16" if half else "float32"
    plan = {
        "embedder": embedder.fingerprint, "paths_sha256": ids_checksum(paths), "shard_size": shard_size,
        "dtype": dtype,
    }  # fmt: skip
    _start_over_if_changed(folder, plan)
    shards, faults = list[np.ndarray](), dict[str, str]()
    positions: list[int] = []
    starts = range(0, len(paths), shard_size)
    with tqdm(total=len(paths), desc="embedding", unit="image", disable=not progress) as bar:
        for number, start in enumerate(starts):
            part = paths[start : start + shard_size]
            vectors, record = _finished(folder, number)
            if vectors is None:
                vectors, record = _embed_shard(part, embedder, batch_size, bar)
                _save(folder, number, vectors.astype(dtype), record)
            else:
                bar.update(len(part))
            shards.append(vectors.astype(np.float32))
            positions += [start + i for i in record["positions"]]
            faults |= record["faults"]
    dimension = (0, embedder.dimension)
    joined = np.concatenate(shards) if shards else np.zeros(dimension, dtype=np.float32)
    return EmbeddedImages(joined, np.asarray(positions, dtype=np.int64), faults)


def save_array(path: Path, array: np.ndarray) -> None:
    """Writes `.npy` atomically; never a pickled one.

    Raises:
        StorageError: when the disk is full.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(partial, "wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(error.errno, f"no space left for {path}; free some and run again") from error
        raise
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


def _start_over_if_changed(folder: Path, plan: dict[str, Any]) -> None:
    path = folder / PLAN
    if path.is_file() and read_json(path) != plan:
        logger.warning("%s: made from other pictures or by another embedder; embedding starts anew", folder)
        for old in [*folder.glob("img_emb_*.npy"), *folder.glob("shard_*.json")]:
            old.unlink()
    write_json(path, plan)


def _finished(folder: Path, number: int) -> tuple[np.ndarray | None, dict[str, Any]]:
    """A shard of an earlier call, or None; its record was written last and vouches for it."""
    record = folder / f"shard_{number:05d}.json"
    if not record.is_file():
        return None, {}
    return load_array(folder / f"img_emb_{number:05d}.npy"), read_json(record)


def _save(folder: Path, number: int, vectors: np.ndarray, record: dict[str, Any]) -> None:
    save_array(folder / f"img_emb_{number:05d}.npy", vectors)
    write_json(folder / f"shard_{number:05d}.json", record)


def _embed_shard(
    paths: Sequence[str], embedder: Embedder, batch_size: int, bar: Any
) -> tuple[np.ndarray, dict[str, Any]]:
    vectors, positions, faults = list[np.ndarray](), list[int](), dict[str, str]()
    for start in range(0, len(paths), batch_size):
        pictures = []
        for i, path in enumerate(paths[start : start + batch_size], start=start):
            try:
                pictures.append(open_image(path))
                positions.append(i)
            except ImageError as error:
                faults[path] = str(error)
                logger.warning("not indexed: %s", error)
            bar.update()
        if pictures:
            vectors.append(embedder.embed_images(pictures, batch_size))
    joined = np.concatenate(vectors) if vectors else np.zeros((0, embedder.dimension), dtype=np.float32)
    return joined, {"positions": positions, "faults": faults}
