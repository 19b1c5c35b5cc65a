"""`comem corpus`, `comem index` and `comem retrieve`: what they run, and what they show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from comem.io.console import Progress, print_facts, print_line, print_table, quiet
from comem.io.run_folder import without_secrets
from comem.retrieval.knowledge import KnowledgeBase
from comem.retrieval.settings import (
    CorpusDownloadSettings,
    EmbedSettings,
    IndexSettings,
    InfoSettings,
    PushSettings,
    QuerySettings,
    RecallSettings,
    RetrieveSettings,
    VerifySettings,
)

if TYPE_CHECKING:
    from comem.retrieval.corpus.sources import CorpusSettings
    from comem.retrieval.embed import EmbeddedInputs
    from comem.retrieval.evaluate import RecallReport
    from comem.retrieval.exchange import ImportSettings
    from comem.retrieval.index import VectorIndex
    from comem.types import RetrievedContext


def open_corpus(settings: InfoSettings) -> KnowledgeBase:
    """A corpus folder, verified if that is asked for.

    Raises:
        KnowledgeBaseError: there is none, or it was changed.
    """
    base = KnowledgeBase(settings.corpus)
    if settings.verify:
        base.verify()
    return base


def show_corpus(base: KnowledgeBase, settings: InfoSettings | CorpusSettings) -> None:
    """Counts, sources and settings of a corpus folder."""
    rows = base.manifest.get("rows", {})
    languages = ", ".join(f"{count:,} {code}" for code, count in Counter(base.languages).most_common(12))
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in rows.get("dropped", {}).items())
    verified = isinstance(settings, InfoSettings) and settings.verify
    print_facts([
        ("corpus", str(base.folder)), ("items", f"{len(base):,}"), ("languages", languages or "none"),
        ("rows read", f"{rows.get('read', 0):,}"), ("dropped", dropped or "none"),
        ("repaired", ", ".join(f"{n:,} {what}" for what, n in rows.get("repaired", {}).items()) or "none"),
        ("size", f"{base.manifest['bytes'] / 2**20:,.1f} MB"),
        ("whole", "yes" if base.manifest.get("complete", True) else "no: a source was cut"),
    ] + [("checksum", "agrees")] * verified)  # fmt: skip
    sources = [
        (each.get("name", each.get("path", "")), f"{each['rows']['read']:,}", f"{each['rows']['kept']:,}")
        for each in base.manifest.get("sources", ()) if "rows" in each
    ]  # fmt: skip
    if sources:
        print_table(("source", "rows", "kept"), sources)


def download(settings: CorpusDownloadSettings, progress: Progress = quiet) -> Counter[str]:
    """How many images ended how ("ok", "status 404", …), in all runs so far."""
    from comem.retrieval.download.job import download_corpus

    return download_corpus(
        settings.corpus, settings, engine=settings.engine, workers=settings.workers, progress=progress
    )


def show_download(counts: Counter[str], settings: CorpusDownloadSettings) -> None:
    """How many images ended how."""
    print_table(("images", "count"), [(reason, f"{count:,}") for reason, count in counts.most_common()])


def show_embedded(found: Mapping[str, EmbeddedInputs], settings: EmbedSettings) -> None:
    """Counts of vectors, files and faults."""
    for what, each in found.items():
        count, faults = f"{len(each.positions):,} × {each.dimension}", f"{len(each.faults):,}"
        print_facts([(what, count), ("files", str(len(each.files))), ("unreadable", faults)])


def index(settings: IndexSettings, progress: Progress = quiet) -> VectorIndex:
    """Builds an index, and says ahead which it will be."""
    from comem.retrieval.index import build_index

    return build_index(settings, progress, announce=print_line)


def show_index(index: VectorIndex, settings: IndexSettings) -> None:
    """What was read, dropped and indexed."""
    rows = index.base.manifest["rows"]
    dropped = ", ".join(f"{count} {reason}" for reason, count in rows["dropped"].items()) or "none"
    print_line(f"{rows['read']} rows read, {rows['kept']} kept, dropped: {dropped}")
    print_line(f"{len(index)} items indexed over {index.manifest['images']} images: {settings.output}")


def show_imported(index: VectorIndex, settings: ImportSettings) -> None:
    """What was taken over, and of how many vectors it is known which picture they stand for."""
    unknown = sum(index.base.ids[row].endswith("#article") for row in index.found_rows())
    print_facts([
        ("index", str(settings.output)), ("items", f"{len(index.base):,}"), ("vectors", f"{len(index):,}"),
        ("picture known", f"{len(index) - unknown:,}"), ("embedder", settings.embedder),
    ])  # fmt: skip


def show_hits(found: RetrievedContext, settings: QuerySettings) -> None:
    """A table of the items."""
    rows = [
        (str(rank), f"{score:.3f}", item.id, item.language, _short(item.text), str(item.image or ""))
        for rank, (item, score) in enumerate(zip(found.items, found.scores, strict=True), start=1)
    ]
    headings = ("rank", "score", "id", "language", "passage", "image")
    print_table(headings, rows, texts=("id", "language", "passage", "image"))


def _short(text: str) -> str:
    return text if len(text) <= 120 else text[:119] + "…"


def show_recall(found: Mapping[str, RecallReport | float], settings: RecallSettings) -> None:
    """Numbers, or a table for each embedder."""
    for name, each in found.items():
        if isinstance(each, float):
            print_line(f"{name}: {each:.4g}")
            continue
        rows = []
        for kind, recall in each.recall.items():
            missed = ", ".join(f"{query} → {first}" for query, first in each.misses[kind][:8])
            more = len(each.misses[kind]) - 8
            numbers = (f"{value:.3f}" for value in recall.values())
            rows.append((kind, *numbers, missed + (f" and {more} more" if more > 0 else "")))
        recalls = (f"recall@{k}" for k in next(iter(each.recall.values())))
        title = f"{name}: {each.count} images, {each.distinct} different"
        print_table(("distortion", *recalls, "missed at 1"), rows, title, texts=("missed at 1",))


def push(settings: PushSettings, progress: Progress = quiet) -> int:
    """How many items can be found in Milvus now."""
    from comem.retrieval.embedder import load_embedder
    from comem.retrieval.milvus import push

    return push(
        KnowledgeBase(settings.index), load_embedder(settings.embedder), settings.uri, settings.collection,
        index_type=settings.index_type, progress=progress,
    )  # fmt: skip


def show_push(count: int, settings: PushSettings) -> None:
    """How many items, and where."""
    print_line(f"{count} items in the collection {settings.collection!r} of {without_secrets(settings.uri)}")


def verify(settings: VerifySettings) -> list[str]:
    """What is wrong with an index folder, a sentence each."""
    from comem.retrieval.index import verify_index

    return verify_index(settings.index)


def show_verify(wrong: list[str], settings: VerifySettings) -> int:
    """The sentences, and the verdict; 1 for damage."""
    for sentence in [*wrong, "damaged" if wrong else "good"]:
        print_line(sentence)
    return 1 if wrong else 0


def show_retrieved(found: Mapping[str, RetrievedContext], settings: RetrieveSettings) -> None:
    """How many questions there are, and where the results lie, or the results."""
    if settings.output is not None:
        print_line(f"{len(found)} questions retrieved: {settings.output}")
        return
    rows = [(name, " ".join(item.id for item in context.items)) for name, context in found.items()]
    print_table(("question", "items"), rows, texts=("items",))
