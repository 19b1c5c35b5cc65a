"""The public WIT shards, row by row or as items (github.com/google-research-datasets/wit, DATA.md)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from comem.retrieval.corpus.base import CorpusStats, RawRows
from comem.retrieval.corpus.passage import DESCRIPTIONS, clean, passage
from comem.retrieval.corpus.rules import wit_id
from comem.retrieval.corpus.tsv import read_tsv
from comem.types import ImageRef, KnowledgeItem

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
