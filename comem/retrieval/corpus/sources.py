"""What the words after `comem corpus build` mean: which readers read which files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comem.io.jsonl import read_jsonl, sha256_of
from comem.retrieval.corpus.own import (
    METADATA_NAMES,
    SAVED,
    csv_rows,
    dataset_rows,
    folder_rows,
    jsonl_rows,
    parquet_rows,
    rename,
)
from comem.retrieval.corpus.rules import CorpusError, CorpusStats, RawRows, clean
from comem.retrieval.corpus.wit import local_image, read_wit, wit_rows
from comem.types import KnowledgeItem

HUB = "hf:"
KINDS = {
    ".tsv": "wit", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet",
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """One shard of a corpus: what one worker reads.

    Attributes:
        name: the file, the folder, or the name of the data set.
        kind: wit, jsonl, csv, parquet, folder or dataset.
        images: where relative image paths start.
        split: of a data set.
        columns: our name → the name in this corpus.
        names_as_titles: of a folder of pictures.
    """

    name: str
    kind: str
    images: str
    split: str = "train"
    columns: Mapping[str, str] = field(default_factory=dict)
    names_as_titles: bool = False

    def rows(self, stats: CorpusStats) -> RawRows:
        """All rows, with the columns under our names.

        Raises:
            CorpusError: for what is no such corpus.
        """
        path = Path(self.name)
        if self.kind == "wit":
            rows = wit_rows(path, stats)
        elif self.kind == "folder":
            rows = folder_rows(path, stats, self.names_as_titles)
        elif self.kind == "dataset":
            rows = dataset_rows(self.name, self.split, stats)
        else:
            rows = {"jsonl": jsonl_rows, "csv": csv_rows, "parquet": parquet_rows}[self.kind](path, stats)
        if self.kind == "wit":
            yield from rows
            return
        for where, row in rows:
            try:
                yield where, rename(row, self.columns)
            except KeyError as error:
                raise CorpusError(
                    f"{where}: no column {error.args[0]!r} (--columns); it has {', '.join(map(str, row))}"
                ) from None

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


def find_sources(
    words: Sequence[str | Path],
    images: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    names_as_titles: bool = False,
) -> list[Source]:
    """The sources that the user's words mean, in their order.

    Args:
        words: files (`.tsv`, `.jsonl`, `.csv`, each with or without `.gz`, `.parquet`), folders of such
            files or of pictures, and data sets: `hf:NAME` or `hf:NAME:SPLIT`.
        images: where relative image paths start; by default beside each file.

    Raises:
        CorpusError: for a word that means nothing, or a folder that may not be read.
    """
    found: list[Source] = []
    for word in map(str, words):
        found += _sources(word, None if images is None else str(images), dict(columns or {}), names_as_titles)
    names = [(source.name, source.split) for source in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise CorpusError(f"{twice[0]}: given twice; each source is read once")
    return found


def _sources(word: str, images: str | None, columns: dict[str, str], titles: bool) -> list[Source]:
    if word.startswith(HUB):
        name, _, split = word.removeprefix(HUB).partition(":")
        return [Source(name, "dataset", images or name, split or "train", columns)]
    path = Path(word)
    try:
        if path.is_dir():
            return _in_folder(path, images, columns, titles)
    except PermissionError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    if not path.is_file():
        raise CorpusError(f"{path}: no such corpus file or folder (a data set of the hub is written hf:NAME)")
    kind = _kind(path)
    if kind is None:
        raise CorpusError(f"{path}: unknown corpus format; known: {', '.join(KINDS)} (with or without .gz)")
    if kind == "wit" and columns:
        kind = "csv"  # tab-separated too, but with columns of one's own
    return [Source(str(path), kind, images or str(path.parent), "train", columns)]


def _in_folder(path: Path, images: str | None, columns: dict[str, str], titles: bool) -> list[Source]:
    """A saved data set, a table beside its pictures, several tables, or just pictures.

    Raises:
        PermissionError: the folder may not be read.
    """
    names = sorted(os.listdir(path))
    if any(mark in names for mark in SAVED):
        return [Source(str(path), "dataset", images or str(path), "train", columns)]
    tables = [name for name in METADATA_NAMES if name in names][:1]
    for kind in () if tables else dict.fromkeys(KINDS.values()):  # WIT shards before questions beside them
        tables = tables or [name for name in names if _kind(Path(name)) == kind]
    if tables:
        return [found for name in tables for found in _sources(str(path / name), images, columns, titles)]
    return [Source(str(path), "folder", images or str(path), "train", columns, titles)]


def _kind(path: Path) -> str | None:
    return KINDS.get(Path(path.name.removesuffix(".gz")).suffix.lower())


def _listing(folder: Path) -> str:
    """A checksum over names, sizes and times of all files of a folder."""
    digest = hashlib.sha256()
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            status = os.stat(os.path.join(parent, name))
            relative = os.path.relpath(os.path.join(parent, name), folder)
            digest.update(
                f"{relative}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "surrogatepass")
            )
    return digest.hexdigest()


def read_items(
    path: str | Path,
    *,
    languages: Collection[str] | None = None,
    images: str | Path | None = None,
    max_chars: int | None = None,
    stats: CorpusStats | None = None,
) -> Iterator[KnowledgeItem]:
    """Streams items from JSONL lines `{"id", "text", "image"[, "source", "language"]}`.

    Raises:
        CorpusError: for a line without an id.
        RecordError: for a line that is not JSON, with file and line number.
    """
    path, stats = Path(path), stats if stats is not None else CorpusStats()
    folder = Path(images) if images is not None else path.parent
    for number, row in enumerate(read_jsonl(path), start=1):
        stats.read += 1
        if clean(row.get("id")) == "":
            raise CorpusError(f"{path}: record {number} has no id; each line needs id, text and image")
        language, text = clean(row.get("language")) or "en", clean(row.get("text"))[:max_chars]
        image = None
        if languages is not None and language not in languages:
            reason = "language"
        elif not text:
            reason = "no text"
        else:
            image = local_image(clean(row.get("image")), folder, remote_ok=images is not None)
            reason = "" if image is not None else "no local image"
        if reason:
            stats.drop(reason, f"{path}:{number}")
            continue
        stats.kept += 1
        yield KnowledgeItem(str(row["id"]), text, image, clean(row.get("source")), language)


def read_corpus(paths: Iterable[str | Path], **options: object) -> Iterator[KnowledgeItem]:
    """Streams several shards one after the other; `.tsv[.gz]` as WIT, `.jsonl[.gz]` as items.

    The options are those of `read_wit`.
    """
    for path in paths:
        name = Path(path).name.removesuffix(".gz")
        if name.endswith(".tsv"):
            yield from read_wit(path, **options)  # type: ignore[arg-type]
        elif name.endswith((".jsonl", ".ndjson")):
            yield from read_items(path, **options)  # type: ignore[arg-type]
        else:
            raise CorpusError(
                f"{path}: unknown corpus format; known: .tsv, .tsv.gz, .jsonl, .jsonl.gz (comem corpus build"
                " reads folders, CSV, Parquet and data sets too)"
            )


def unique_items(
    items: Iterable[KnowledgeItem], stats: CorpusStats, *, drop: bool = False
) -> Iterator[KnowledgeItem]:
    """Refuses a repeated id, or drops the later item and counts it.

    Raises:
        CorpusError: for a repeated id unless `drop`.
    """
    seen: set[str] = set()
    for item in items:
        if item.id in seen and not drop:
            raise CorpusError(
                f"the id {item.id!r} repeats in the corpus (again from {item.source or item.image}); make the"
                " ids unique, or keep the first of each with --on-duplicate drop"
            )
        if item.id in seen:
            stats.kept -= 1
            stats.drop("repeated id", item.id)
            continue
        seen.add(item.id)
        yield item
