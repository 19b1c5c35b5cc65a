"""Corpora of one's own: JSONL, CSV and Parquet tables, and folders of pictures with texts beside them."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from comem.io.jsonl import RecordError
from comem.retrieval.corpus.rules import SUFFIXES, CorpusError, CorpusStats, CutShardError, RawRows, clean

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
METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # as in datasets' ImageFolder
MAX_FIELD = 16 << 20  # characters of one CSV field


def rename(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
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
    if "image" in columns or (clean_url := renamed.get("image_url")) is None or not clean(clean_url):
        renamed.pop("image_url", None)  # `image` alone says where the picture is
    return renamed


def jsonl_rows(path: Path, stats: CorpusStats) -> RawRows:
    """Lines of a JSONL file; those that are not JSON objects are counted and skipped.

    Raises:
        CorpusError: no such file, or not one line is JSON.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    number, good = 0, False
    try:
        with opener(path, "rb") as file:
            for number, raw in enumerate(file, start=1):
                where = f"{path}:{number}"
                if not raw.strip():
                    continue
                stats.read += 1
                try:
                    row = json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
                except (ValueError, RecursionError):
                    row = None
                if not isinstance(row, dict):
                    stats.drop("broken line (no JSON object)", where)
                    continue
                good = True
                yield where, row
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CutShardError(
            f"{path}: cut or damaged after line {number} ({error}); fetch it again"
        ) from error
    if number and not good:
        raise CorpusError(f"{path}: not one of its {number} lines is a JSON object; is it a JSONL file?")


def csv_rows(path: Path, stats: CorpusStats) -> RawRows:
    """Rows of a CSV file with a header (comma, semicolon or tab); those of another width are skipped.

    Raises:
        CorpusError: the file is empty.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    csv.field_size_limit(MAX_FIELD)
    with opener(path, "rt", encoding="utf-8-sig", errors="replace", newline="") as file:  # type: ignore[operator]
        head = file.readline()
        if not head.strip():
            raise CorpusError(f"{path}: the file is empty; a CSV starts with a line of column names")
        delimiter = max(",;\t", key=head.count)
        names = next(csv.reader([head], delimiter=delimiter))
        reader = csv.reader((line.replace("\0", "") for line in file), delimiter=delimiter)
        while True:
            try:
                fields = next(reader, None)
            except csv.Error as error:
                stats.read += 1
                stats.drop("broken line (not CSV)", f"{path}:{reader.line_num + 1} ({error})")
                continue
            if fields is None:
                return
            if not fields:
                continue
            stats.read += 1
            where = f"{path}:{reader.line_num + 1}"
            if len(fields) != len(names):
                stats.drop(f"broken line ({len(fields)} of {len(names)} fields)", where)
                continue
            yield where, dict(zip(names, fields, strict=True))


def parquet_rows(path: Path, stats: CorpusStats) -> RawRows:
    """Rows of a Parquet file, read in batches.

    Raises:
        CorpusError: not a Parquet file.
        CutShardError: a page in its middle is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{path}: not a whole Parquet file ({error}); copy it again") from error
    number = 0
    try:
        for batch in file.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                stats.read += 1
                yield f"{path}:{number}", row
    except (pa.ArrowException, OSError) as error:
        raise CutShardError(f"{path}: damaged after row {number} ({error}); copy it again") from error


def folder_rows(path: Path, stats: CorpusStats, names_as_titles: bool = False) -> RawRows:
    """The pictures of a folder and of those below it, each with the text of the file beside it.

    Beside `a.jpg` may stand `a.txt` (the text) or `a.json` (an object with text, title, language, …).

    Args:
        names_as_titles: a picture's file name, without `_` and `-`, is its title where it has none.

    Raises:
        CorpusError: a folder that may not be read.
    """
    for picture in _pictures(path):
        stats.read += 1
        row: dict[str, Any] = {"id": picture.relative_to(path).as_posix(), "image": str(picture)}
        try:
            row |= _beside(picture)
        except (OSError, ValueError) as error:
            stats.drop("broken text file", f"{picture} ({error})")
            continue
        if names_as_titles and not (row.get("title") or row.get("page_title")):
            row["title"] = " ".join(picture.stem.replace("_", " ").replace("-", " ").split())
        yield str(picture), row


def _pictures(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise CorpusError(
            f"{error.filename}: cannot be read ({error.strerror}); check its permissions"
        ) from error

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders.sort()
        yield from (Path(parent, name) for name in sorted(names) if Path(name).suffix.lower() in SUFFIXES)


def _beside(picture: Path) -> dict[str, Any]:
    """What the files beside a picture say about it."""
    found: dict[str, Any] = {}
    if (text := picture.with_suffix(".txt")).is_file():
        found["text"] = text.read_text(encoding="utf-8-sig", errors="replace")
    if (record := picture.with_suffix(".json")).is_file():
        row = json.loads(record.read_text(encoding="utf-8-sig"))
        if not isinstance(row, dict):
            raise RecordError(f"{record}: no JSON object")
        found |= {name: value for name, value in row.items() if name not in ("image", "file_name")}
    return found


SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk leaves


def dataset_rows(name: str, split: str, stats: CorpusStats) -> RawRows:
    """Rows of a data set, streamed; pictures stay as they are encoded.

    Rows with WIT's texts nested by page, as in wikimedia/wit_base (`wit_features`), become one a page.

    Args:
        name: a name on the hub, a folder that `load_dataset` understands, or one made by `save_to_disk`.
        split: which part of it.

    Raises:
        CorpusError: no such data set or split.
    """
    for number, row in enumerate(_open(name, split), start=1):
        for page, flat in enumerate(pages(row)):
            stats.read += 1
            flat.setdefault("id", f"{split}/{number}" + (f"/{page}" if page else ""))
            yield f"{name}:{split}:{number}", flat


def _open(name: str, split: str) -> Any:
    import datasets

    folder = Path(name)
    try:
        if any((folder / mark).is_file() for mark in SAVED):
            data = datasets.load_from_disk(name)
            if isinstance(data, datasets.DatasetDict):
                data = data[split]
        else:
            data = datasets.load_dataset(name, split=split, streaming=True)
    except (ValueError, OSError, KeyError, RuntimeError, ConnectionError) as error:
        raise CorpusError(f"data set {name!r}, split {split!r}: cannot be opened: {error}") from error
    for column, feature in (data.features or {}).items():
        if isinstance(feature, datasets.Image):
            data = data.cast_column(column, datasets.Image(decode=False))
    return data


def pages(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The row itself, or one row for each of the pages nested in it."""
    nested = row.get("wit_features")
    if not nested:
        yield dict(row)
        return
    shared = {name: value for name, value in row.items() if name not in ("wit_features", "embedding")}
    if isinstance(nested, Mapping):  # the library turns a list of dicts into a dict of lists
        nested = [dict(zip(nested, values, strict=True)) for values in zip(*nested.values(), strict=True)]
    for page in nested:
        flat = {**shared, **page}
        url = hashlib.sha256(str(shared.get("image_url")).encode()).hexdigest()[:12]
        flat["id"] = f"{flat.get('page_url') or flat.get('page_title') or ''}#{url}"
        yield flat
