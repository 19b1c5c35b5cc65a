"""The public WIT shards, row by row or as items (github.com/google-research-datasets/wit, DATA.md)."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from comem.retrieval.corpus.rules import (
    DESCRIPTIONS,
    CorpusError,
    CorpusStats,
    CutShardError,
    RawRows,
    clean,
    passage,
    wit_id,
)
from comem.types import ImageRef, KnowledgeItem

MAX_JOINED_LINES = 20  # a quoted field may hold line breaks, but an unclosed quote must not eat the file
MAX_LINE = 16 << 20  # bytes; a file without line breaks must not fill the memory


def read_tsv(path: Path, needed: Sequence[str], one_of: Sequence[str], stats: CorpusStats) -> RawRows:
    """Rows of a TSV file with a header, with "file:line" of each; faulty lines are counted and skipped.

    Args:
        path: the file; `.gz` is unpacked on the way.
        needed: columns that must be there.
        one_of: columns of which at least one must be there.
        stats: `read` and the broken lines are counted here.

    Raises:
        CorpusError: no such file, or no table with these columns.
        CutShardError: at the end of a compressed file that was cut, after its whole rows were delivered.
    """
    lines = _lines(path, stats)
    first = next(lines, None)
    if first is None:
        raise CorpusError(f"{path}: the file is empty; a WIT shard starts with a line of column names")
    columns = first[1].lstrip("\ufeff").split("\t")
    missing = [name for name in needed if name not in columns]
    if not any(name in columns for name in one_of):
        missing.append("one of " + "/".join(one_of))
    if missing:
        raise CorpusError(
            f"{path}: not a WIT table: missing columns {', '.join(missing)}; found {columns[:20]}"
        )
    for number, fields in _split_rows(lines, len(columns), path, stats):
        stats.read += 1
        yield f"{path}:{number}", dict(zip(columns, fields, strict=True))


def _split_rows(
    lines: Iterator[tuple[int, str]], width: int, path: Path, stats: CorpusStats
) -> Iterator[tuple[int, list[str]]]:
    """Splits lines at tabs, joining those that a quoted field with line breaks runs across."""
    waiting: list[tuple[int, str]] = []  # lines that were looked at for a join which failed
    while True:
        pair = waiting.pop(0) if waiting else next(lines, None)
        if pair is None:
            return
        number, line = pair
        if not line.strip():
            continue
        fields, ahead = line.split("\t"), list[tuple[int, str]]()
        while len(fields) < width and _open_quote(fields[-1]) and len(ahead) < MAX_JOINED_LINES:
            more = waiting.pop(0) if waiting else next(lines, None)
            if more is None:
                break
            ahead.append(more)
            head, *rest = more[1].split("\t")
            fields = [*fields[:-1], f"{fields[-1]}\n{head}", *rest]
        if len(fields) > width and '"' in line:  # a tab inside a quoted field
            fields = _quoted_fields(line, fields)
        if len(fields) != width:
            waiting = ahead + waiting  # only the first line is lost, not those looked at after it
            stats.read += 1
            stats.drop(f"broken line ({len(fields)} of {width} fields)", f"{path}:{number}")
            continue
        yield number, [_unquote(value) for value in fields]


def _quoted_fields(line: str, fields: list[str]) -> list[str]:
    """The fields by the rules of quoted CSV, or as they were where these do not hold."""
    try:
        return next(csv.reader([line], delimiter="\t"), fields)
    except csv.Error:  # a field beyond the limit of the csv module
        return fields


def _open_quote(value: str) -> bool:
    return value.startswith('"') and value.count('"') % 2 == 1


def _unquote(value: str) -> str:
    quoted = len(value) >= 2 and value.startswith('"') and value.endswith('"') and value.count('"') % 2 == 0
    return value[1:-1].replace('""', '"') if quoted else value


def _lines(path: Path, stats: CorpusStats) -> Iterator[tuple[int, str]]:
    """Numbered lines as text; bytes that are not UTF-8 are replaced and counted."""
    number = 0
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rb") as file:
            while raw := file.readline(MAX_LINE):
                number += 1
                yield number, _decode(bytes(raw), path, number, stats)
    except FileNotFoundError:
        raise CorpusError(f"{path}: no such corpus file") from None
    except PermissionError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        if number == 0:
            raise CorpusError(f"{path}: not a gzip file ({error}); unpack it or name it .tsv") from error
        raise CutShardError(
            f"{path}: the compressed file is cut or damaged after line {number} ({error}); the {stats.kept}"
            " items before it were read. Download it again, or go on with them: --keep-partial"
        ) from error


def _decode(raw: bytes, path: Path, number: int, stats: CorpusStats) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("utf-8", errors="replace")
        stats.repair("encoding", f"{path}:{number}: bytes that are not UTF-8 were replaced")
    return text.rstrip("\r\n")


# The columns of the public WIT TSVs, in their order.
WIT_COLUMNS = (
    "language", "page_url", "image_url", "page_title", "section_title", "hierarchical_section_title",
    "caption_reference_description", "caption_attribution_description", "caption_alt_text_description",
    "mime_type", "original_height", "original_width", "is_main_image", "attribution_passes_lang_id",
    "page_changed_recently", "context_page_description", "context_section_description",
)  # fmt: skip
NEEDED_COLUMNS = ("language", "page_url", "image_url", "page_title")


def wit_rows(path: Path, stats: CorpusStats) -> RawRows:
    """All rows of a shard (`.tsv` or `.tsv.gz`) with all their columns.

    Raises:
        CorpusError: if the file is missing or a needed column is.
        CutShardError: at the end of a compressed file that was cut, after its whole rows were delivered.
    """
    return read_tsv(path, NEEDED_COLUMNS, tuple(DESCRIPTIONS.values()), stats)


def read_wit(
    path: str | Path,
    *,
    languages: Collection[str] | None = None,
    images: str | Path | None = None,
    max_chars: int | None = None,
    stats: CorpusStats | None = None,
) -> Iterator[KnowledgeItem]:
    """Streams the items of one WIT shard whose pictures lie in a folder.

    Args:
        path: the shard.
        languages: keep rows of these languages only; None keeps all.
        images: the folder to which a relative `image_url` refers, and in which downloaded pictures lie
            under the last part of their URL; by default the shard's own folder.
        max_chars: cut passages to this many characters.
        stats: filled in while streaming.

    Raises:
        CorpusError: if the file is missing or a needed column is.
        CutShardError: at the end of a compressed file that was cut, after its whole rows were delivered.
    """
    path, stats = Path(path), stats if stats is not None else CorpusStats()
    folder = Path(images) if images is not None else path.parent
    for where, row in wit_rows(path, stats):
        language = clean(row["language"])
        text, image = "", None
        if languages is not None and language not in languages:
            reason = "language"
        elif not (text := passage(row, max_chars)):
            reason = "no text"
        else:
            image = local_image(clean(row["image_url"]), folder, remote_ok=images is not None)
            reason = "" if image is not None else "no local image"
        if reason:
            stats.drop(reason, where)
            continue
        stats.kept += 1
        yield KnowledgeItem(wit_id(row), text, image, source=clean(row["page_url"]), language=language)


def local_image(url: str, folder: Path, *, remote_ok: bool) -> ImageRef | None:
    """Where the pixels are expected; None when there is no address, or only one on the network."""
    from urllib.parse import unquote, urlsplit

    if not url:
        return None
    if "://" in url:
        name = unquote(urlsplit(url).path.rsplit("/", 1)[-1])
        return ImageRef(path=str(folder / name)) if remote_ok and name else None
    return ImageRef(path=str(folder / url))
