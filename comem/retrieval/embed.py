"""Embedding a corpus, pictures and texts, here or on a Ray cluster, with a manifest."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

from comem.parallel import Engine, run_shards
from comem.records import run_manifest, write_json
from comem.retrieval.embedder import DEFAULT_EMBEDDER, Embedder, load_embedder
from comem.retrieval.knowledge import KnowledgeBase, ids_checksum
from comem.retrieval.shard_files import LOCK, ShardFolder, ShardPlan, open_shards, paths_checksum
from comem.retrieval.shards import EmbeddedImages, collect_shards, embed_shard
from comem.storage import one_writer

logger = logging.getLogger(__name__)

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
