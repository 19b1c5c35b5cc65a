"""Knowledge bases of the field, one JSON object of articles by URL, streamed: no more than one is in memory.

- Encyclopedic-VQA's `encyclopedic_kb_wiki.json` (2 M articles), and EchoSight's InfoSeek-100K in the same
  form: `url → {title, image_urls[], image_reference_descriptions[], image_section_indices[],
  section_titles[], section_texts[]}`; images hang on sections by index.
- ReflectiVA's `Wiki100k_ver_1_0-all.json`: `url → {wikipedia_content, …}`.

An article becomes an item for each of its images, with the text of the image's section, and one for each
section without any (kept with `text_only`); all name the article as their `source`.

OMGM's picture tables (`wiki_image_url_part_1_processed.csv` …: image_URL, img_path) are used where they lie
beside the knowledge base or in its `output/`: images that were fetched again are then local files.
"""

from __future__ import annotations

import gzip
import sqlite3
import tempfile
import zipfile
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from comem.io.files import RecordError, read_csv
from comem.retrieval.corpus.rules import CorpusError, CorpusStats, CutShardError

Row = tuple[str, Mapping[str, Any]]


def is_articles(name: str) -> bool:
    """Whether a file's name is that of such a knowledge base: `.json`, also packed."""
    return name.lower().endswith((".json", ".json.gz", ".zip"))


@contextmanager
def _unpacked(path: Path) -> Iterator[Any]:
    """The JSON, of a `.gz` or the one `.json` of a `.zip`, too."""
    with ExitStack() as stack:
        if path.suffix.lower() == ".gz":
            yield stack.enter_context(gzip.open(path, "rb"))
        elif path.suffix.lower() == ".zip":
            archive = stack.enter_context(zipfile.ZipFile(path))
            names = [name for name in archive.namelist() if name.endswith(".json")]
            if len(names) != 1:
                raise CorpusError(f"{path}: holds {len(names)} JSON files, one is expected; unpack it")
            yield stack.enter_context(archive.open(names[0]))
        else:
            yield stack.enter_context(open(path, "rb"))


def read_articles(path: str | Path) -> Iterator[tuple[str, Any]]:
    """URL and article, one after the other.

    Raises:
        CorpusError: no file of articles; names it.
        CutShardError: the file ends too early, after its whole articles were delivered.
    """
    try:
        import ijson
    except ImportError as error:
        raise CorpusError(f"{path}: to stream it, pip install 'comem[articles]' (ijson)") from error
    path, count = Path(path), 0
    try:
        with _unpacked(path) as file:
            if file.peek(len(BOM_UTF8)).startswith(BOM_UTF8):
                file.read(len(BOM_UTF8))
            for count, pair in enumerate(ijson.kvitems(file, "", use_float=True), start=1):  # noqa: B007
                yield pair
    except (ijson.JSONError, zipfile.BadZipFile, EOFError, OSError, UnicodeDecodeError) as error:
        said = " ".join(str(error).splitlines()[:1])
        if not count:
            raise CorpusError(
                f"{path}: no knowledge base of articles by URL ({said}); items of your own are JSONL"
            ) from error
        raise CutShardError(
            f"{path}: damaged or cut after article {count:,} ({said}); fetch it again, or go on with what "
            "was read: --keep-partial"
        ) from error
    if not count:
        raise CorpusError(f"{path}: holds no articles by URL (one JSON object); items of your own are JSONL")


def article_rows(path: Path, stats: CorpusStats) -> Iterator[Row]:
    """Rows of all articles; those of another form are counted and passed over.

    Raises:
        CorpusError: as `read_articles`; or no article has sections or content.
        CutShardError: as `read_articles`.
    """
    good = False
    with _Pictures(picture_tables(path)) as pictures:
        for number, (url, article) in enumerate(read_articles(path), start=1):
            where = f"{path}: article {number} ({url})"
            try:
                rows = [pictures.placed(row) for row in rows_of(url, article)]
            except (TypeError, AttributeError, ValueError) as error:
                stats.broken(f"article ({error})", where)
                continue
            good = True
            yield from ((where, row) for row in rows)
    if not good:
        raise CorpusError(f"{path}: no entry is an article with section_texts or wikipedia_content")


def picture_tables(knowledge: Path) -> list[Path]:
    """OMGM's tables of fetched pictures, beside the knowledge base or in `output/`."""
    places = (knowledge.parent, knowledge.parent / "output")
    return [table for place in places for table in sorted(place.glob("wiki_image_url_part_*_processed.csv"))]


class _Pictures(ExitStack):
    """Where pictures lie, by URL; millions of them, so in a database that goes when it is closed.

    Raises:
        CorpusError: a table without image_URL and img_path, or a damaged one; names it.
    """

    def __init__(self, tables: Sequence[Path]) -> None:
        super().__init__()
        self._found: sqlite3.Connection | None = None
        if not tables:
            return
        folder = Path(self.enter_context(tempfile.TemporaryDirectory(prefix="comem-pictures-")))
        self._found = self.enter_context(
            closing(sqlite3.connect(folder / "pictures.sqlite", check_same_thread=False))
        )
        self._found.execute("PRAGMA synchronous = OFF")
        self._found.execute("CREATE TABLE picture (url TEXT PRIMARY KEY, path TEXT) WITHOUT ROWID")
        try:
            for table in tables:
                rows = read_csv(table, ("image_URL", "img_path"))
                pairs = ((row["image_URL"], row["img_path"]) for row in rows if row["img_path"].strip())
                self._found.executemany("INSERT OR IGNORE INTO picture VALUES (?, ?)", pairs)
        except RecordError as error:
            self.close()
            raise CorpusError(str(error)) from error

    def placed(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with its picture's file in place of the URL, where a table has it."""
        if self._found is None or not row.get("image_url"):
            return row
        hit = self._found.execute("SELECT path FROM picture WHERE url = ?", (row["image_url"],)).fetchone()
        if hit is None:
            return row
        return {**{key: value for key, value in row.items() if key != "image_url"}, "image": hit[0]}


def rows_of(url: str, article: Any) -> Iterator[dict[str, Any]]:
    """The rows of an article, section by section.

    Raises:
        ValueError: it has neither sections nor content, or lists of different lengths.
        TypeError, AttributeError: it is no object, or its lists are none.
    """
    title = article.get("title") or unquote(url.rsplit("/", 1)[-1]).replace("_", " ")
    shared = {"page_url": url, "page_title": title, "language": article.get("language")}
    if "section_texts" not in article:
        if not isinstance(article.get("wikipedia_content"), str):
            raise ValueError("no section_texts")
        yield {**shared, "id": url, "text": article["wikipedia_content"], "image": ""}
        return
    texts = [str(text or "") for text in article["section_texts"]]
    titles = list(article.get("section_titles") or [""] * len(texts))
    images = image_rows(article)
    if len(titles) != len(texts):
        raise ValueError(f"{len(titles)} section_titles, {len(texts)} section_texts")
    first = next((number for number, text in enumerate(texts) if text.strip()), 0)
    shown = {}
    for number, (image, section, description) in enumerate(images):
        at = section if 0 <= section < len(texts) and texts[section].strip() else first
        shown[section] = True
        text = _section(title, titles[at], texts[at]) if texts else ""
        yield {
            **shared, "id": f"{url}#image{number}", "image_url": image, "text": text or description,
            "caption_reference_description": description,
        }  # fmt: skip
    for number, text in enumerate(texts):
        if number not in shown and text.strip():
            yield {
                **shared, "id": f"{url}#section{number}", "image": "",
                "text": _section(title, titles[number], text),
            }  # fmt: skip


def image_rows(article: Mapping[str, Any]) -> list[tuple[str, int, str]]:
    """URL, section and description of an article's images, in their order.

    Raises:
        ValueError: lists of different lengths.
    """
    urls = list(article.get("image_urls") or ())
    sections = list(article.get("image_section_indices") or [0] * len(urls))
    words = [str(each or "") for each in article.get("image_reference_descriptions") or [""] * len(urls)]
    if not len(urls) == len(sections) == len(words):
        raise ValueError(f"{len(urls)} image_urls, {len(sections)} image_section_indices, {len(words)} texts")
    return [(str(url), int(at), text) for url, at, text in zip(urls, sections, words, strict=True)]


def _section(title: str, name: str, text: str) -> str:
    """A section's text; its name stands before it where it says more than the article's title."""
    return f"{name}: {text}" if name and name != title else text
