"""The vector index: FAISS over normalised vectors (inner product = cosine), guarded by a manifest."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from comem.records import read_json, run_manifest, write_json
from comem.retrieval.embedder import Embedder
from comem.retrieval.engine import INDEX, REFINE, Engine, SearchSettings, build_files
from comem.retrieval.knowledge import KnowledgeBase
from comem.retrieval.plan import IndexPlan, choose_plan, plan_for
from comem.retrieval.shards import embed_paths, save_array
from comem.retrieval.vectors import Vectors

logger = logging.getLogger(__name__)

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
    """Compares the checksums of all files with the manifest: what is wrong, one sentence each."""
    folder = Path(folder)
    index = VectorIndex(folder)
    wrong = []
    for name, expected in index.manifest["sha256_of"].items():
        if file_sha256(folder / name) != expected:
            wrong.append(f"{folder / name}: was changed after it was written; build the index again")
    return wrong


def file_sha256(path: Path) -> str:
    """SHA-256 of a file of any size."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


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
    sums = {name: file_sha256(folder / name) for name in files}
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
