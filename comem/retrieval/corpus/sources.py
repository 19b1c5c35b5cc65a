"""The one reader of corpora: what the user's words mean, and the items behind them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from comem.config import option, take_paths
from comem.io.files import is_missing, listed, sha256_of
from comem.retrieval.corpus.articles import article_rows, is_articles
from comem.retrieval.corpus.rows import (
    SAVED,
    RawRows,
    csv_rows,
    dataset_rows,
    film_rows,
    folder_rows,
    jsonl_rows,
    parquet_rows,
    wit_rows,
)
from comem.retrieval.corpus.rules import (
    CorpusError,
    CorpusItem,
    CorpusRules,
    CorpusStats,
    MissingColumnError,
    Places,
    make_item,
)
from comem.retrieval.corpus.videos import is_video
from comem.retrieval.knowledge import ITEMS, MANIFEST
from comem.types import KnowledgeItem

HUB = "hf:"
KINDS = {
    ".tsv": "wit", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet",
}  # fmt: skip
READERS = {
    "wit": wit_rows, "jsonl": jsonl_rows, "csv": csv_rows, "parquet": parquet_rows, "corpus": parquet_rows,
    "articles": article_rows,
}  # fmt: skip
METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # as in datasets' ImageFolder
#: The names under which people store what we call otherwise; the first that a row has counts.
ALIASES = {
    "id": ("id", "item_id", "data_id", "key"),
    "text": ("text", "passage", "caption", "description"),
    "page_title": ("page_title", "title"),
    "image": ("image", "image_path", "file_name", "image_url", "url", "path"),
    "language": ("language", "lang"),
    "licence": ("licence", "license"),
    "page_url": ("page_url", "source"),
}


@dataclass(frozen=True)
class Source:
    """One shard of a corpus: what one worker reads.

    Attributes:
        name: the file or folder, absolute, or the name of the data set.
        kind: wit, jsonl, csv, parquet, articles, folder, video, dataset or corpus.
        folder: where relative image paths start, absolute.
        named: whether the user named that folder.
        split: of a data set.
        columns: our name → the name in this corpus.
        names_as_titles: of a folder of images.
        segment: frames of a video's segment.
        fps: frames of a video that are read of each second.
    """

    name: str
    kind: str
    folder: str
    named: bool = False
    split: str = "train"
    columns: Mapping[str, str] = field(default_factory=dict)
    names_as_titles: bool = False
    segment: int = 32
    fps: float = 1.0

    def items(self, rules: CorpusRules, stats: CorpusStats, store: Path | None) -> Iterator[CorpusItem]:
        """What the rules keep of the rows.

        Args:
            rules: what is kept, and how it is written.
            stats: filled in while streaming.
            store: the corpus folder that is being written, if one is.

        Raises:
            CorpusError: for what is no such corpus.
        """
        base = Path(self.folder)
        if self.kind == "corpus":  # whose downloads lie in it, or will
            store = store or base
        places = Places(base, base if self.named else None, store)
        before, missing = stats.kept, None
        for where, row in self.rows(stats):
            try:
                item = make_item(where, row, rules, stats, places)
            except MissingColumnError as error:
                if self.kind not in ("jsonl", "folder", "video"):  # whose rows have columns of their own
                    raise
                missing = missing or error
                stats.drop("broken row (a column is missing)", str(error))
                continue
            if item is not None:
                yield item
        if missing is not None and stats.kept == before:
            raise missing

    def rows(self, stats: CorpusStats) -> RawRows:
        """All rows, with the columns under our names."""
        for where, row in self._raw(Path(self.name), stats):
            stats.read += 1
            if self.kind == "wit":
                yield where, row
                continue
            try:
                yield where, _renamed(row, self.columns)
            except KeyError as error:
                raise CorpusError(
                    f"{where}: no column {error.args[0]!r} (--columns); it has {listed(row)}"
                ) from None

    def _raw(self, path: Path, stats: CorpusStats) -> RawRows:
        if self.kind == "folder":
            return folder_rows(path, stats, self.names_as_titles, self.segment, self.fps)
        if self.kind == "video":
            return film_rows(path, stats, self.segment, self.fps)
        if self.kind == "dataset":
            return dataset_rows(self.name, self.split)
        return READERS[self.kind](path, stats)

    def stamp(self) -> dict[str, Any]:
        """What tells whether the source is still the same, without reading it."""
        path = Path(self.name)
        if self.kind == "dataset" or not path.exists():
            return {"name": self.name, "split": self.split}
        if path.is_dir():
            return {"name": self.name, "listing": _listing(path)}
        status = path.stat()
        return {"name": self.name, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}

    def describe(self) -> dict[str, Any]:
        """Name, kind, size and checksum, for the manifest."""
        described: dict[str, Any] = {**self.stamp(), "kind": self.kind}
        described.pop("mtime_ns", None)
        if Path(self.name).is_file():
            described["sha256"] = sha256_of(self.name)
        return described


def _renamed(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The row under our names: by what the user says (`{our name: theirs}`), then by common aliases.

    Raises:
        KeyError: the user names a column that the row does not have.
    """
    renamed = {name: value for name, value in row.items() if name is not None}
    for name, names in ALIASES.items():
        found = next((theirs for theirs in names if theirs in row), None)
        if found is not None:
            renamed[name] = row[found]
    for name, theirs in columns.items():
        renamed[name] = row[theirs]
    if "image" in columns or is_missing(renamed.get("image_url")):
        renamed.pop("image_url", None)  # `image` alone says where the image is
    return renamed


def find_sources(
    words: Sequence[str | Path],
    images: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    names_as_titles: bool = False,
    segment: int = 32,
    fps: float = 1.0,
) -> list[Source]:
    """The sources that the user's words mean, in their order; all paths become absolute here.

    Args:
        words: files (`.tsv`, `.jsonl`, `.csv`, each with or without `.gz`, `.parquet`; a `.json` of articles
            by URL), folders of such files, of images or of videos, single videos, and data sets: `hf:NAME` or
            `hf:NAME:SPLIT`.
        images: where relative image paths start, and downloaded images may lie under the last part of their
            URL; by default beside each file.
        columns: our name → the name in these files.
        names_as_titles: an image's file name is its title where it has none; of folders of images.
        segment: frames of a video's segment, each of which is an item; 0 leaves the videos of folders out.
        fps: frames of a video that are read of each second.

    Raises:
        CorpusError: for a word that means nothing, or a folder that may not be read.
    """
    named = None if images is None else os.path.abspath(os.path.expanduser(images))
    found: list[Source] = []
    for word in map(str, words):
        found += _sources(word, named, dict(columns or {}), names_as_titles)
    found = [replace(source, segment=segment, fps=fps) for source in found]
    if not found:
        raise CorpusError("no source was given: name files, folders or data sets (hf:NAME)")
    names = [(source.name, source.split) for source in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise CorpusError(f"{twice[0]}: given twice; each source is read once")
    return found


def _sources(  # noqa: C901 (a branch a kind)
    word: str, images: str | None, columns: dict[str, str], titles: bool
) -> list[Source]:
    def source(name: str, kind: str, beside: str, split: str = "train", titles: bool = False) -> list[Source]:
        return [Source(name, kind, images or beside, images is not None, split, columns, titles)]

    if word.startswith(HUB):
        name, _, split = word.removeprefix(HUB).partition(":")
        return source(name, "dataset", os.path.abspath(name), split or "train")
    path = Path(os.path.abspath(os.path.expanduser(word)))
    try:
        names = sorted(os.listdir(path)) if path.is_dir() else None
    except PermissionError as error:
        raise CorpusError(f"{word}: cannot be read ({error.strerror}); check its permissions") from error
    if names is None:
        if not path.is_file():
            raise CorpusError(
                f"{word}: no such corpus file or folder (a data set of the hub is written hf:NAME)"
            )
        kind = _kind(path.name)
        if kind is None:
            raise CorpusError(
                f"{word}: unknown corpus format; known: {', '.join(KINDS)}, .json (with or without .gz)"
            )
        # With columns of one's own a TSV is tab-separated too, but not WIT's.
        return source(str(path), "csv" if kind == "wit" and columns else kind, str(path.parent))
    if any(mark in names for mark in SAVED):
        return source(str(path), "dataset", str(path))
    if ITEMS in names and MANIFEST in names:  # a corpus folder
        return [Source(str(path / ITEMS), "corpus", str(path), columns=columns)]
    tables = [name for name in METADATA_NAMES if name in names][:1]
    for kind in () if tables else dict.fromkeys(KINDS.values()):  # WIT shards before questions beside them
        tables = tables or [name for name in names if _kind(name) == kind]
    if tables:
        return [found for name in tables for found in _sources(str(path / name), images, columns, titles)]
    return [Source(str(path), "folder", str(path), columns=columns, names_as_titles=titles)]


def _kind(name: str) -> str | None:
    kind = KINDS.get(Path(name.removesuffix(".gz")).suffix.lower())
    return kind or ("articles" if is_articles(name) else "video" if is_video(name) else None)


def _listing(folder: Path) -> str:
    """A checksum over names, sizes and times of all files of a folder."""
    digest = hashlib.sha256()
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for path in (os.path.join(parent, name) for name in sorted(names)):
            status, name = os.stat(path), os.path.relpath(path, folder)
            line = f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n"
            digest.update(line.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def read_corpus(
    sources: Sequence[Source], rules: CorpusRules | None = None, stats: CorpusStats | None = None
) -> Iterator[KnowledgeItem]:
    """Streams the items of sources, one after the other; nothing is written, and no image is opened.

    An image that came as bytes stays in memory with its item. Rows whose image is on the network are dropped,
    unless the sources were found with a folder of downloaded images (`comem corpus build` fetches them).

    Args:
        sources: as `find_sources` gives them.
        rules: which rows are kept; `unique` and `on_duplicate` are for tables and do nothing here.
        stats: filled in while streaming.

    Raises:
        CorpusError: for what is no such corpus.
        CutShardError: at the end of a compressed file that was cut, after its whole rows were delivered.
    """
    stats = stats if stats is not None else CorpusStats()
    for source in sources:
        for item in source.items(rules or CorpusRules(), stats, None):
            yield item.item()


@dataclass(frozen=True, kw_only=True)
class CorpusSettings(CorpusRules):
    """Read WIT, tables, folders or data sets into a corpus folder; run again, it goes on.

    Attributes:
        sources: WIT .tsv[.gz], .jsonl, .csv, .parquet, .json of articles, a video, a folder, hf:NAME[:SPLIT].
        output: the corpus folder.
        images: where relative image paths start; beside each file by default.
        columns: columns of your own, each as OURS=THEIRS: id, text, title, image, language, licence, …
        names_as_titles: an image's file name is its title.
        segment: frames of a video's segment, each of which is an item: as many as the memory folds.
        fps: frames of a video that are read of each second.
        keep_partial: go on with what could be read of a cut shard.
        workers: shards read at the same time.
    """

    sources: tuple[str, ...] = option(positional=True, metavar="SOURCE")
    output: Path = option(metavar="DIR")
    images: Path | None = option(None, metavar="DIR")
    columns: tuple[str, ...] = option((), metavar="OURS=THEIRS")
    names_as_titles: bool = False
    segment: int = 32
    fps: float = 1.0
    keep_partial: bool = False
    workers: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        take_paths(self)
        if self.segment < 1 or not self.fps > 0:
            raise ValueError(f"segment={self.segment}, fps={self.fps:g}: give positive numbers")
        if isinstance(self.sources, (str, Path)):  # one; its letters are no sources
            object.__setattr__(self, "sources", (str(self.sources),))

    @property
    def rules(self) -> CorpusRules:
        """What decides which rows are kept."""
        return CorpusRules(**{each.name: getattr(self, each.name) for each in fields(CorpusRules)})

    def find_sources(self) -> list[Source]:
        """The sources that are meant.

        Raises:
            CorpusError: a word means nothing.
        """
        columns = column_names(self.columns)
        return find_sources(self.sources, self.images, columns, self.names_as_titles, self.segment, self.fps)


def column_names(pairs: Sequence[str]) -> dict[str, str]:
    """`OURS=THEIRS` words as a mapping; `title` is WIT's `page_title`.

    Raises:
        ValueError: a word of another form.
    """
    broken = [pair for pair in pairs if not all(pair.partition("="))]
    if broken:
        raise ValueError(f"--columns {broken[0]}: write OURS=THEIRS, as in id=sku")
    split = dict(pair.split("=", 1) for pair in pairs)
    ours = {"title": "page_title", "license": "licence", "source": "page_url"}
    return {ours.get(name, name): theirs for name, theirs in split.items()}
