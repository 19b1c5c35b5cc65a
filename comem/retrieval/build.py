"""From corpus files to a knowledge base with an index, in one call that can be repeated after a crash."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from comem.io.files import one_writer, write_json
from comem.io.jsonl import read_json, sha256_of
from comem.io.manifest import run_manifest
from comem.retrieval.corpus import CorpusError, CorpusStats, CutShardError, read_corpus, unique_items
from comem.retrieval.embed import embed_paths
from comem.retrieval.embedder import DEFAULT_EMBEDDER, Embedder, load_embedder
from comem.retrieval.index import (
    EMBEDDINGS,
    FORMAT,
    LANGUAGES,
    ROWS,
    IndexFolderError,
    IndexSettings,
    VectorIndex,
)
from comem.retrieval.index import (
    MANIFEST as INDEX_MANIFEST,
)
from comem.retrieval.knowledge import MANIFEST, KnowledgeBase, write_knowledge_base
from comem.retrieval.search import INDEX, REFINE, build_files
from comem.retrieval.vectors import Vectors, save_array

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
    (base.folder / INDEX_MANIFEST).unlink(missing_ok=True)  # it comes back last: without it there is no index
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
    write_json(folder / INDEX_MANIFEST, manifest)
    return VectorIndex(folder, embedder)


def _language_codes(languages: Sequence[str], rows: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The languages that there are, and for each vector which of them, uint16 `(n,)`."""
    names = sorted(set(languages))
    place = {name: code for code, name in enumerate(names)}
    codes = np.fromiter((place[language] for language in languages), dtype=np.uint16, count=len(languages))
    return names, codes[rows]


LOCK = ".index.lock"


@dataclass(frozen=True)
class BuildSettings:
    """What a `configs/retrieval/*.yaml` says.

    Attributes:
        embedder: "toy", a folder, or `architecture:pretrained` of open_clip.
        languages: keep rows of these languages; empty keeps all.
        max_chars: cut passages to this length; 0 leaves them whole.
        on_duplicate: what happens to a repeated id.
        index: how vectors are made and stored.
    """

    embedder: str = DEFAULT_EMBEDDER
    languages: tuple[str, ...] = ()
    max_chars: int = 0
    on_duplicate: Literal["refuse", "drop"] = "refuse"
    index: IndexSettings = field(default_factory=IndexSettings)

    def __post_init__(self) -> None:
        if self.max_chars < 0:
            raise ValueError(f"max_chars is {self.max_chars}; at least 1, or 0 for no limit")


def build(
    corpora: Sequence[str | Path],
    output: str | Path,
    settings: BuildSettings,
    *,
    images: str | Path | None = None,
    keep_partial: bool = False,
    progress: bool = True,
    embedder: Embedder | None = None,
    announce: Callable[[str], object] = logger.info,
) -> VectorIndex:
    """Reads the corpora, writes items and manifest, embeds the pictures, and builds the index.

    Args:
        corpora: WIT shards (`.tsv[.gz]`), item files (`.jsonl[.gz]`), folders of such files or of pictures
            with texts; or one folder that `comem corpus build` made.
        output: the folder; a second call goes on where the first was interrupted.
        images: where pictures lie; by default beside each corpus file.
        keep_partial: index what could be read of a shard that is cut, instead of stopping there.
        embedder: use this one instead of loading `settings.embedder`.
        announce: told which index will be built, and its size, before the building.

    Raises:
        CorpusError: for files that are no corpora. What was read before the fault is in the knowledge base.
        StorageError: the disk is full, or another process builds in this folder.
    """
    embedder = embedder or load_embedder(settings.embedder)  # before the reading: it fails sooner
    with one_writer(Path(output) / LOCK):
        base = write_items(corpora, output, settings, images=images, keep_partial=keep_partial)
        return build_index(base, embedder, settings.index, progress=progress, announce=announce)


def is_current(
    corpora: Sequence[str | Path], output: str | Path, embedder: str | None = None,
    images: str | Path | None = None,
) -> bool:  # fmt: skip
    """Whether a folder's index was built from these corpora, and their files are still the same.

    Tables are compared by their bytes; folders of pictures by names, sizes and times.

    Args:
        embedder: the name it must have been built with; None takes any.
    """
    from comem.retrieval.corpus.sources import find_sources
    from comem.retrieval.index import MANIFEST as INDEX_MANIFEST

    output = Path(output)
    if not (output / INDEX_MANIFEST).is_file():
        return False
    base, index = KnowledgeBase(output), read_json(output / INDEX_MANIFEST)
    if base.manifest["ids_sha256"] != index["ids_sha256"]:
        return False
    if embedder not in (None, index["embedder"]["name"]):
        return False
    if any((Path(corpus) / MANIFEST).is_file() for corpus in corpora):
        return [Path(corpus).resolve() for corpus in corpora] == [output.resolve()]
    known = [
        {name: value for name, value in each.items() if name not in ("rows", "error")}
        for each in base.manifest.get("sources", ())
    ]
    if any(Path(corpus).is_dir() for corpus in corpora):
        return known == [source.describe() for source in find_sources(corpora, images)]
    return known == [_source(path) for path in corpora]


def write_items(
    corpora: Sequence[str | Path],
    output: str | Path,
    settings: BuildSettings,
    *,
    images: str | Path | None = None,
    keep_partial: bool = False,
) -> KnowledgeBase:
    """The first half of `build`: corpora to knowledge base, without any pictures opened."""
    folders = [Path(corpus) for corpus in corpora if Path(corpus).is_dir()]
    if any((folder / MANIFEST).is_file() for folder in folders):
        return _built_corpus(corpora, output, settings)
    if folders:
        return _raw_folders(corpora, output, settings, images, keep_partial)
    stats = CorpusStats()
    stream = read_corpus(
        corpora, images=images, languages=settings.languages or None,
        max_chars=settings.max_chars or None, stats=stats,
    )  # fmt: skip
    items = unique_items(stream, stats, drop=settings.on_duplicate == "drop")
    # `rows` is filled while the items stream through, and written after them.
    extra = {
        "sources": [_source(path) for path in corpora],
        "settings": asdict(settings),
        "rows": stats.__dict__,
    }
    try:
        base = write_knowledge_base(items, output, extra)
    except CutShardError as error:
        if not keep_partial:
            raise
        logger.warning("going on without the rest: %s", error)
        base = KnowledgeBase(output)
    logger.info("%d rows read, %d kept, dropped: %s", stats.read, stats.kept, dict(stats.dropped) or "none")
    return base


def _built_corpus(
    corpora: Sequence[str | Path], output: str | Path, settings: BuildSettings
) -> KnowledgeBase:
    """The items that `comem corpus build` made; the index goes into their folder."""
    if len(corpora) > 1 or Path(corpora[0]).resolve() != Path(output).resolve():
        raise CorpusError(
            f"{corpora[0]}: a corpus folder is indexed by itself and where it lies: --output {corpora[0]};"
            " several sources are joined by comem corpus build"
        )
    if settings.languages or settings.max_chars:
        raise CorpusError(f"{corpora[0]}: languages and max_chars are settings of comem corpus build")
    return KnowledgeBase(output)


def _raw_folders(
    corpora: Sequence[str | Path],
    output: str | Path,
    settings: BuildSettings,
    images: str | Path | None,
    keep_partial: bool,
) -> KnowledgeBase:
    """Folders of tables or of pictures, read as `comem corpus build` reads them with its defaults."""
    from comem.retrieval.corpus.build import build_corpus
    from comem.retrieval.corpus.rules import CorpusRules
    from comem.retrieval.corpus.sources import find_sources

    rules = CorpusRules(
        languages=settings.languages, max_chars=settings.max_chars, on_duplicate=settings.on_duplicate
    )
    return build_corpus(find_sources(corpora, images), output, rules, keep_partial=keep_partial)


def _source(path: str | Path) -> dict[str, object]:
    """Name, size and checksum of a corpus file; a missing one is reported by its reader."""
    path = Path(path)
    if not path.is_file():
        return {"path": str(path)}
    return {"path": str(path), "bytes": path.stat().st_size, "sha256": sha256_of(path)}
