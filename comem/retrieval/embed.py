"""Embedding images and texts, shard by shard, here or on a Ray cluster; a second call goes on.

The layout is clip-retrieval's: `img_emb/img_emb_0.npy`, `metadata/metadata_0.parquet`, …
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from comem.config import as_dict
from comem.io.console import Progress, quiet
from comem.io.files import (
    SUMS,
    compare_sums,
    one_writer,
    read_json,
    sha256_of,
    sweep,
    whole_file,
    write_json,
    write_sealed,
)
from comem.io.images import ImageError, open_image
from comem.io.parallel import Engine, run_shards
from comem.io.run_folder import run_manifest
from comem.retrieval.embedder import Embedder, load_embedder, unusable
from comem.retrieval.knowledge import KnowledgeBase, ids_checksum
from comem.retrieval.settings import EmbedSettings
from comem.retrieval.vectors import Vectors, load_array, save_array

logger = logging.getLogger(__name__)

PLAN, LOCK = "plan.json", ".lock"
IMAGES, TEXTS = "embeddings", "text_embeddings"  # folders in that of the corpus
AHEAD = 3  # batches that are opened and prepared while the model works
Kind = Literal["img", "text"]
Loader = partial[Embedder]


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

    def length(self, number: int) -> int:
        """How many inputs a shard has."""
        return min(self.shard_size, self.count - number * self.shard_size)


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
        return [number for number in range(self.plan.shards) if self.fault(number) is not None]

    def fault(self, number: int) -> str | None:
        """Why a shard is not there as it was written, None if it is; "" where it was never made."""
        path = self.record(number)
        if not path.is_file():
            return ""
        try:
            record = read_json(path)
            sums = record.get(SUMS, {})
            if not isinstance(record["positions"], list) or not isinstance(record["faults"], dict):
                raise TypeError("no positions")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return f"{path}: damaged ({error})"
        wrong = [] if sums else [f"{file}: is missing" for file in self._files(number) if not file.is_file()]
        return next(iter(wrong or compare_sums(self.folder, sums)), None)

    def _files(self, number: int) -> tuple[Path, Path]:
        return self.vectors(number), self.metadata(number)

    def save(
        self, number: int, vectors: np.ndarray, columns: Mapping[str, Sequence[str]], record: dict[str, Any]
    ) -> None:
        """Writes one shard, the record last.

        Raises:
            StorageError: when the disk is full.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        save_array(self.vectors(number), vectors.astype(self.plan.dtype))
        table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
        with whole_file(self.metadata(number)) as unfinished:
            pq.write_table(table, unfinished, write_page_checksum=True)
        sums = {path.relative_to(self.folder).as_posix(): sha256_of(path) for path in self._files(number)}
        write_sealed(self.record(number), {**record, SUMS: sums})


def open_shards(folder: Path, plan: ShardPlan) -> ShardFolder:
    """The shards in a folder, those of another plan removed.

    Where only the shard size or the stored precision differ, the plan of what is there holds on.
    """
    path = folder / f"{plan.kind}_{PLAN}"
    if path.is_file():
        try:
            found = ShardPlan(**read_json(path))
            if (found.embedder, found.inputs_sha256) == (plan.embedder, plan.inputs_sha256):
                return ShardFolder(folder, found)
        except (TypeError, ValueError):  # of an older version, or damaged
            pass
        logger.warning("%s: made from other inputs or by another embedder; embedding starts anew", folder)
        for pattern in (f"{plan.kind}_emb/*.npy", "metadata/*.parquet", f"shards/{plan.kind}_*.json"):
            for old in folder.glob(pattern):
                old.unlink()
    write_sealed(path, asdict(plan))
    return ShardFolder(folder, plan)


def verify_shards(folder: Path) -> tuple[list[str], int]:
    """What is wrong with the shards in a folder, and how many have no checksums (of 0.2)."""
    wrong, old = [], 0
    for path in sorted(folder.glob(f"*_{PLAN}")):
        try:
            shards = ShardFolder(folder, ShardPlan(**read_json(path)))
        except (TypeError, ValueError) as error:
            wrong.append(f"{path}: damaged ({error}); run comem corpus embed again")
            continue
        for number in range(shards.plan.shards):
            fault = shards.fault(number)
            if fault:
                wrong.append(fault)
            elif fault is None:
                old += SUMS not in read_json(shards.record(number))
    return wrong, old


def _checksum(inputs: Sequence[str], folder: Path, kind: Kind) -> str:
    """Of texts; of paths as they lie to the folder of the shards, so that both can be moved together."""
    if kind == "text":
        return ids_checksum(inputs)
    root = os.path.join(os.path.normpath(folder.parent), "")
    return ids_checksum(
        path[len(root) :] if path.startswith(root) else os.path.abspath(path) for path in inputs
    )


@dataclass(frozen=True)
class EmbeddedInputs:
    """Vectors of the readable images (or of texts), and which those are.

    Attributes:
        files: `.npy` files of the vectors (m, d), each row of length 1, in order.
        positions: int64 (m,), ascending: the place of each vector in the list of inputs.
        faults: what was wrong with each image that could not be read, by path.
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


def embed_inputs(  # noqa: PLR0913 (each one optional)
    inputs: Sequence[str], made_by: Embedder | Loader, folder: Path, kind: Kind = "img", *,
    captions: Sequence[str] | None = None, shard_size: int = 4096, batch_size: int = 64, half: bool = False,
    progress: Progress = quiet, engine: Engine = "local", workers: int = 2, gpus: float = 0.0,
) -> EmbeddedInputs:  # fmt: skip
    """Embeds image files or texts; what an earlier, interrupted call finished is taken over.

    Shards of another embedder, or of another list of inputs, are not used.

    Args:
        inputs: image files, or texts.
        made_by: the embedder, or what makes it: in each of Ray's workers, which cannot be sent one.
        folder: where the vectors go.
        kind: "img" for image files, "text" for texts.
        captions: the text of each image, for the metadata.
        shard_size: inputs of a shard.
        batch_size: inputs in one call of the model.
        half: store float16 (half the size).
        progress: shows how far it is.
        engine: "local": in this process; "ray": in Ray's workers.
        workers: of Ray.
        gpus: of each Ray worker.

    Raises:
        ShardsFailedError: workers were lost again and again; the other shards are finished.
        StorageError: when the disk is full, or another process embeds there; the finished shards stay.
    """
    embedder, dtype = _embedder(made_by), "float16" if half else "float32"
    with one_writer(folder / LOCK):
        sweep(folder, recursive=True)  # what killed processes left
        checksum = _checksum(inputs, folder, kind)
        plan = ShardPlan(embedder.fingerprint, checksum, len(inputs), shard_size, dtype, kind)
        shards = open_shards(folder, plan)
        todo = shards.unfinished()
        for number in todo:
            if fault := shards.fault(number):
                logger.warning("%s; its shard is made again", fault)

        def job(number: int) -> Callable[[], int]:
            span = shards.plan.span(number)
            shown = captions[span] if captions is not None else None
            return partial(_embed_shard, inputs[span], made_by, shards, number, batch_size, shown)

        done, unit = len(inputs) - sum(shards.plan.length(number) for number in todo), _UNITS[kind]
        with progress("embedding", len(inputs), done=done, unit=unit) as advance:
            for number, _ in run_shards(job, todo, engine=engine, workers=workers, gpus=gpus):
                advance(shards.plan.length(number))
        return _collected(shards, embedder.dimension)


def _collected(shards: ShardFolder, dimension: int) -> EmbeddedInputs:
    """All shards of a plan, which must be finished."""
    positions, faults, files = [np.zeros(0, np.int64)], dict[str, str](), list[Path]()
    for number in range(shards.plan.shards):
        record = read_json(shards.record(number))
        positions.append(np.asarray(record["positions"], np.int64) + shards.plan.span(number).start)
        faults |= record["faults"]
        files.append(shards.vectors(number))
    return EmbeddedInputs(files, np.concatenate(positions), faults, dimension)


def _embed_shard(
    inputs: Sequence[str], made_by: Embedder | Loader, shards: ShardFolder, number: int, batch_size: int,
    captions: Sequence[str] | None,
) -> int:  # fmt: skip
    """Embeds and writes one shard; how many vectors it has."""
    embedder, faults = _embedder(made_by), dict[str, str]()
    if shards.plan.kind == "text":
        vectors, positions = embedder.embed_texts(inputs, batch_size), list(range(len(inputs)))
        vectors, positions = _usable(vectors, positions, inputs, embedder, faults)
        columns = {"caption": [inputs[i] for i in positions]}
    else:
        vectors, positions, faults = _embed_images(inputs, embedder, batch_size)
        columns = {"image_path": [inputs[i] for i in positions]}
        if captions is not None:
            columns["caption"] = [captions[i] for i in positions]
    shards.save(number, vectors, columns, {"positions": positions, "faults": faults})
    return len(vectors)


def _embedder(made_by: Embedder | Loader) -> Embedder:
    """The embedder, loaded once a process however many shards this makes."""
    if not isinstance(made_by, partial):
        return made_by
    return _load(made_by.func, made_by.args, tuple(made_by.keywords.items()))


@lru_cache(maxsize=1)
def _load(make: Callable[..., Embedder], args: tuple[Any, ...], named: tuple[Any, ...]) -> Embedder:
    return make(*args, **dict(named))


def _embed_images(
    paths: Sequence[str], embedder: Embedder, batch_size: int
) -> tuple[np.ndarray, list[int], dict[str, str]]:
    """Vectors (m, d), their places in `paths`, and the faults of the other images."""
    vectors, positions = [np.zeros((0, embedder.dimension), np.float32)], list[int]()
    faults: dict[str, str] = {}
    for start, batch in _prepared(paths, embedder, batch_size):
        good = []
        for place, each in enumerate(batch, start=start):
            if isinstance(each, ImageError):
                faults[paths[place]] = str(each)
                logger.warning("not indexed: %s", each)
            else:
                good.append(each)
                positions.append(place)
        if good:
            vectors.append(embedder.embed_images(good, batch_size))
    return *_usable(np.concatenate(vectors), positions, paths, embedder, faults), faults


def _usable(
    vectors: np.ndarray,
    positions: list[int],
    inputs: Sequence[str],
    embedder: Embedder,
    faults: dict[str, str],
) -> tuple[np.ndarray, list[int]]:
    """Without the vectors that are none, which become faults of their inputs."""
    bad = unusable(vectors)
    for row, fault in bad.items():
        name = inputs[positions[row]]
        faults[name] = f"{name[:200]}: {fault} (made by {embedder.name})"
        logger.warning("not indexed: %s", faults[name])
    kept = [row for row in range(len(vectors)) if row not in bad]
    return vectors[kept], [positions[row] for row in kept]


def _prepared(paths: Sequence[str], embedder: Embedder, batch_size: int) -> Iterator[tuple[int, list[Any]]]:
    """Batches of opened, prepared images (or their faults), some of them ahead of the one in work."""
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


def embed_shown(
    base: KnowledgeBase, embedder: Embedder, **options: Any
) -> tuple[np.ndarray, Vectors, EmbeddedInputs]:
    """Embeds the images that items show, each once.

    Args:
        base: whose items they are.
        embedder: makes the vectors.
        options: of `embed_inputs`.

    Returns:
        int64 (n,): the rows with a readable image; the vector of each; and what was embedded.

    Raises:
        ValueError: no image can be read.
    """
    shown, outside = base.shown()
    paths = list(dict.fromkeys(path for path in shown if path))
    found = embed_inputs(paths, embedder, base.folder / IMAGES, **options)
    for fault in outside.values():
        logger.warning("not indexed: %s", fault)
    found = replace(found, faults=found.faults | outside)
    place = {paths[position]: i for i, position in enumerate(found.positions)}
    rows = [row for row, path in enumerate(shown) if path in place]
    if not rows:
        hint = "" if any(map(os.path.exists, paths)) else "; comem corpus download fetches what has a URL"
        hint = hint if paths else "; texts alone are found by --retriever bm25 --index CORPUS"
        hint = f": {next(iter(found.faults.values()))}" if found.faults and not hint else hint
        raise ValueError(f"{base.folder}: none of the {len(shown)} items has a readable image{hint}")
    order = np.asarray([place[shown[row]] for row in rows], np.int64)
    return np.asarray(rows, np.int64), Vectors.from_files(found.files, order), found


def embed_corpus(
    settings: EmbedSettings, progress: Progress = quiet, *, loader: Loader | None = None
) -> dict[str, EmbeddedInputs]:
    """Embeds the images of a corpus (each once, however many items show it), the texts of all items, or both.

    Images go into `embeddings/` and texts into `text_embeddings/`, both as clip-retrieval writes them. A
    second call goes on; `comem index build` takes the finished images over.

    Args:
        settings: the corpus, and how it is embedded.
        progress: shows how far it is.
        loader: makes the embedder in each worker, instead of `settings.embedder`.

    Raises:
        ShardsFailedError: workers were lost again and again; the other shards are finished.
        StorageError: the disk is full, or another process embeds there; finished shards stay.
    """
    base = KnowledgeBase(settings.corpus)
    load: Callable[..., Embedder] = load_embedder
    made_by = loader or partial(load, settings.embedder, None, settings.precision)
    embedder = _embedder(made_by)
    found: dict[str, EmbeddedInputs] = {}
    for what in ("images", "texts") if settings.what == "both" else (settings.what,):
        inputs, captions = _inputs(base, what)
        folder, kind = base.folder / (IMAGES if what == "images" else TEXTS), _KINDS[what]
        found[what] = embed_inputs(
            inputs, made_by, folder, kind, captions=captions, shard_size=settings.shard_size,
            batch_size=settings.batch_size, half=settings.store == "fp16", progress=progress,
            engine=settings.engine, workers=settings.workers, gpus=settings.gpus,
        )  # fmt: skip
        extra = {
            "embedder": {"name": embedder.name, "fingerprint": embedder.fingerprint},
            "settings": as_dict(settings), "plan": read_json(folder / f"{kind}_{PLAN}"),
            "engine": settings.engine, "vectors": len(found[what].positions),
            "dimension": found[what].dimension, "faults": len(found[what].faults),
        }  # fmt: skip
        write_json(folder / f"{kind}_manifest.json", run_manifest(extra))
    return found


_KINDS: dict[str, Kind] = {"images": "img", "texts": "text"}
_UNITS = {kind: unit for unit, kind in _KINDS.items()}


def _inputs(base: KnowledgeBase, what: str) -> tuple[list[str], list[str] | None]:
    """What is embedded, and for images the text of the first item that shows each."""
    texts = base.texts()
    if what == "texts":
        return texts, None
    first: dict[str, str] = {}
    for path, text in zip(base.images(), texts, strict=True):
        if path:
            first.setdefault(path, text)
    return list(first), list(first.values())
