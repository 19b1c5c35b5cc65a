"""Corpora as streams of `KnowledgeItem`, for what needs neither filters nor downloads."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from comem.records import read_jsonl
from comem.retrieval.corpus.base import CorpusError, CorpusStats
from comem.retrieval.corpus.passage import clean
from comem.retrieval.corpus.wit import local_image, read_wit
from comem.types import KnowledgeItem


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
