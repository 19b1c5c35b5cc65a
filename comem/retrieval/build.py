"""From corpus files to a knowledge base with an index, in one call that can be repeated after a crash."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from comem.records import read_json, sha256_of
from comem.retrieval.corpus import CorpusError, CorpusStats, CutShardError, read_corpus, unique_items
from comem.retrieval.embedder import DEFAULT_EMBEDDER, Embedder, load_embedder
from comem.retrieval.index import IndexSettings, VectorIndex
from comem.retrieval.indexing import build_index
from comem.retrieval.knowledge import MANIFEST, KnowledgeBase, write_knowledge_base
from comem.storage import one_writer

logger = logging.getLogger(__name__)

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
