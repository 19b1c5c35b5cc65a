"""Embedding many pictures or texts so that an interruption costs at most one shard.

The folders are those that clip-retrieval writes and autofaiss reads: `img_emb/img_emb_0.npy` (or
`text_emb/…`) with one vector a row, and `metadata/metadata_0.parquet` with one line for each of them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from comem.images import ImageError, open_image
from comem.records import read_json, storage_errors, write_json
from comem.retrieval.embedder import Embedder
from comem.retrieval.knowledge import ids_checksum

logger = logging.getLogger(__name__)

PLAN = "plan.json"
AHEAD = 3  # batches that are opened and prepared while the model works
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
        StorageError: when the disk is full; the finished shards stay.
    """
    plan = ShardPlan(
        embedder.fingerprint,
        paths_checksum(paths, folder),
        len(paths),
        shard_size,
        "float16" if half else "float32",
    )
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
    return _embed_all(texts, embedder, open_shards(folder, plan), batch_size, progress, None)


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


def save_array(path: Path, array: np.ndarray) -> None:
    """Writes `.npy` atomically; never a pickled one.

    Raises:
        StorageError: when the disk is full.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with storage_errors(path):
            with open(partial, "wb") as file:
                np.save(file, array, allow_pickle=False)
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
