"""Embedding a corpus, pictures and texts, here or on a Ray cluster, with a manifest."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from comem.io.files import one_writer, write_json
from comem.io.images import ImageError, open_image
from comem.io.jsonl import read_json
from comem.io.manifest import run_manifest
from comem.io.parallel import Engine, run_shards
from comem.retrieval.embedder import DEFAULT_EMBEDDER, Embedder, load_embedder
from comem.retrieval.knowledge import KnowledgeBase, ids_checksum
from comem.retrieval.vectors import LOCK, ShardFolder, ShardPlan, load_array, open_shards, paths_checksum

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


IMAGES, TEXTS = "embeddings", "text_embeddings"  # folders in that of the corpus
What = Literal["images", "texts"]
Loader = Callable[[], Embedder]


@dataclass(frozen=True)
class EmbedSettings:
    """How a corpus is embedded; recorded beside the vectors.

    Attributes:
        embedder: "toy", a folder, or `architecture:pretrained` of open_clip.
        precision: of the model: fp32, bf16, fp16.
        half: store the vectors as float16.
        shard_size: pictures or texts a shard.
        batch_size: pictures or texts a call of the model.
    """

    embedder: str = DEFAULT_EMBEDDER
    precision: str = "fp32"
    half: bool = True
    shard_size: int = 4096
    batch_size: int = 64


def embed_corpus(
    folder: str | Path, what: What, settings: EmbedSettings, *, engine: Engine = "local", workers: int = 2,
    gpus: float = 0.0, progress: bool = True, loader: Loader | None = None,
) -> EmbeddedImages:  # fmt: skip
    """Embeds the pictures of a corpus (each once, however many items show it), or the texts of all items.

    Layout: `embeddings/` for pictures, `text_embeddings/` for texts, each as clip-retrieval writes it. A
    second call goes on; `comem index build` takes the finished pictures over.

    Args:
        gpus: of each Ray worker.
        loader: makes the embedder in each worker, instead of `settings.embedder`.

    Raises:
        ShardsFailedError: workers were lost again and again; the other shards are finished.
        StorageError: the disk is full, or another process embeds there; finished shards stay.
    """
    from tqdm import tqdm

    folder, base = Path(folder), KnowledgeBase(folder)
    loader = loader or partial(load_embedder, settings.embedder, None, settings.precision)
    embedder = _loaded(loader)
    inputs, captions = _inputs(base, what)
    target = folder / (IMAGES if what == "images" else TEXTS)
    checksum = paths_checksum(inputs, target) if what == "images" else ids_checksum(inputs)
    plan = ShardPlan(
        embedder.fingerprint, checksum, len(inputs), settings.shard_size,
        "float16" if settings.half else "float32", "img" if what == "images" else "text",
    )  # fmt: skip
    with one_writer(target / LOCK):
        shards = open_shards(target, plan)
        todo = shards.unfinished()

        def job(number: int) -> Callable[[], int]:
            span = shards.plan.span(number)
            shown = captions[span] if captions else None
            return partial(_embed, loader, inputs[span], shards, number, settings.batch_size, shown)

        total, title = shards.plan.shards, f"embedding {what}"
        with tqdm(total=total, desc=title, unit=" shards", disable=not progress) as bar:
            bar.update(total - len(todo))
            for _ in run_shards(job, todo, engine=engine, workers=workers, gpus=gpus):
                bar.update()
        found = collect_shards(shards, embedder.dimension)
        _write_manifest(shards, found, embedder, settings, engine)
    return found


def _embed(
    loader: Loader, inputs: Sequence[str], shards: ShardFolder, number: int, batch_size: int,
    captions: Sequence[str] | None,
) -> int:  # fmt: skip
    return embed_shard(inputs, _loaded(loader), shards, number, batch_size, captions)


def _inputs(base: KnowledgeBase, what: What) -> tuple[list[str], list[str]]:
    """What is embedded, and for pictures the text of the first item that shows each."""
    texts = base.texts()
    if what == "texts":
        return texts, []
    first: dict[str, str] = {}
    for path, text in zip(base.images(), texts, strict=True):
        if path:
            first.setdefault(path, text)
    return list(first), list(first.values())


@lru_cache(maxsize=1)
def _load_once(key: str) -> Embedder:
    return _LOADERS[key]()


_LOADERS: dict[str, Loader] = {}


def _loaded(loader: Loader) -> Embedder:
    """The embedder, loaded once a process however many shards this makes."""
    key = repr(loader)
    _LOADERS[key] = loader
    return _load_once(key)


def _write_manifest(
    shards: ShardFolder, found: EmbeddedImages, embedder: Embedder, settings: EmbedSettings, engine: Engine
) -> None:
    extra: dict[str, Any] = {
        "embedder": {"name": embedder.name, "fingerprint": embedder.fingerprint},
        "settings": asdict(settings), "plan": asdict(shards.plan), "engine": engine,
        "vectors": len(found.positions), "dimension": found.dimension, "faults": len(found.faults),
    }  # fmt: skip
    write_json(shards.folder / f"{shards.plan.kind}_manifest.json", run_manifest(extra))
