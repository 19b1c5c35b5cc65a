"""Embedding many pictures or texts so that an interruption costs at most one shard."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from comem.images import ImageError, open_image
from comem.records import read_json
from comem.retrieval.embedder import Embedder
from comem.retrieval.knowledge import ids_checksum
from comem.retrieval.shard_files import LOCK, ShardFolder, ShardPlan, load_array, open_shards, paths_checksum
from comem.storage import one_writer

logger = logging.getLogger(__name__)

AHEAD = 3  # batches that are opened and prepared while the model works


@dataclass(frozen=True)
class EmbeddedImages:
    """Vectors of the readable pictures (or of texts), and which those are.

    Attributes:
        files: `.npy` files of the vectors (m, d), each row of length 1, in order.
        positions: int64 (m,), ascending: the place of each vector in the list of inputs.
        faults: what was wrong with each picture that could not be read, by path.
        dimension: d.
    """

    files: list[Path]
    positions: np.ndarray
    faults: dict[str, str] = field(repr=False)
    dimension: int

    @property
    def vectors(self) -> np.ndarray:
        """float32 (m, d): all vectors in memory (`comem.retrieval.vectors` reads them in pieces)."""
        parts = [load_array(path).astype(np.float32) for path in self.files]
        return np.concatenate([np.zeros((0, self.dimension), np.float32), *parts])


def embed_paths(
    paths: Sequence[str], embedder: Embedder, folder: Path, *, shard_size: int = 4096, batch_size: int = 64,
    half: bool = False, progress: bool = True, captions: Callable[[int], str] | None = None,
) -> EmbeddedImages:  # fmt: skip
    """Embeds pictures shard by shard; what an earlier, interrupted call finished is taken over.

    Shards of another embedder, or of another list of pictures, are not used.

    Args:
        half: store float16 (half the size).
        captions: the text of a picture, by its position, for the metadata.

    Raises:
        StorageError: when the disk is full, or another process embeds there; the finished shards stay.
    """
    plan = ShardPlan(
        embedder.fingerprint,
        paths_checksum(paths, folder),
        len(paths),
        shard_size,
        "float16" if half else "float32",
    )
    with one_writer(folder / LOCK):
        return _embed_all(paths, embedder, open_shards(folder, plan), batch_size, progress, captions)


def embed_texts(
    texts: Sequence[str], embedder: Embedder, folder: Path, *, shard_size: int = 4096, batch_size: int = 256,
    half: bool = False, progress: bool = True,
) -> EmbeddedImages:  # fmt: skip
    """Embeds texts as `embed_paths` does pictures, into `text_emb/`."""
    plan = ShardPlan(
        embedder.fingerprint,
        ids_checksum(texts),
        len(texts),
        shard_size,
        "float16" if half else "float32",
        "text",
    )
    with one_writer(folder / LOCK):
        return _embed_all(texts, embedder, open_shards(folder, plan), batch_size, progress, None)


def _embed_all(
    inputs: Sequence[str], embedder: Embedder, shards: ShardFolder, batch_size: int, progress: bool,
    captions: Callable[[int], str] | None,
) -> EmbeddedImages:  # fmt: skip
    from tqdm import tqdm

    unit = {"img": "image", "text": "text"}[shards.plan.kind]
    todo = set(shards.unfinished())
    with tqdm(total=len(inputs), desc="embedding", unit=unit, disable=not progress) as bar:
        for number in range(shards.plan.shards):
            part = inputs[shards.plan.span(number)]
            if number in todo:
                start = shards.plan.span(number).start
                shown = None if captions is None else [captions(start + i) for i in range(len(part))]
                embed_shard(part, embedder, shards, number, batch_size, shown)
            bar.update(len(part))
    return collect_shards(shards, embedder.dimension)


def collect_shards(shards: ShardFolder, dimension: int) -> EmbeddedImages:
    """All shards of a plan, which must be finished."""
    positions, faults, files = [np.zeros(0, np.int64)], dict[str, str](), list[Path]()
    for number in range(shards.plan.shards):
        record = read_json(shards.record(number))
        positions.append(np.asarray(record["positions"], np.int64) + shards.plan.span(number).start)
        faults |= record["faults"]
        files.append(shards.vectors(number))
    return EmbeddedImages(files, np.concatenate(positions), faults, dimension)


def embed_shard(
    inputs: Sequence[str], embedder: Embedder, shards: ShardFolder, number: int, batch_size: int,
    captions: Sequence[str] | None = None,
) -> int:  # fmt: skip
    """Embeds and writes one shard; how many vectors it has."""
    if shards.plan.kind == "text":
        vectors = embedder.embed_texts(inputs, batch_size)
        shards.save(
            number, vectors, {"caption": list(inputs)}, {"positions": list(range(len(inputs))), "faults": {}}
        )
        return len(vectors)
    vectors, positions, faults = _embed_pictures(inputs, embedder, batch_size)
    columns = {"image_path": [inputs[i] for i in positions]}
    if captions is not None:
        columns["caption"] = [captions[i] for i in positions]
    shards.save(number, vectors, columns, {"positions": positions, "faults": faults})
    return len(vectors)


def _embed_pictures(
    paths: Sequence[str], embedder: Embedder, batch_size: int
) -> tuple[np.ndarray, list[int], dict[str, str]]:
    """Vectors (m, d), their places in `paths`, and the faults of the other pictures."""
    vectors, positions, faults = (
        [np.zeros((0, embedder.dimension), np.float32)],
        list[int](),
        dict[str, str](),
    )
    for start, batch in _prepared(paths, embedder, batch_size):
        good = [(start + i, each) for i, each in enumerate(batch) if not isinstance(each, ImageError)]
        for i, each in enumerate(batch):
            if isinstance(each, ImageError):
                faults[paths[start + i]] = str(each)
                logger.warning("not indexed: %s", each)
        if good:
            positions += [place for place, _ in good]
            vectors.append(embedder.embed_images([each for _, each in good], batch_size))
    return np.concatenate(vectors), positions, faults


def _prepared(paths: Sequence[str], embedder: Embedder, batch_size: int) -> Iterator[tuple[int, list[Any]]]:
    """Batches of opened, prepared pictures (or their faults), some of them ahead of the one in work."""
    prepare = getattr(embedder, "prepare", lambda image: image)

    def load(path: str) -> Any:
        try:
            return prepare(open_image(path))
        except ImageError as error:
            return error

    starts = iter(range(0, len(paths), batch_size))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:

        def submit(start: int) -> tuple[int, list[Any]]:
            return start, [pool.submit(load, path) for path in paths[start : start + batch_size]]

        waiting = [submit(start) for start in islice(starts, AHEAD)]
        while waiting:
            start, futures = waiting.pop(0)
            batch = [future.result() for future in futures]
            waiting += [submit(following) for following in islice(starts, 1)]
            yield start, batch
