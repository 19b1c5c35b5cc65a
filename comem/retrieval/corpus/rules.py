"""Which rows of a corpus become items, and what an item is made of."""

from __future__ import annotations

import fnmatch
import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal
from urllib.parse import unquote, urlsplit

from comem.config import option
from comem.io.files import exact, is_missing, listed, prose, short, valid, write_atomic
from comem.types import ImageRef, KnowledgeItem, VideoRef

logger = logging.getLogger(__name__)

NOT_UNICODE = "text that is not Unicode"  # a kind of repair
WARNINGS = 20  # of a kind and file; all are counted, but ten million warnings help nobody


class CorpusError(ValueError):
    """A corpus that cannot be read as one."""


class MissingColumnError(CorpusError):
    """A row without a column that all need; in a table all rows are."""


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

    def broken(self, what: str, where: str) -> None:
        """Counts a row that cannot be read."""
        self.read += 1
        self.drop(f"broken {what}", where)

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


# The best description comes first: the section beside the image, then the page, then captions.
# (The authors take the section, "else the page", but test a NaN for truth and so never fall back.)
DESCRIPTIONS = {
    "section": "context_section_description",
    "page": "context_page_description",
    "reference": "caption_reference_description",
    "alt": "caption_alt_text_description",
    "attribution": "caption_attribution_description",
}


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
    name = prose(row.get("page_title")) if title else ""
    columns = ("text", *(DESCRIPTIONS[short] for short in descriptions))
    description = next((text for column in columns if (text := prose(row.get(column)))), "")
    return ": ".join(part for part in (name, description) if part)[: max_chars or None]


Duplicates = Literal["none", "passage", "language", "image"]
DOWNLOAD_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp")  # others come as a rendering of another format


@dataclass(frozen=True)
class CorpusRules:
    """What is taken over from a corpus; recorded in the manifest.

    Attributes:
        languages: keep rows of these languages; empty keeps all.
        licences: keep rows with these licences ("cc0", "cc-by-sa-*"); empty keeps all.
        main_image: keep only rows whose image is the main one of its page.
        descriptions: which text follows the title, best first: section, page, reference, alt, attribution.
        title: whether the passage starts with the title.
        max_chars: cut passages to this length; 0 leaves them whole.
        text_only: keep rows of WIT without an image, as those of other corpora are (no image finds them).
        unique: of rows that show the same image keep one for each passage, for each language, only one, or
            all of them (none).
        same_image: images are the same when their address is, or when their content is (files are read).
        on_duplicate: what happens to a repeated id.
    """

    #: Keep images without a text, too. No option of a corpus, whose passages are what is read.
    image_only: ClassVar[bool] = False

    languages: tuple[str, ...] = option((), metavar="CODE")
    licences: tuple[str, ...] = option((), metavar="NAME")
    main_image: bool = False
    descriptions: tuple[str, ...] = option(tuple(DESCRIPTIONS), also=("--text",), metavar="NAME")
    title: bool = True
    max_chars: int = 0
    text_only: bool = False
    unique: Duplicates = "passage"
    same_image: Literal["address", "content"] = "address"
    on_duplicate: Literal["refuse", "drop"] = "refuse"

    def __post_init__(self) -> None:
        unknown = [name for name in self.descriptions if name not in DESCRIPTIONS]
        if unknown or not self.descriptions:
            named, known = ", ".join(unknown) or "(none)", ", ".join(DESCRIPTIONS)
            raise CorpusError(f"descriptions {named}: choose of {known}, best first")
        if self.max_chars < 0:
            raise CorpusError(f"max_chars is {self.max_chars}; at least 1, or 0 for no limit")


@dataclass(frozen=True)
class Places:
    """Where the images of a source lie.

    Attributes:
        base: where relative paths start.
        named: the folder that the user gave for images: those with a URL may lie there under its last part.
        store: the corpus folder, in which downloads and images that came as bytes lie; None where nothing is
            written.
    """

    base: Path
    named: Path | None = None
    store: Path | None = None

    def locate(self, image: Any) -> tuple[str, str, bytes]:
        """(path, URL, bytes) of an image in any form that `image_ref` reads, or with an address on the web.

        The path of a URL is the one that its download gets; bytes go into the store, named by their content.

        Raises:
            ValueError: what cannot be the reference of an image.
        """
        address = exact(image) if isinstance(image, str) else ""
        if address.startswith("//"):
            address = f"https:{address}"
        if address[:8].lower().startswith(("http://", "https://")):
            return self._fetched(address), address, b""
        from comem.io.images import image_ref  # Pillow: not for a command's --help

        ref = image_ref(image, self.base)
        if ref is None:
            return "", "", b""
        if ref.fault:
            raise ValueError(f"{ref.path}: {ref.fault}")
        if ref.data is not None and self.store is not None:
            return str(_keep_bytes(ref.data, self.store)), "", b""
        return ref.path or "", "", ref.data or b""

    def film(self, video: Any) -> str:
        """The address of a segment of a video, in any form that `video_ref` reads.

        Raises:
            ValueError: what cannot be the reference of a video.
        """
        if is_missing(video):
            return ""
        from comem.io.video import video_address, video_ref

        ref = video_ref(video, self.base)
        if ref.fault:
            raise ValueError(f"{ref.path}: {ref.fault}")
        return video_address(ref)

    def _fetched(self, url: str) -> str:
        """Where the image of a URL lies, or will; "" where it can lie nowhere."""
        name = _last_part(url)
        found = self.named / name if self.named is not None and name else None
        if self.store is None or (found is not None and found.is_file()):
            return str(found or "")
        return str(self.store / download_name(url))


@dataclass(frozen=True)
class CorpusItem:
    """A row that was kept: a `KnowledgeItem`, and what filters and the download need.

    `image` is a path; where the image is on the network (`image_url`), the one that its download gets.
    `video` is the address of a segment of a video (`comem.io.video.video_address`).
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
    data: bytes = b""
    video: str = ""

    def item(self) -> KnowledgeItem:
        """What readers need of it."""
        image = ImageRef(path=self.image) if self.image else ImageRef(data=self.data) if self.data else None
        return KnowledgeItem(self.id, self.text, image, self.source, self.language, video_of(self.video))


def video_of(address: str, folder: str | Path = "") -> VideoRef | None:
    """The video of an address, relative to a folder; None without one."""
    if not address:
        return None
    from comem.io.video import video_ref  # numpy: not for a command's --help

    return video_ref(address, folder)


def make_item(
    where: str, row: Mapping[str, Any], rules: CorpusRules, stats: CorpusStats, places: Places
) -> CorpusItem | None:
    """The item of a row, or None where the rules drop it (counted in `stats`).

    Args:
        where: where the row stands.
        row: with columns under our names.
        rules: what is kept, and how it is written.
        stats: counts what is kept and dropped.
        places: where images are.

    Raises:
        MissingColumnError: no column holds ids, or what a filter asks for.
    """
    row = {name: _decoded(value) if name in _WORDS else value for name, value in row.items()}
    if not any(name in row for name in ("image", "image_url", *_TEXTS)):
        _need(row, "image", "the search by image", where)
    text_only = rules.text_only or "id" in row  # WIT's rows, which have no id, are about their image
    reason = _unwanted(row, rules, where)
    image, url, data, video = "", "", b"", ""
    text = passage(row, rules.max_chars, rules.descriptions, rules.title)
    try:
        if not reason:
            image, url, data = places.locate(_first(row, "image_url", "image"))
            video = places.film(_first(row, "video"))
    except ValueError as error:  # whatever urllib and the reader of references found
        reason, where = "broken reference", f"{where} ({error})"
    if odd := next((name for name in _WORDS if not _is_word(row.get(name))), ""):
        reason, where = f"broken row ({odd} is no text)", f"{where} ({short(repr(row[odd]))})"
    if not reason and not text and not (rules.image_only and (image or data)):
        reason = "no text"
    if not reason and not (image or data) and (url or not text_only):
        reason = "no image" if places.store else "no local image"
    name = "" if reason else _id(row, where)
    if not reason and not name:
        reason = "broken row (no id)"
    if reason:
        stats.drop(reason, where)
        return None
    stats.kept += 1
    if any(isinstance(value, str) and valid(value) != value for value in row.values()):
        stats.repair(NOT_UNICODE, where)
    return CorpusItem(
        name, text, image, prose(_first(row, "page_url", "source")),
        prose(row.get("language")) or "en", url, prose(row.get("licence")),
        _number(row.get("original_width")), _number(row.get("original_height")), data, video,
    )  # fmt: skip


def _decoded(value: Any) -> Any:
    """Bytes as text, which Parquet's binary columns may hold; half a character becomes what `valid` mends."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def _is_word(value: Any) -> bool:
    """Whether a value can stand for text: no list, no object, no yes or no."""
    return value is None or not isinstance(value, (Mapping, list, tuple, bool))


_TEXTS = ("text", "page_title", *DESCRIPTIONS.values())  # columns of which one is needed
_WORDS = ("id", "language", *_TEXTS)


def _first(row: Mapping[str, Any], *columns: str) -> Any:
    """What the first of these columns holds that is not empty."""
    return next((row[name] for name in columns if not is_missing(row.get(name))), None)


def _unwanted(row: Mapping[str, Any], rules: CorpusRules, where: str) -> str:
    """Why the filters drop the row; "" where they keep it."""
    if rules.languages and (prose(row.get("language")) or "en") not in rules.languages:
        return "language"
    if rules.main_image:
        _need(row, "is_main_image", "--main-image", where)
        if prose(row["is_main_image"]).lower() not in ("true", "1"):
            return "not the main image"
    if rules.licences:
        _need(row, "licence", "--licences", where)
        if not licensed(prose(row["licence"]), rules.licences):
            return "licence"
    return ""


def licensed(licence: str, allowed: Sequence[str]) -> bool:
    """Whether a licence is one of those allowed; "CC BY-SA 4.0" and "cc-by-sa-4.0" are the same."""
    plain, *patterns = (name.lower().replace(" ", "-").replace("_", "-") for name in (licence, *allowed))
    return bool(plain) and any(fnmatch.fnmatchcase(plain, pattern) for pattern in patterns)


def _need(row: Mapping[str, Any], column: str, option: str, where: str) -> None:
    if column not in row:
        raise MissingColumnError(
            f"{where}: {option} asks for the column {column!r}, which this corpus does not have; it has"
            f" {listed(row)} (--columns {column}=NAME says which one is meant)"
        )


def _id(row: Mapping[str, Any], where: str) -> str:
    """The row's id. WIT gives none: page, image and section name a row, and a person can read them."""
    if "id" in row:
        return valid(exact(row["id"]))
    if not row.get("page_url") or not row.get("image_url"):
        raise MissingColumnError(
            f"{where}: the rows have no column 'id'; they have {listed(row)} (--columns id=NAME says which"
            " one is meant)"
        )
    section = prose(_first(row, "hierarchical_section_title", "section_title"))
    name = f"{prose(row['page_url'])}#{_last_part(exact(row['image_url']))}"
    return f"{name}@{section}" if section else name


def _last_part(url: str) -> str:
    """The file's name in an address.

    Raises:
        ValueError: it is no address.
    """
    try:
        return unquote(urlsplit(url).path.rsplit("/", 1)[-1])
    except ValueError as error:
        raise ValueError(f"{short(url)} is no address ({error})") from error


def download_name(url: str) -> str:
    """Where the image of a URL lies in a corpus folder: by the URL alone, so that all tools agree."""
    name = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    suffix = PurePosixPath(_last_part(url)).suffix.lower()
    return f"images/{name[:2]}/{name}{suffix if suffix in DOWNLOAD_SUFFIXES else ''}"


def _keep_bytes(data: bytes, store: Path) -> Path:
    name = hashlib.sha256(data).hexdigest()[:32]
    path = store / "images" / name[:2] / name
    if not path.is_file():
        write_atomic(path, data)
    return path


def _number(value: Any) -> int:
    try:
        found = int(float(value))
    except (TypeError, ValueError, OverflowError):
        return 0
    return found if 0 <= found < 1 << 31 else 0
