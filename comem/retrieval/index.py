"""The vector index: FAISS over normalised vectors (inner product = cosine), guarded by a manifest."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from comem.io.jsonl import read_json, sha256_of
from comem.retrieval.embedder import Embedder
from comem.retrieval.knowledge import KnowledgeBase, KnowledgeBaseError
from comem.retrieval.plan import IndexPlan, choose_plan, plan_for
from comem.retrieval.search import REFINE, Engine, SearchSettings
from comem.retrieval.vectors import Vectors

FORMAT = "comem-index-2"
ROWS, LANGUAGES, MANIFEST, EMBEDDINGS = "rows.npy", "languages.npy", "index.json", "embeddings"
AUTO = "auto"
DECIMALS = 6  # scores that agree to here are ties: sums of float32 products differ in the last bits


class IndexFolderError(ValueError):
    """An index that is missing, cut, changed, or was made by another embedder."""


@dataclass(frozen=True)
class IndexSettings:
    """How an index is built; saved with it.

    Attributes:
        factory: a FAISS factory string ("Flat" is exact; "HNSW32", "IVF256,PQ32", …), or "auto": chosen
            from the number of vectors and `memory_gb`.
        memory_gb: memory (GiB) that searching, and the vectors in work while building, may take.
        search: how hard to search; saved with the index.
        seed: of the sample that an index is trained on.
        shard_size: pictures a resumable shard.
        batch_size: pictures a call of the model.
        half: keep the embeddings as float16.
    """

    factory: str = AUTO
    shard_size: int = 4096
    batch_size: int = 64
    half: bool = False
    memory_gb: float = 4.0
    search: SearchSettings = field(default_factory=SearchSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.memory_gb > 0:
            raise ValueError(f"memory_gb is {self.memory_gb}; must be above 0")

    @property
    def memory(self) -> int:
        """The memory budget in bytes."""
        return int(self.memory_gb * 2**30)

    def plan(self, count: int, dimension: int) -> IndexPlan:
        """The index for so many vectors."""
        if self.factory == AUTO:
            return choose_plan(count, dimension, self.memory)
        return plan_for(self.factory, count, dimension)


@dataclass(frozen=True)
class Hits:
    """What a search found for b queries: best first, each list as long as there are hits.

    Attributes:
        rows: for each query, int64 rows of the knowledge base.
        scores: for each query, float32 cosine similarities, never rising.
    """

    rows: tuple[np.ndarray, ...]
    scores: tuple[np.ndarray, ...]


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
        try:
            self._engine = Engine(self.folder, SearchSettings(**self.manifest["settings"]["search"]))
        except ValueError as error:
            raise IndexFolderError(str(error)) from error
        self._rows = np.load(self.folder / ROWS, mmap_mode="r", allow_pickle=False)  # (n,)
        if not len(self._rows) == len(self._engine) == self.manifest["count"]:
            raise IndexFolderError(f"{self.folder}: index and rows disagree on their number; build it again")

    def __len__(self) -> int:
        return len(self._engine)

    @property
    def vectors(self) -> Engine:
        """The vectors' side of it, for measurements."""
        return self._engine

    def stored_vectors(self) -> Vectors:
        """The vectors as they were indexed: from the float16 copies, or out of an exact index.

        Raises:
            IndexFolderError: the index keeps none (a compressed one of the user's own choice).
        """
        if (self.folder / REFINE).is_file():
            return Vectors.from_files([self.folder / REFINE])
        try:
            return Vectors([self._engine.index.reconstruct_n(0, len(self))])
        except RuntimeError as error:
            raise IndexFolderError(
                f"{self.folder}: the index keeps no vectors to compare with: build it with factory auto"
            ) from error

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
        if queries.ndim != 2 or queries.shape[1] != self._engine.dimension:
            raise ValueError(
                f"queries of shape {queries.shape}, the index takes (b, {self._engine.dimension})"
            )
        allowed = None if languages is None else self._in_languages(languages)
        found = [self._search_one(first, k, allowed) for first in self._first_pass(queries, k, allowed)]
        return Hits(tuple(rows for rows, _ in found), tuple(scores for _, scores in found))

    def _first_pass(
        self, queries: np.ndarray, k: int, allowed: np.ndarray | None
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """One batched search for somewhat more than k, so that ties at the end can be put in order."""
        scores, places = self._engine.search(queries, min(len(self), 2 * k + 8), allowed)
        return list(zip(queries, scores, places, strict=True))

    def _search_one(
        self, first: tuple[np.ndarray, np.ndarray, np.ndarray], k: int, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Looks further while the last hit may tie with one not seen."""
        query, scores, places = first
        while True:
            asked = len(places)
            keep = places >= 0  # FAISS pads with -1
            rows, values = np.asarray(self._rows[places[keep]]), np.round(scores[keep], DECIMALS)
            settled = len(rows) >= k and np.sort(values)[::-1][k - 1] > values.min()
            if settled or asked >= len(self) or len(values) < asked:
                order = np.lexsort((rows, -values))[:k]
                return rows[order], values[order]
            wider = self._engine.search(query[None], min(len(self), 4 * asked), allowed)
            scores, places = (part[0] for part in wider)

    def _in_languages(self, languages: Collection[str]) -> np.ndarray:
        """bool `(n,)`: which vectors are of items in these languages."""
        present: list[str] = self.manifest["languages"]
        unknown = sorted(set(languages) - set(present))
        if unknown:
            raise ValueError(
                f"no item is in {', '.join(unknown)}; languages here: {', '.join(sorted(present))}"
            )
        codes = np.load(self.folder / LANGUAGES, mmap_mode="r", allow_pickle=False)
        return np.isin(codes, [present.index(language) for language in languages])


def verify_index(folder: str | Path) -> list[str]:
    """Compares all files, the table of items too, with their checksums: what is wrong, a sentence each."""
    folder = Path(folder)
    index = VectorIndex(folder)
    wrong = []
    for name, expected in index.manifest["sha256_of"].items():
        if sha256_of(folder / name) != expected:
            wrong.append(f"{folder / name}: was changed after it was written; build the index again")
    try:
        index.base.verify()
    except KnowledgeBaseError as error:
        wrong.append(str(error))
    return wrong
