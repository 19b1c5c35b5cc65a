"""Corpora as streams of `KnowledgeItem`: the public WIT TSV shards, and JSONL of one's own."""

from __future__ import annotations

import csv
import gzip
import logging
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from comem.records import read_jsonl
from comem.types import ImageRef, KnowledgeItem

logger = logging.getLogger(__name__)

# The columns of the public WIT TSVs, in their order
# (https://github.com/google-research-datasets/wit/blob/main/DATA.md).
WIT_COLUMNS = (
    "language", "page_url", "image_url", "page_title", "section_title", "hierarchical_section_title",
    "caption_reference_description", "caption_attribution_description", "caption_alt_text_description",
    "mime_type", "original_height", "original_width", "is_main_image", "attribution_passes_lang_id",
    "page_changed_recently", "context_page_description", "context_section_description",
)  # fmt: skip
NEEDED_COLUMNS = ("language", "page_url", "image_url", "page_title")

# The best description comes first: the section beside the picture, then the page, then captions.
# (The authors take the section, "else the page", but test a NaN for truth and so never fall back.)
DESCRIPTIONS = (
    "context_section_description", "context_page_description", "caption_reference_description",
    "caption_alt_text_description", "caption_attribution_description",
)  # fmt: skip
EMPTY_WORDS = frozenset({"", "nan", "null", "none", "<na>", "n/a"})
MAX_JOINED_LINES = 20  # a quoted field may hold line breaks, but an unclosed quote must not eat the file


class CorpusError(ValueError):
    """A corpus file that cannot be read as one."""


class CutShardError(CorpusError):
    """A compressed shard that ends too early; every whole row before the cut was delivered."""


@dataclass
class CorpusStats:
    """What happened to the rows while they were streamed (filled in by the readers)."""

    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)

    def drop(self, reason: str, where: str) -> None:
        """Counts a row that is not delivered; broken ones are also logged with file and line."""
        self.dropped[reason] += 1
        log = logger.warning if reason.startswith("broken") else logger.debug
        log("%s: row skipped: %s", where, reason)


def clean(value: str | None) -> str:
    """The text without surrounding blanks; "" for missing values however they were spelled."""
    text = " ".join((value or "").replace("\x00", "").split())
    return "" if text.lower() in EMPTY_WORDS else text


def passage(row: Mapping[str, str], max_chars: int | None = None) -> str:
    """`"title: best non-empty description"` of a WIT row (paper, section on the knowledge base)."""
    title = clean(row.get("page_title"))
    description = next((text for name in DESCRIPTIONS if (text := clean(row.get(name)))), "")
    return ": ".join(part for part in (title, description) if part)[:max_chars]


def read_wit(
    path: str | Path,
    *,
    languages: Collection[str] | None = None,
    images: str | Path | None = None,
    max_chars: int | None = None,
    stats: CorpusStats | None = None,
) -> Iterator[KnowledgeItem]:
    """Streams the items of one WIT shard (`.tsv` or `.tsv.gz`).

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
    for line, row in _rows(path, stats):
        where = f"{path}:{line}"
        stats.read += 1
        language = clean(row["language"])
        if languages is not None and language not in languages:
            stats.drop("language", where)
            continue
        text = passage(row, max_chars)
        if not text:
            stats.drop("no text", where)
            continue
        image = _locate(clean(row["image_url"]), folder, remote_ok=images is not None)
        if image is None:
            stats.drop("no local image", where)
            continue
        stats.kept += 1
        yield KnowledgeItem(_wit_id(row), text, image, source=clean(row["page_url"]), language=language)


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
        if clean(str(row.get("id", ""))) == "":
            raise CorpusError(f"{path}: record {number} has no id; each line needs id, text and image")
        language, text = clean(row.get("language")) or "en", clean(row.get("text"))[:max_chars]
        if languages is not None and language not in languages:
            stats.drop("language", f"{path}:{number}")
            continue
        if not text:
            stats.drop("no text", f"{path}:{number}")
            continue
        image = _locate(clean(row.get("image")), folder, remote_ok=images is not None)
        if image is None:
            stats.drop("no local image", f"{path}:{number}")
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
            raise CorpusError(f"{path}: unknown corpus format; known: .tsv, .tsv.gz, .jsonl, .jsonl.gz")


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


def _wit_id(row: Mapping[str, str]) -> str:
    """WIT gives no id; page, picture and section together name a row, and a person can read them."""
    picture = unquote(urlsplit(row["image_url"]).path.rsplit("/", 1)[-1])
    section = clean(row.get("hierarchical_section_title")) or clean(row.get("section_title"))
    return f"{clean(row['page_url'])}#{picture}" + (f"@{section}" if section else "")


def _locate(url: str, folder: Path, *, remote_ok: bool) -> ImageRef | None:
    """Where the pixels are expected; None when there is no address, or only one on the network."""
    if not url:
        return None
    if "://" in url:
        name = unquote(urlsplit(url).path.rsplit("/", 1)[-1])
        return ImageRef(path=str(folder / name)) if remote_ok and name else None
    return ImageRef(path=str(folder / url))


def _rows(path: Path, stats: CorpusStats) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a WIT file with the number of their first line; faulty ones are counted and skipped."""
    lines = _lines(path, stats)
    try:
        _, first = next(lines)
    except StopIteration:
        raise CorpusError(
            f"{path}: the file is empty; a WIT shard starts with a line of column names"
        ) from None
    columns = first.lstrip("\ufeff").split("\t")
    missing = [name for name in NEEDED_COLUMNS if name not in columns]
    if not any(name in columns for name in DESCRIPTIONS):
        missing.append("one of " + "/".join(DESCRIPTIONS))
    if missing:
        raise CorpusError(
            f"{path}: not a WIT table: missing columns {', '.join(missing)}; found {columns[:20]}"
        )
    for number, fields in _split_rows(lines, len(columns), path, stats):
        yield number, dict(zip(columns, fields, strict=True))


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
            fields = next(csv.reader([line], delimiter="\t"), fields)
        if len(fields) != width:
            waiting = ahead + waiting  # only the first line is lost, not those looked at after it
            stats.read += 1
            stats.drop(f"broken line ({len(fields)} of {width} fields)", f"{path}:{number}")
            continue
        yield number, [_unquote(value) for value in fields]


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
            for number, raw in enumerate(file, start=1):
                try:
                    text = raw.decode("utf-8")
                except UnicodeDecodeError:
                    text = raw.decode("utf-8", errors="replace")
                    stats.repaired["encoding"] += 1
                    logger.warning("%s:%d: bytes that are not UTF-8 were replaced", path, number)
                yield number, text.rstrip("\r\n")
    except FileNotFoundError:
        raise CorpusError(f"{path}: no such corpus file") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        if number == 0:
            raise CorpusError(f"{path}: not a gzip file ({error}); unpack it or name it .tsv") from error
        raise CutShardError(
            f"{path}: the compressed file is cut or damaged after line {number} ({error}); the {stats.kept}"
            " items before it were read. Download it again, or go on with them: --keep-partial"
        ) from error
