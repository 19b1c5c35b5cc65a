"""An index folder: a knowledge base, and FAISS over its vectors (inner product = cosine), with a manifest."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from comem.io.console import Progress, quiet
from comem.io.files import one_writer, read_json, sha256_of, sweep, write_sealed
from comem.io.run_folder import run_manifest
from comem.retrieval.corpus.build import PARTS, build_corpus
from comem.retrieval.corpus.rules import CorpusError, CutShardError
from comem.retrieval.corpus.sources import find_sources
from comem.retrieval.embed import IMAGES, TEXTS, embed_shown, verify_shards
from comem.retrieval.embedder import Embedder, load_embedder, unusable
from comem.retrieval.faiss_index import INDEX, REFINE, FaissIndex, build_files
from comem.retrieval.knowledge import MANIFEST as CORPUS_MANIFEST
from comem.retrieval.knowledge import KnowledgeBase
from comem.retrieval.plan import check_factory
from comem.retrieval.settings import AUTO, FaissSettings, IndexSettings, SearchSettings
from comem.retrieval.vectors import Vectors, load_array, save_array

logger = logging.getLogger(__name__)

FORMAT = "comem-index-2"
ROWS, LANGUAGES, MANIFEST, LOCK = "rows.npy", "languages.npy", "index.json", ".index.lock"
_CHEAP = 64 << 20  # bytes up to which a file is compared with its checksum whenever the index is opened
DECIMALS = 6  # scores that agree to here are ties: sums of float32 products differ in the last bits


class IndexFolderError(ValueError):
    """An index that is missing, cut, changed, or was made by another embedder."""


@dataclass(frozen=True)
class Hits:
    """What a search found for b queries: best first, each list as long as there are hits.

    Attributes:
        rows: for each query, int64 rows of the knowledge base.
        scores: for each query, float32 cosine similarities, never rising.
    """

    rows: tuple[np.ndarray, ...]
    scores: tuple[np.ndarray, ...]


def check_embedder(place: object, manifest: Mapping[str, Any], embedder: Embedder, remedy: str) -> None:
    """Refuses an embedder that did not make the vectors of a manifest: its own mean something else.

    Vectors that were imported know their embedder by name alone.

    Raises:
        IndexFolderError: naming both.
    """
    made_by = manifest["embedder"]
    if made_by["fingerprint"] is None and made_by["name"] == embedder.name:
        return
    if made_by["fingerprint"] != embedder.fingerprint:
        raise IndexFolderError(
            f"{place}: made by the embedder {made_by['name']!r} ({str(made_by['fingerprint'])[:8]}), not by"
            f" {embedder.name!r} ({embedder.fingerprint[:8]}); query with that one, or {remedy}"
        )


class VectorIndex:
    """An index folder, opened for searching.

    Raises:
        IndexFolderError: if the folder is incomplete, its files were changed or cut, or, when an embedder
            is given, the index was made by another one.
    """

    kind = "faiss"

    def __init__(self, folder: str | Path, embedder: Embedder | None = None) -> None:
        self.folder = Path(folder)
        if not (self.folder / MANIFEST).is_file():
            raise IndexFolderError(f"{self.folder}: no finished index here; build it with comem index build")
        self.manifest: Mapping[str, Any] = read_json(self.folder / MANIFEST)
        try:
            self._open(embedder)
        except (KeyError, TypeError, AttributeError) as error:
            raise IndexFolderError(
                f"{self.folder / MANIFEST}: incomplete or malformed ({error!r}); build the index again"
            ) from error

    def _open(self, embedder: Embedder | None) -> None:
        if self.manifest.get("format") != FORMAT:
            raise IndexFolderError(
                f"{self.folder}: format {self.manifest.get('format')!r}, this version reads {FORMAT!r};"
                " build it again"
            )
        self._check_files()
        if embedder is not None:
            self.check(embedder)
        self.base = KnowledgeBase(self.folder)
        if self.base.manifest["ids_sha256"] != self.manifest["ids_sha256"]:
            raise IndexFolderError(
                f"{self.folder}: the knowledge base was built anew after the index; index it again"
            )
        try:
            self.vectors = FaissIndex(self.folder, SearchSettings(**self.manifest["settings"]["search"]))
        except ValueError as error:
            raise IndexFolderError(str(error)) from error
        try:
            self._rows = np.load(self.folder / ROWS, mmap_mode="r", allow_pickle=False)  # (n,)
        except (ValueError, OSError, MemoryError) as error:
            raise IndexFolderError(f"{self.folder / ROWS}: damaged ({error}); build it again") from error
        if not len(self._rows) == len(self.vectors) == self.manifest["count"]:
            raise IndexFolderError(f"{self.folder}: index and rows disagree on their number; build it again")
        if self.vectors.dimension != self.manifest["dimension"]:
            raise IndexFolderError(f"{self.folder}: index and manifest disagree on the width; build it again")

    def _check_files(self) -> None:
        """Sizes, and the checksums of what is not large."""
        for name, expected in self.manifest["bytes"].items():
            path = self.folder / name
            found = path.stat().st_size if path.is_file() else 0
            if found != expected:
                raise IndexFolderError(
                    f"{path}: {found} bytes, but {expected} were written; it was cut or changed:"
                    " build it again"
                )
            small = expected <= _CHEAP
            sums = self.manifest.get("sha256_of" if small else "head_sha256", {})
            if name in sums and (sha256_of(path) if small else _head_sum(path)) != sums[name]:
                raise IndexFolderError(f"{path}: was changed after it was written; build the index again")

    def __len__(self) -> int:
        return len(self.vectors)

    def check(self, embedder: Embedder) -> None:
        """Refuses an embedder that did not make this index."""
        check_embedder(self.folder, self.manifest, embedder, "build the index again")

    def found_rows(self) -> list[int]:
        """The knowledge base's row of each vector."""
        rows: list[int] = self._rows.tolist()
        return rows

    def describe(self) -> dict[str, Any]:
        """What decides the results of a search."""
        return {"index_sha256": self.manifest["sha256"], "ids_sha256": self.manifest["ids_sha256"]}

    def stored_vectors(self) -> Vectors:
        """The vectors as they were indexed: from the float16 copies, or out of an exact index.

        Raises:
            IndexFolderError: the index keeps none (a compressed one of the user's own choice).
        """
        if (self.folder / REFINE).is_file():
            return Vectors.from_files([self.folder / REFINE])
        try:
            return Vectors([self.vectors.index.reconstruct_n(0, len(self))])
        except RuntimeError as error:
            raise IndexFolderError(
                f"{self.folder}: the index keeps no vectors to compare with: build it with factory auto"
            ) from error

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
        if queries.ndim != 2 or queries.shape[1] != self.vectors.dimension:
            raise ValueError(
                f"queries of shape {queries.shape}, the index takes (b, {self.vectors.dimension})"
            )
        if bad := unusable(queries):
            row, fault = next(iter(bad.items()))
            raise ValueError(f"query {row}: {fault}; check the embedder")
        allowed = None if languages is None else self._in_languages(languages)
        # Somewhat more than k, so that ties at the end can be put in order.
        scores, places = self.vectors.search(queries, min(len(self), 2 * k + 8), allowed)
        found = [self._ranked(*each, k, allowed) for each in zip(queries, scores, places, strict=True)]
        return Hits(tuple(rows for rows, _ in found), tuple(scores for _, scores in found))

    def _ranked(
        self, query: np.ndarray, scores: np.ndarray, places: np.ndarray, k: int, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best k, in order; looks further while the last hit may tie with one not seen."""
        while True:
            asked = len(places)
            keep = places >= 0  # FAISS pads with -1
            rows, values = np.asarray(self._rows[places[keep]]), np.round(scores[keep], DECIMALS)
            order = np.lexsort((rows, -values))
            # Several vectors may lead to one item (imported indexes): its best counts.
            order = order[np.sort(np.unique(rows[order], return_index=True)[1])]
            settled = len(order) >= k and values[order[k - 1]] > values.min()
            if settled or asked >= len(self) or len(values) < asked:
                return rows[order[:k]], values[order[:k]]
            wider = self.vectors.search(query[None], min(len(self), 4 * asked), allowed)
            scores, places = (part[0] for part in wider)

    def _in_languages(self, languages: Collection[str]) -> np.ndarray:
        """bool `(n,)`: which vectors are of items in these languages."""
        present: list[str] = self.manifest["languages"]
        unknown = sorted(set(languages) - set(present))
        if unknown:
            raise ValueError(
                f"no item is in {', '.join(unknown)}; languages here: {', '.join(sorted(present))}"
            )
        codes = load_array(self.folder / LANGUAGES, mapped=True)
        return np.isin(codes, [present.index(language) for language in languages])


def _head_sum(path: Path) -> str:
    """SHA-256 over a file's first MiB: what FAISS allocates and how it searches stands there."""
    with open(path, "rb") as file:
        return hashlib.sha256(file.read(1 << 20)).hexdigest()


def open_index(folder: str | Path) -> VectorIndex:
    """An index folder, opened for searching.

    Example:
        >>> index = open_index("data/toy/index")
        >>> hits = index.search(load_embedder("toy").embed_texts(["a red star"]), k=3)
        >>> [item.id for item in index.base.items(hits.rows[0])]

    Raises:
        IndexFolderError: there is no finished index, or its files were cut or changed.
    """
    return VectorIndex(folder)


def verify_index(folder: str | Path) -> list[str]:
    """Compares all files, the table of items too, with their checksums: what is wrong, a sentence each."""
    folder = Path(folder)
    wrong: list[str] = []
    try:
        sums = (read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}).get("sha256_of", {})
        wrong += [
            f"{folder / name}: was changed after it was written; build the index again"
            for name, expected in sums.items()
            if not (folder / name).is_file() or sha256_of(folder / name) != expected
        ]
        KnowledgeBase(folder).verify()
        if not wrong:
            VectorIndex(folder)
    except ValueError as error:
        wrong.append(str(error))
    for name in (IMAGES, TEXTS):
        wrong += verify_shards(folder / name)[0]
    return wrong


def build_index(
    settings: IndexSettings, progress: Progress = quiet, *, embedder: Embedder | None = None,
    announce: Callable[[str], object] = logger.info,
) -> VectorIndex:  # fmt: skip
    """Reads the corpora, writes their items, embeds the images, and builds the index.

    A second call goes on where the first was interrupted.

    Args:
        settings: the corpora, and what index is built.
        progress: shows how far it is.
        embedder: use this one instead of loading `settings.embedder`.
        announce: told which index will be built, and its size, before the building.

    Example:
        >>> settings = IndexSettings(corpus=("wit.tsv.gz",), output=Path("wit"), embedder="toy")
        >>> len(build_index(settings))

    Raises:
        CorpusError: for what are no corpora.
        CutShardError: a shard ends too early, and `keep_partial` is not set.
        IndexFolderError: no image can be read, or the factory string is not FAISS's.
        StorageError: the disk is full, or another process builds in this folder.
    """
    _check_factory(settings.index)  # before the reading: it fails sooner
    embedder = embedder or load_embedder(settings.embedder)
    with one_writer(settings.output / LOCK):
        sweep(settings.output)  # what killed processes left
        base = read_items(settings, progress)
        return index_base(base, embedder, settings.index, progress, announce=announce)


def read_items(settings: IndexSettings, progress: Progress = quiet) -> KnowledgeBase:
    """The first half of `build_index`: corpora to knowledge base, without any images opened."""
    if not any((Path(corpus) / CORPUS_MANIFEST).is_file() for corpus in settings.corpus):
        return build_corpus(settings.reading, progress)
    first = settings.corpus[0]
    if len(settings.corpus) > 1 or Path(first).resolve() != settings.output.resolve():
        raise CorpusError(
            f"{first}: a corpus folder is indexed by itself and where it lies: --output {first};"
            " several sources are joined by comem corpus build"
        )
    if settings.languages or settings.max_chars:
        raise CorpusError(f"{first}: languages and max_chars are settings of comem corpus build")
    base = KnowledgeBase(settings.output)
    unfinished = not base.manifest.get("complete", True) and (settings.output / PARTS).is_dir()
    if unfinished and not settings.keep_partial:
        raise CutShardError(f"{first}: a source of this corpus was cut; build it again, or --keep-partial")
    return base


def index_base(
    base: KnowledgeBase, embedder: Embedder, settings: FaissSettings | None = None,
    progress: Progress = quiet, *, announce: Callable[[str], object] = logger.info,
) -> VectorIndex:  # fmt: skip
    """Embeds the images of a knowledge base and writes the index into its folder.

    Each image is opened and embedded once, however many items show it. Items without a readable
    image stay in the knowledge base, are counted in the manifest, and cannot be found.

    Raises:
        IndexFolderError: if no image can be read, or the factory string is not FAISS's.
        StorageError: when the disk is full; finished shards stay.
    """
    settings = settings or FaissSettings()
    _check_factory(settings)
    try:
        rows, vectors, found = embed_shown(
            base, embedder, shard_size=settings.shard_size, batch_size=settings.batch_size,
            half=settings.half, progress=progress,
        )  # fmt: skip
    except ValueError as error:
        raise IndexFolderError(str(error)) from error
    plan = settings.plan(len(vectors), vectors.dimension)
    announce(plan.describe())
    (base.folder / MANIFEST).unlink(missing_ok=True)  # it comes back last: without it there is no index
    try:
        build_files(vectors, plan, base.folder, budget=settings.memory, seed=settings.seed, progress=progress)
    except ValueError as error:
        raise IndexFolderError(str(error)) from error
    _check_found(vectors, base.folder, settings)
    without = len(base) - len(rows)
    if without:
        logger.warning("%d of %d items have no readable image and are not indexed", without, len(base))
    extra = {
        "images": len(found.positions), "items_without_picture": without, "faults": found.faults,
        "plan": asdict(plan),
    }  # fmt: skip
    return save_index(base, rows, vectors.dimension, embedder, settings, extra)


def _check_factory(settings: FaissSettings) -> None:
    try:
        if settings.factory != AUTO:
            check_factory(settings.factory)
    except ValueError as error:
        raise IndexFolderError(str(error)) from error


def _check_found(vectors: Vectors, folder: Path, settings: FaissSettings) -> None:
    """Ask a new index for some of its own vectors: one that finds nothing is none.

    Raises:
        IndexFolderError: it does not find them.
    """
    asked = vectors.take(np.linspace(0, len(vectors) - 1, num=min(8, len(vectors)), dtype=np.int64))
    try:
        scores, places = FaissIndex(folder, settings.search).search(asked, 1)
    except ValueError as error:
        raise IndexFolderError(str(error)) from error
    if (places < 0).any() or not np.isfinite(scores).all():
        raise IndexFolderError(
            f"{folder}: the index of factory {settings.factory!r} does not find its own vectors; take 'auto',"
            " 'Flat', or more probes (index.search.probes)"
        )


def save_index(
    base: KnowledgeBase, rows: np.ndarray, dimension: int, embedder: Embedder, settings: FaissSettings,
    extra: Mapping[str, Any],
) -> VectorIndex:  # fmt: skip
    """Writes what belongs to an index beside FAISS's own files, the manifest last."""
    folder = base.folder
    names = sorted(set(base.languages))
    place = {name: code for code, name in enumerate(names)}
    codes = np.fromiter((place[each] for each in base.languages), dtype=np.uint16, count=len(base))  # (n,)
    save_array(folder / ROWS, rows)
    save_array(folder / LANGUAGES, codes[rows])
    files = [name for name in (INDEX, ROWS, LANGUAGES, REFINE) if (folder / name).is_file()]
    sums = {name: sha256_of(folder / name) for name in files}
    manifest = {
        "format": FORMAT, "count": len(rows), "dimension": dimension, "metric": "cosine",
        "embedder": {"name": embedder.name, "fingerprint": embedder.fingerprint}, "languages": names,
        "settings": asdict(settings), "ids_sha256": base.manifest["ids_sha256"],
        "bytes": {name: (folder / name).stat().st_size for name in files},
        "sha256": sums[INDEX], "sha256_of": sums,
        "head_sha256": {name: _head_sum(folder / name) for name in files}, **run_manifest(extra),
    }  # fmt: skip
    write_sealed(folder / MANIFEST, manifest)
    return VectorIndex(folder, embedder)


def is_current(
    corpora: Sequence[str | Path], output: str | Path, embedder: str | None = None,
    images: str | Path | None = None,
) -> bool:  # fmt: skip
    """Whether a folder's index was built from these corpora, and their files are still the same.

    Tables are compared by their bytes; folders of images by names, sizes and times.

    Args:
        corpora: files, folders or data sets, as in `IndexSettings`.
        output: the index folder.
        embedder: the name it must have been built with; None takes any.
        images: where relative image paths start, as in `find_sources`.
    """
    output = Path(output)
    if not (output / MANIFEST).is_file():
        return False
    base, index = KnowledgeBase(output), read_json(output / MANIFEST)
    if base.manifest["ids_sha256"] != index["ids_sha256"]:
        return False
    if embedder not in (None, index["embedder"]["name"]):
        return False
    if any((Path(corpus) / CORPUS_MANIFEST).is_file() for corpus in corpora):
        return [Path(corpus).resolve() for corpus in corpora] == [output.resolve()]
    try:
        sources = find_sources(corpora, images)
    except CorpusError:
        return False
    known = [_identity(each) for each in base.manifest.get("sources", ())]
    return known == [_identity(source.describe()) for source in sources]


def _identity(source: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells sources apart; 0.1 called a file's name "path", and wrote it down as it was given."""
    name = str(source.get("name", source.get("path")))
    is_path = "split" not in source
    return os.path.abspath(name) if is_path else name, *map(source.get, ("sha256", "listing", "split"))
