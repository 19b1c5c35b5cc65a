"""The vector index: FAISS over normalised vectors (inner product = cosine), guarded by a manifest."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from comem.records import StorageError, read_json, run_manifest, write_json
from comem.retrieval.embedder import Embedder
from comem.retrieval.knowledge import KnowledgeBase
from comem.retrieval.shards import embed_paths, load_array, save_array

logger = logging.getLogger(__name__)

FORMAT = "comem-index-1"
INDEX, ROWS, MANIFEST, EMBEDDINGS = "index.faiss", "rows.npy", "index.json", "embeddings"
DECIMALS = 6  # scores that agree to here are ties: sums of float32 products differ in the last bits


class IndexFolderError(ValueError):
    """An index that is missing, cut, changed, or was made by another embedder."""


@dataclass(frozen=True)
class IndexSettings:
    """How an index is built; saved with it.

    Attributes:
        factory: a FAISS factory string ("Flat" is exact; "HNSW32", "IVF256,PQ32", …).
        shard_size: pictures a resumable shard.
        batch_size: pictures a call of the model.
        half: keep the embeddings as float16.
    """

    factory: str = "Flat"
    shard_size: int = 4096
    batch_size: int = 64
    half: bool = False


@dataclass(frozen=True)
class Hits:
    """What a search found for b queries: best first, each list as long as there are hits.

    Attributes:
        rows: for each query, int64 rows of the knowledge base.
        scores: for each query, float32 cosine similarities, never rising.
    """

    rows: tuple[np.ndarray, ...]
    scores: tuple[np.ndarray, ...]


def build_index(
    base: KnowledgeBase, embedder: Embedder, settings: IndexSettings | None = None, *, progress: bool = True
) -> VectorIndex:
    """Embeds the pictures of a knowledge base and writes the index into its folder.

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
    vectors = images.vectors[[place[shown[row]] for row in rows]]  # (n, d)
    faiss_index = _make(vectors, settings.factory)
    without = len(shown) - len(rows)
    if without:
        logger.warning("%d of %d items have no readable picture and are not indexed", without, len(shown))
    extra = {"images": len(images.positions), "items_without_picture": without, "faults": images.faults}
    return _save(base, faiss_index, np.asarray(rows, dtype=np.int64), embedder, settings, extra)


class VectorIndex:
    """An index folder, opened for searching.

    Raises:
        IndexFolderError: if the folder is incomplete, its files were changed or cut, or, when an embedder
            is given, the index was made by another one.
    """

    def __init__(self, folder: str | Path, embedder: Embedder | None = None) -> None:
        self.folder = Path(folder)
        if not (self.folder / MANIFEST).is_file():
            raise IndexFolderError(f"{self.folder}: no finished index here; build it with comem index build")
        self.manifest: Mapping[str, Any] = read_json(self.folder / MANIFEST)
        if self.manifest.get("format") != FORMAT:
            raise IndexFolderError(
                f"{self.folder}: format {self.manifest.get('format')!r}, this version reads {FORMAT!r};"
                " build it again"
            )
        for name, expected in self.manifest["bytes"].items():
            path = self.folder / name
            found = path.stat().st_size if path.is_file() else 0
            if found != expected:
                raise IndexFolderError(
                    f"{path}: {found} bytes, but {expected} were written; it was cut or changed:"
                    " build it again"
                )
        if embedder is not None:
            self.check(embedder)
        self.base = KnowledgeBase(self.folder)
        if self.base.manifest["ids_sha256"] != self.manifest["ids_sha256"]:
            raise IndexFolderError(
                f"{self.folder}: the knowledge base was built anew after the index; index it again"
            )
        self._index = _read(self.folder / INDEX)
        self._rows = load_array(self.folder / ROWS)  # (n,)
        if not len(self._rows) == self._index.ntotal == self.manifest["count"]:
            raise IndexFolderError(f"{self.folder}: index and rows disagree on their number; build it again")

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def check(self, embedder: Embedder) -> None:
        """Refuses an embedder that did not make this index: its vectors mean something else.

        Raises:
            IndexFolderError: naming both.
        """
        made_by = self.manifest["embedder"]
        if made_by["fingerprint"] != embedder.fingerprint:
            raise IndexFolderError(
                f"{self.folder}: made by the embedder {made_by['name']!r} ({made_by['fingerprint'][:8]}), not"
                f" by {embedder.name!r} ({embedder.fingerprint[:8]}); query with that one, or build the index"
                " again"
            )

    def search(self, queries: np.ndarray, k: int, languages: Collection[str] | None = None) -> Hits:
        """The k nearest items of each query, best first; ties in the order of the knowledge base.

        Args:
            queries: float32 (b, d), each row of length 1.
            k: at most so many hits a query.
            languages: only items in these languages.
        """
        if k < 1:
            raise ValueError(f"k = {k}: at least 1 item must be asked for")
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self._index.d:
            raise ValueError(f"queries of shape {queries.shape}, the index takes (b, {self._index.d})")
        allowed = None if languages is None else self._in_languages(languages)
        found = [self._search_one(query, k, allowed) for query in self._first_pass(queries, k)]
        return Hits(tuple(rows for rows, _ in found), tuple(scores for _, scores in found))

    def _first_pass(self, queries: np.ndarray, k: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """One batched search for somewhat more than k, so that ties at the end can be put in order."""
        scores, places = self._index.search(queries, min(len(self), 2 * k + 8))
        return list(zip(queries, scores, places, strict=True))

    def _search_one(
        self, first: tuple[np.ndarray, np.ndarray, np.ndarray], k: int, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Looks further while there are too few hits, or the last of them may tie with one not seen."""
        query, scores, places = first
        while True:
            asked = len(places)
            keep = places >= 0  # FAISS pads with -1
            rows, values = self._rows[places[keep]], np.round(scores[keep], DECIMALS)
            if allowed is not None:
                permitted = allowed[rows]
                kept_rows, kept_values = rows[permitted], values[permitted]
            else:
                kept_rows, kept_values = rows, values
            settled = len(kept_rows) >= k and np.sort(kept_values)[::-1][k - 1] > values.min()
            if settled or asked >= len(self) or len(values) < asked:
                order = np.lexsort((kept_rows, -kept_values))[:k]
                return kept_rows[order], kept_values[order]
            scores, places = (part[0] for part in self._index.search(query[None], min(len(self), 4 * asked)))

    def _in_languages(self, languages: Collection[str]) -> np.ndarray:
        """bool (rows of the knowledge base,)."""
        present = set(self.base.languages)
        unknown = sorted(set(languages) - present)
        if unknown:
            raise ValueError(
                f"no item is in {', '.join(unknown)}; languages here: {', '.join(sorted(present))}"
            )
        return np.isin(np.asarray(self.base.languages), list(languages))


def _make(vectors: np.ndarray, factory: str) -> Any:
    import faiss

    try:
        index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            index.train(vectors)
        index.add(vectors)
    except RuntimeError as error:
        raise IndexFolderError(
            f"FAISS cannot build {factory!r} over {len(vectors)} vectors: {error}; 'Flat' always works"
        ) from error
    return index


def _read(path: Path) -> Any:
    import faiss

    try:
        return faiss.read_index(str(path))
    except RuntimeError as error:
        raise IndexFolderError(f"{path}: FAISS cannot read it ({error}); build it again") from error


def _save(
    base: KnowledgeBase, index: Any, rows: np.ndarray, embedder: Embedder, settings: IndexSettings,
    extra: Mapping[str, Any],
) -> VectorIndex:  # fmt: skip
    """Writes the files, the manifest last: without it there is no index."""
    import faiss

    folder = base.folder
    (folder / MANIFEST).unlink(missing_ok=True)
    partial = folder / f".{INDEX}.{os.getpid()}.part"
    try:
        faiss.write_index(index, str(partial))
        os.replace(partial, folder / INDEX)
    except RuntimeError as error:
        raise StorageError(f"{partial}: FAISS cannot write ({error}); is the disk full?") from error
    finally:
        partial.unlink(missing_ok=True)
    save_array(folder / ROWS, rows)
    manifest = {
        "format": FORMAT, "count": len(rows), "dimension": int(index.d), "metric": "cosine",
        "embedder": {"name": embedder.name, "fingerprint": embedder.fingerprint},
        "settings": settings.__dict__, "ids_sha256": base.manifest["ids_sha256"],
        "bytes": {name: (folder / name).stat().st_size for name in (INDEX, ROWS)},
        "sha256": hashlib.sha256((folder / INDEX).read_bytes()).hexdigest(),
        **run_manifest(extra),
    }  # fmt: skip
    write_json(folder / MANIFEST, manifest)
    return VectorIndex(folder, embedder)
