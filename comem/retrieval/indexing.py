"""Building the vector index of a knowledge base: pictures embedded, vectors indexed, a manifest last."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from comem.records import run_manifest, sha256_of, write_json
from comem.retrieval.embedder import Embedder
from comem.retrieval.engine import INDEX, REFINE, build_files
from comem.retrieval.index import (
    EMBEDDINGS,
    FORMAT,
    LANGUAGES,
    MANIFEST,
    ROWS,
    IndexFolderError,
    IndexSettings,
    VectorIndex,
)
from comem.retrieval.knowledge import KnowledgeBase
from comem.retrieval.shard_files import save_array
from comem.retrieval.shards import embed_paths
from comem.retrieval.vectors import Vectors

logger = logging.getLogger(__name__)


def build_index(
    base: KnowledgeBase, embedder: Embedder, settings: IndexSettings | None = None, *, progress: bool = True,
    announce: Callable[[str], object] = logger.info,
) -> VectorIndex:  # fmt: skip
    """Embeds the pictures of a knowledge base and writes the index into its folder.

    `announce` is told which index will be built and how large it will be, before the building.

    Each picture is opened and embedded once, however many items show it. Items without a readable
    picture stay in the knowledge base, are counted in the manifest, and cannot be found.

    Raises:
        IndexFolderError: if no picture can be read, or the factory string is not FAISS's.
        StorageError: when the disk is full; finished shards stay.
    """
    settings = settings or IndexSettings()
    shown = base.images()
    paths = list(dict.fromkeys(path for path in shown if path))
    images = embed_paths(
        paths, embedder, base.folder / EMBEDDINGS, shard_size=settings.shard_size,
        batch_size=settings.batch_size, half=settings.half, progress=progress,
    )  # fmt: skip
    place = {paths[position]: i for i, position in enumerate(images.positions)}
    rows = [row for row, path in enumerate(shown) if path in place]
    if not rows:
        raise IndexFolderError(f"{base.folder}: none of the {len(shown)} items has a readable picture")
    order = np.asarray([place[shown[row]] for row in rows], dtype=np.int64)
    vectors = Vectors.from_files(images.files, order)  # (n, d)
    plan = settings.plan(len(vectors), vectors.dimension)
    announce(plan.describe())
    (base.folder / MANIFEST).unlink(missing_ok=True)  # it comes back last: without it there is no index
    try:
        build_files(vectors, plan, base.folder, budget=settings.memory, seed=settings.seed, progress=progress)
    except ValueError as error:
        raise IndexFolderError(str(error)) from error
    without = len(shown) - len(rows)
    if without:
        logger.warning("%d of %d items have no readable picture and are not indexed", without, len(shown))
    extra: dict[str, Any] = {
        "images": len(images.positions),
        "items_without_picture": without,
        "faults": images.faults,
    }
    extra["plan"] = asdict(plan)
    return _save(base, np.asarray(rows, dtype=np.int64), vectors.dimension, embedder, settings, extra)


def _save(
    base: KnowledgeBase, rows: np.ndarray, dimension: int, embedder: Embedder, settings: IndexSettings,
    extra: Mapping[str, Any],
) -> VectorIndex:  # fmt: skip
    """Writes what belongs to the index, the manifest last."""
    folder = base.folder
    names, codes = _language_codes(base.languages, rows)
    save_array(folder / ROWS, rows)
    save_array(folder / LANGUAGES, codes)
    files = [name for name in (INDEX, ROWS, LANGUAGES, REFINE) if (folder / name).is_file()]
    sums = {name: sha256_of(folder / name) for name in files}
    manifest = {
        "format": FORMAT, "count": len(rows), "dimension": dimension, "metric": "cosine",
        "embedder": {"name": embedder.name, "fingerprint": embedder.fingerprint}, "languages": names,
        "settings": asdict(settings), "ids_sha256": base.manifest["ids_sha256"],
        "bytes": {name: (folder / name).stat().st_size for name in files},
        "sha256": sums[INDEX], "sha256_of": sums, **run_manifest(extra),
    }  # fmt: skip
    write_json(folder / MANIFEST, manifest)
    return VectorIndex(folder, embedder)


def _language_codes(languages: Sequence[str], rows: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The languages that there are, and for each vector which of them, uint16 `(n,)`."""
    names = sorted(set(languages))
    place = {name: code for code, name in enumerate(names)}
    codes = np.fromiter((place[language] for language in languages), dtype=np.uint16, count=len(languages))
    return names, codes[rows]
