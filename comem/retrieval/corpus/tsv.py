"""Tab-separated text as WIT publishes it, streamed; broken quotes, lines, bytes and cut files survived."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from comem.retrieval.corpus.base import CorpusError, CorpusStats, CutShardError, RawRows

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
