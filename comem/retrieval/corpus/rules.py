"""Which rows of a corpus become items, and what an item is made of."""

from __future__ import annotations

import fnmatch
import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

logger = logging.getLogger(__name__)

WARNINGS = 20  # of a kind and file; all are counted, but ten million warnings help nobody
#: A row before it is judged, and where it stands ("file:line"): the columns of WIT, and `id`, `text`,
#: `image` (path, URL or bytes) and `licence` in corpora of one's own.
RawRow = tuple[str, Mapping[str, Any]]
RawRows = Iterator[RawRow]


class CorpusError(ValueError):
    """A corpus that cannot be read as one."""


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
        """Counts a row that is not delivered; the first broken ones are logged with file and line."""
        self.dropped[reason] += 1
        loud = reason.startswith("broken") and self.dropped[reason] <= WARNINGS
        logger.log(logging.WARNING if loud else logging.DEBUG, "%s: row skipped: %s", where, reason)

    def repair(self, what: str, where: str) -> None:
        """Counts a row that is delivered with a change; the first ones are logged."""
        self.repaired[what] += 1
        loud = self.repaired[what] <= WARNINGS
        logger.log(logging.WARNING if loud else logging.DEBUG, "%s: repaired: %s", where, what)

    def add(self, other: Mapping[str, Any]) -> None:
        """Adds the counts of another shard, as `vars()` gives them."""
        self.read += other["read"]
        self.kept += other["kept"]
        self.dropped.update(other["dropped"])
        self.repaired.update(other["repaired"])


# The best description comes first: the section beside the picture, then the page, then captions.
# (The authors take the section, "else the page", but test a NaN for truth and so never fall back.)
DESCRIPTIONS = {
    "section": "context_section_description",
    "page": "context_page_description",
    "reference": "caption_reference_description",
    "alt": "caption_alt_text_description",
    "attribution": "caption_attribution_description",
}
EMPTY_WORDS = frozenset({"", "nan", "null", "none", "<na>", "n/a"})


def clean(value: Any) -> str:
    """The text without surrounding blanks; "" for missing values however they were spelled."""
    if value is None:
        return ""
    text = " ".join(str(value).replace("\x00", "").split())
    return "" if text.lower() in EMPTY_WORDS else text


def passage(
    row: Mapping[str, Any],
    max_chars: int | None = None,
    descriptions: Sequence[str] = tuple(DESCRIPTIONS),
    title: bool = True,
) -> str:
    """`"title: best non-empty description"` of a row (paper, section on the knowledge base).

    Args:
        row: WIT's columns; a column `text`, as one's own corpora have it, comes before all descriptions.
        max_chars: cut to this many characters.
        descriptions: names of `DESCRIPTIONS`, the preferred one first.
        title: whether the title stands before the description.
    """
    name = clean(row.get("page_title")) if title else ""
    columns = ("text", *(DESCRIPTIONS[short] for short in descriptions))
    description = next((text for column in columns if (text := clean(row.get(column)))), "")
    return ": ".join(part for part in (name, description) if part)[: max_chars or None]


def check_descriptions(names: Sequence[str]) -> None:
    """Refuses descriptions that WIT does not have.

    Raises:
        CorpusError: naming the unknown ones.
    """
    unknown = [name for name in names if name not in DESCRIPTIONS]
    if unknown or not names:
        raise CorpusError(
            f"descriptions {', '.join(unknown) or '(none)'}: choose of {', '.join(DESCRIPTIONS)}, best first"
        )


Duplicates = Literal["none", "passage", "language", "image"]
SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".svg", ".avif", ".jp2")
DOWNLOAD_SUFFIXES = SUFFIXES[:5]  # others come as a rendering of another format


@dataclass(frozen=True)
class CorpusRules:
    """What `comem corpus build` takes over from a corpus; recorded in the manifest.

    Attributes:
        languages: keep rows of these languages; empty keeps all.
        licences: keep rows with these licences ("cc0", "cc-by-sa-*"); empty keeps all.
        main_image: keep rows only whose picture is the main one of its page.
        descriptions: which text follows the title, best first: section, page, reference, alt, attribution.
        title: whether the passage starts with the title.
        max_chars: cut passages to this length; 0 leaves them whole.
        text_only: keep rows without a picture (they cannot be found by one).
        unique: of rows that show the same picture keep one for each passage, each language, or only one.
        same_image: pictures are the same when their address is, or when their content is (files are read).
        on_duplicate: what happens to a repeated id.
    """

    languages: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    main_image: bool = False
    descriptions: tuple[str, ...] = tuple(DESCRIPTIONS)
    title: bool = True
    max_chars: int = 0
    text_only: bool = False
    unique: Duplicates = "passage"
    same_image: Literal["address", "content"] = "address"
    on_duplicate: Literal["refuse", "drop"] = "refuse"

    def __post_init__(self) -> None:
        check_descriptions(self.descriptions)
        if self.max_chars < 0:
            raise CorpusError(f"max_chars is {self.max_chars}; at least 1, or 0 for no limit")


@dataclass(frozen=True)
class CorpusItem:
    """A row that was kept: a `KnowledgeItem`, and what filters and the download need.

    `image` is a path; where the picture is on the network (`image_url`), the one that its download gets.
    """

    id: str
    text: str
    image: str
    source: str = ""
    language: str = "en"
    image_url: str = ""
    licence: str = ""
    width: int = 0
    height: int = 0


def make_item(
    raw: RawRow, rules: CorpusRules, stats: CorpusStats, folder: Path, store: Path
) -> CorpusItem | None:
    """The item of a row, or None where the rules drop it (counted in `stats`).

    Args:
        raw: the row, and where it stands.
        folder: where relative image paths start.
        store: the corpus folder, in which downloads and pictures that came as bytes lie.

    Raises:
        CorpusError: for a row without an id, or a filter on a column that the corpus does not have.
    """
    where, row = raw
    if not rules.text_only and "image" not in row and "image_url" not in row:
        _need(row, "image", "the search by picture", where)
    reason = _unwanted(row, rules, where)
    text = passage(row, rules.max_chars, rules.descriptions, rules.title)
    image, url = ("", "") if reason else locate(row.get("image_url") or row.get("image"), folder, store)
    if not reason and not text:
        reason = "no text"
    if not reason and not image and not rules.text_only:
        reason = "no image"
    if reason:
        stats.drop(reason, where)
        return None
    stats.kept += 1
    return CorpusItem(
        _id(row, where), text, image, clean(row.get("page_url") or row.get("source")),
        clean(row.get("language")) or "en", url, clean(row.get("licence")),
        _number(row.get("original_width")), _number(row.get("original_height")),
    )  # fmt: skip


def _unwanted(row: Mapping[str, Any], rules: CorpusRules, where: str) -> str:
    """Why the filters drop the row; "" where they keep it."""
    if rules.languages and (clean(row.get("language")) or "en") not in rules.languages:
        return "language"
    if rules.main_image:
        _need(row, "is_main_image", "--main-image", where)
        if clean(row["is_main_image"]).lower() not in ("true", "1"):
            return "not the main image"
    if rules.licences:
        _need(row, "licence", "--licences", where)
        if not licensed(clean(row["licence"]), rules.licences):
            return "licence"
    return ""


def licensed(licence: str, allowed: tuple[str, ...]) -> bool:
    """Whether a licence is one of those allowed; "CC BY-SA 4.0" and "cc-by-sa-4.0" are the same."""
    plain = licence.lower().replace(" ", "-").replace("_", "-")
    return bool(plain) and any(
        fnmatch.fnmatchcase(plain, pattern.lower().replace(" ", "-").replace("_", "-")) for pattern in allowed
    )


def _need(row: Mapping[str, Any], column: str, option: str, where: str) -> None:
    if column not in row:
        raise CorpusError(
            f"{where}: {option} asks for the column {column!r}, which this corpus does not have; it has"
            f" {', '.join(row)} (--columns {column}=NAME says which one is meant)"
        )


def _id(row: Mapping[str, Any], where: str) -> str:
    if "id" in row:
        if not (given := clean(row["id"])):
            raise CorpusError(f"{where}: the row has no id; each needs its own (--columns id=NAME)")
        return given
    if not row.get("page_url") or not row.get("image_url"):
        raise CorpusError(
            f"{where}: the rows have no column 'id'; they have {', '.join(row)} (--columns id=NAME says which"
            " one is meant)"
        )
    return wit_id(row)


def wit_id(row: Mapping[str, Any]) -> str:
    """WIT gives no id; page, picture and section together name a row, and a person can read them."""
    section = clean(row.get("hierarchical_section_title")) or clean(row.get("section_title"))
    return f"{clean(row['page_url'])}#{_last_part(clean(row['image_url']))}" + (
        f"@{section}" if section else ""
    )


def _last_part(url: str) -> str:
    return unquote(urlsplit(url).path.rsplit("/", 1)[-1])


def locate(image: Any, folder: Path, store: Path) -> tuple[str, str]:
    """(path, URL) of a picture given as a path, an address, bytes, or the datasets library's dict.

    Pictures that come as bytes are written into the corpus folder, named by their content.
    """
    if isinstance(image, Mapping):
        image = image.get("bytes") or image.get("path")
    if isinstance(image, bytes):
        return (str(_keep_bytes(image, store)), "") if image else ("", "")
    address = clean(image)
    if address.startswith("//"):
        address = f"https:{address}"
    if address.startswith(("http://", "https://")):
        return str(store / download_name(address)), address
    path = unquote(urlsplit(address).path) if address.startswith("file://") else address
    return (str(folder / path), "") if path else ("", "")


def download_name(url: str) -> str:
    """Where the picture of a URL lies in a corpus folder: by the URL alone, so that all tools agree."""
    name = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    suffix = PurePosixPath(_last_part(url)).suffix.lower()
    return f"images/{name[:2]}/{name}{suffix if suffix in DOWNLOAD_SUFFIXES else ''}"


def _keep_bytes(data: bytes, store: Path) -> Path:
    from comem.io.files import write_atomic

    name = hashlib.sha256(data).hexdigest()[:32]
    path = store / "images" / name[:2] / name
    if not path.is_file():
        write_atomic(path, data)
    return path


def _number(value: Any) -> int:
    try:
        return int(float(value))
    except (TypeError, ValueError, OverflowError):
        return 0
