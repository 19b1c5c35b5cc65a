"""The rows of every kind of source: WIT's shards, tables of one's own, folders of images, data sets.

TSV and CSV are read here and not by pyarrow, which reads an unclosed quote to the end of the file, gives none
of the last rows of a compressed file that was cut, and does not say on which line a faulty row stands.
WIT: github.com/google-research-datasets/wit, DATA.md.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from comem.io.files import RecordError, exact, parse_line, valid
from comem.retrieval.corpus.rules import DESCRIPTIONS, NOT_UNICODE, CorpusError, CorpusStats, CutShardError
from comem.retrieval.corpus.videos import is_video, video_rows

#: A row before it is judged, and where it stands ("file:line"): the columns of WIT, and `id`, `text`,
#: `image` (path, URL or bytes) and `licence` in corpora of one's own.
RawRow = tuple[str, Mapping[str, Any]]
RawRows = Iterator[RawRow]

MAX_LINE = 16 << 20  # bytes; a file without line breaks must not fill the memory
MAX_JOINED_LINES = 20  # a quoted field may hold line breaks, but an unclosed quote must not eat the file

MAX_QUOTED_LINES = 1000  # of a CSV, whose texts may be whole pages

# The columns of the public WIT TSVs, in their order.
WIT_COLUMNS = (
    "language", "page_url", "image_url", "page_title", "section_title", "hierarchical_section_title",
    "caption_reference_description", "caption_attribution_description", "caption_alt_text_description",
    "mime_type", "original_height", "original_width", "is_main_image", "attribution_passes_lang_id",
    "page_changed_recently", "context_page_description", "context_section_description",
)  # fmt: skip
NEEDED_COLUMNS = ("language", "page_url", "image_url", "page_title")


def _lines(path: Path, stats: CorpusStats, windows: bool = False) -> Iterator[tuple[int, str]]:
    """Numbered lines as text, `.gz` unpacked; lines that are not UTF-8 are counted as repaired.

    UTF-16 (PowerShell's files, Excel's "Unicode text") is read as such, told by its first bytes. Other bytes
    are replaced or, with `windows`, taken for Windows-1252 (Excel's CSV) where a line has no UTF-8 at all.

    Raises:
        CorpusError: no such file, or none that may be read or unpacked.
        CutShardError: at the end of a compressed file that was cut, after its whole lines were delivered.
    """
    number = 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            wide = next((name for start, name in _WIDE if bytes(file.peek(4)).startswith(start)), "")
            if wide:
                stats.repair("encoding", f"{path}: {wide} where UTF-8 is expected")
                for number, text in enumerate(io.TextIOWrapper(file, wide, "replace", newline="\n"), start=1):
                    yield number, text.removeprefix("\ufeff") if number == 1 else text
                return
            while raw := bytes(file.readline(MAX_LINE)):
                number += 1
                try:
                    text = raw.decode("utf-8")
                except UnicodeDecodeError:
                    text, how = _not_utf8(raw, windows)
                    stats.repair("encoding", f"{path}:{number}: bytes that are not UTF-8 were {how}")
                yield number, text.removeprefix("\ufeff") if number == 1 else text
    except FileNotFoundError:
        raise CorpusError(f"{path}: no such corpus file") from None
    except PermissionError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    except (EOFError, zlib.error, OSError) as error:  # OSError: BadGzipFile, and a disk that cannot be read
        if number == 0 and isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
            raise CorpusError(f"{path}: cannot be read ({error.strerror or error})") from error
        if number == 0:
            raise CorpusError(f"{path}: not a gzip file ({error}); unpack it or rename it") from error
        raise CutShardError(
            f"{path}: the compressed file is cut or damaged after line {number} ({error}); the {stats.kept}"
            " items before it were read. Download it again, or go on with them: --keep-partial"
        ) from error


#: What wide encodings start with: a byte order mark, or an ASCII character.
_WIDE = (
    (b"\xff\xfe\x00\x00", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"),
    *((bytes([low, 0]), "utf-16-le") for low in range(9, 127)),
    *((bytes([0, low]), "utf-16-be") for low in range(9, 127)),
)  # fmt: skip


def _not_utf8(raw: bytes, windows: bool) -> tuple[str, str]:
    """A line as text, and how that was made."""
    if windows and raw.decode("utf-8", errors="ignore").isascii():
        return raw.decode("cp1252", errors="replace"), "taken for Windows-1252"
    return raw.decode("utf-8", errors="replace"), "replaced"


def wit_rows(path: Path, stats: CorpusStats) -> RawRows:
    """All rows of a WIT shard with all their columns.

    Raises:
        CorpusError: no such file, or no table with WIT's columns.
        CutShardError: at the end of a compressed file that was cut, after its whole rows were delivered.
    """
    lines = ((number, line.rstrip("\r\n")) for number, line in _lines(path, stats))
    first = next(lines, None)
    if first is None:
        raise CorpusError(f"{path}: the file is empty; a WIT shard starts with a line of column names")
    columns = first[1].split("\t")
    missing = [name for name in NEEDED_COLUMNS if name not in columns]
    if not any(name in columns for name in DESCRIPTIONS.values()):
        missing.append("one of " + "/".join(DESCRIPTIONS.values()))
    if missing:
        raise CorpusError(
            f"{path}: not a WIT table: missing columns {', '.join(missing)}; "
            f"found {[name[:40] for name in columns[:20]]}"
        )
    for number, fields in _split_rows(lines, len(columns), path, stats):
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
            stats.broken(f"line ({len(fields)} of {width} fields)", f"{path}:{number}")
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


def csv_rows(path: Path, stats: CorpusStats) -> RawRows:
    """Rows of a CSV file with a header (comma, semicolon or tab); those of another width are skipped.

    Raises:
        CorpusError: the file is empty.
    """
    csv.field_size_limit(MAX_LINE)
    # Without NUL bytes, which Python 3.10's csv refuses, and with \r as a line break.
    plain = (text.replace("\0", "").replace("\r\n", "\n") for _, text in _lines(path, stats, True))
    lines = (line for text in plain for line in io.StringIO(text.replace("\r", "\n")))
    head = next(lines, "")
    if not head.strip():
        raise CorpusError(f"{path}: the file is empty; a CSV starts with a line of column names")
    delimiter = max(",;\t", key=head.count)
    try:
        names = next(csv.reader([head], delimiter=delimiter))
    except csv.Error as error:
        raise CorpusError(f"{path}:1: no line of column names ({error})") from error
    number, waiting = 1, list[str]()  # lines that were looked at for the end of a quote
    while True:
        taken, fault = list[str](), ""
        try:
            fields = _fields(_some(waiting, lines, taken), taken, delimiter)
            if fields and len(fields) != len(names):
                fault = f"line ({len(fields)} of {len(names)} fields)"
        except (csv.Error, _OpenQuoteError) as error:
            fields, fault = [], f"line (not CSV: {error})"
        if not taken:
            return
        if fault:  # only the first line is lost, not those that a quote ran across
            stats.broken(fault, f"{path}:{number + 1}")
            waiting, taken = taken[1:] + waiting, taken[:1]
        number += len(taken)
        if fields and not fault:
            yield f"{path}:{number}", dict(zip(names, fields, strict=True))


class _OpenQuoteError(ValueError):
    """A quote that does not end."""


def _fields(record: Iterator[str], taken: list[str], delimiter: str) -> list[str]:
    """The fields of the next record; text after a quote's end is kept where the record is one line."""
    try:
        return next(csv.reader(record, delimiter=delimiter, strict=True))
    except csv.Error:
        if len(taken) != 1:
            raise
        return next(csv.reader(taken, delimiter=delimiter))


def _some(waiting: list[str], lines: Iterator[str], taken: list[str]) -> Iterator[str]:
    """The lines of one record, which `taken` gets: a quoted field may hold breaks, but not the whole file."""
    while len(taken) < MAX_QUOTED_LINES:
        line = waiting.pop(0) if waiting else next(lines, None)
        if line is None:
            break
        taken.append(line)
        yield line
    raise _OpenQuoteError("a quote that does not end")


def jsonl_rows(path: Path, stats: CorpusStats) -> RawRows:
    """Lines of a JSONL file; those that are not JSON objects are counted and skipped.

    Raises:
        CorpusError: no such file, or not one line is JSON.
    """
    number, good = 0, False
    for number, line in _lines(path, stats):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row, repaired = parse_line(line)
        except ValueError as error:
            stats.broken("line (no JSON object)", f"{where} ({error})")
            continue
        good = True
        if repaired:
            stats.repair(NOT_UNICODE, where)
        yield where, row
    if number and not good:
        raise CorpusError(f"{path}: not one of its {number} lines is a JSON object; is it a JSONL file?")


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
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # a column's name may be damaged, too
        raise CorpusError(f"{path}: not a whole Parquet file ({error}); copy it again") from error
    number = 0
    try:
        for batch in file.iter_batches(batch_size=1024):
            for row, repaired in _pylist(batch):
                number += 1
                if repaired:
                    stats.repair(NOT_UNICODE, f"{path}:{number}")
                yield f"{path}:{number}", row
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CutShardError(f"{path}: damaged after row {number} ({error}); copy it again") from error


def _pylist(batch: Any) -> Iterator[tuple[dict[str, Any], bool]]:
    """The rows of a batch, and whether text in one was not UTF-8 (Arrow checks that only when it is read)."""
    try:
        yield from ((row, False) for row in batch.to_pylist())
        return
    except UnicodeDecodeError:
        import pyarrow as pa

    texts = [field.name for field in batch.schema if pa.types.is_string(field.type)]
    schema = pa.schema(
        [field.with_type(pa.binary()) if field.name in texts else field for field in batch.schema]
    )
    for row in batch.cast(schema).to_pylist():
        plain = {name: row[name].decode("utf-8", "replace") for name in texts if row[name] is not None}
        yield {**row, **plain}, any(text.encode() != row[name] for name, text in plain.items())


IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".svg", ".avif", ".jp2")


def folder_rows(
    path: Path, stats: CorpusStats, names_as_titles: bool = False, segment: int = 32, fps: float = 1.0
) -> RawRows:
    """Images and videos of a folder and of those below it, each with the text of the file beside it.

    Beside `a.jpg` may stand `a.txt` (the text) or `a.json` (an object with text, title, language, …). Of a
    video there is one row a segment (`comem.retrieval.corpus.videos`).

    Args:
        path: the folder.
        stats: counts files of text that cannot be read.
        names_as_titles: an image's file name, without `_` and `-`, is its title where it has none.
        segment: frames of a video's segment.
        fps: frames of a video that are read of each second.

    Raises:
        CorpusError: a folder that may not be read.
    """

    def refuse(error: OSError) -> None:
        raise CorpusError(
            f"{error.filename}: cannot be read ({error.strerror}); check its permissions"
        ) from error

    for parent, folders, names in os.walk(path, onerror=refuse):
        folders.sort()
        for image in (Path(parent, name) for name in sorted(names)):
            if is_video(image) and segment:
                yield from film_rows(image, stats, segment, fps, image.relative_to(path).as_posix())
            if image.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            name = image.relative_to(path).as_posix()
            if valid(name) != name:  # no table and no prompt can hold such a name
                stats.broken("file name (not UTF-8)", repr(name))
                continue
            try:
                # A name may read like something else: "data:x.png", or one with blanks around it.
                shown = name if exact(name) == name and ":" not in name else f"./{name}"
                row = {"id": name, "image": shown, **_beside(image, stats)}
            except (OSError, ValueError) as error:
                stats.broken("text file", f"{image} ({error})")
                continue
            if names_as_titles and not (row.get("title") or row.get("page_title")):
                row["title"] = " ".join(image.stem.replace("_", " ").replace("-", " ").split())
            yield str(image), row


def film_rows(path: Path, stats: CorpusStats, segment: int, fps: float, name: str = "") -> RawRows:
    """The segments of a video, with the text of the file beside it.

    Args:
        path: of the video.
        stats: counts a video that cannot be read.
        segment: frames of a segment.
        fps: frames that are read of each second.
        name: what ids begin with; the file's name by default.
    """
    try:
        beside = _beside(path, stats)
    except (OSError, ValueError) as error:
        stats.broken("text file", f"{path} ({error})")
        return
    yield from video_rows(path, name or path.name, stats, segment, fps, beside)


def _beside(image: Path, stats: CorpusStats) -> dict[str, Any]:
    """What the files beside an image say about it; what had to be repaired of them is counted."""
    found: dict[str, Any] = {}
    if (text := image.with_suffix(".txt")).is_file():
        found["text"] = "".join(line for _, line in _lines(text, stats, windows=True))
    if (record := image.with_suffix(".json")).is_file():
        try:
            row, repaired = parse_line("".join(line for _, line in _lines(record, stats)))
        except ValueError as error:
            raise RecordError(f"{record}: {error}") from error
        if repaired:
            stats.repair(NOT_UNICODE, str(record))
        found |= {name: value for name, value in row.items() if name not in ("image", "file_name")}
    return found


SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk leaves


def dataset_rows(name: str, split: str) -> RawRows:
    """Rows of a data set, streamed; images stay as they are encoded.

    Rows with WIT's texts nested by page, as in wikimedia/wit_base (`wit_features`), become one a page.

    Args:
        name: a name on the hub, a folder that `load_dataset` understands, or one made by `save_to_disk`.
        split: which part of it.

    Raises:
        CorpusError: no such data set or split.
    """
    for number, row in enumerate(_open_dataset(name, split), start=1):
        for page, flat in enumerate(pages(row)):
            flat.setdefault("id", f"{split}/{number}" + (f"/{page}" if page else ""))
            yield f"{name}:{split}:{number}", flat


def _open_dataset(name: str, split: str) -> Any:
    import datasets

    try:
        if any((Path(name) / mark).is_file() for mark in SAVED):
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
