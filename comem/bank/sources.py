"""Which items go into a bank: of a file, of an index, or of corpora that are indexed on the way."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comem.retrieval.knowledge import KnowledgeBase
    from comem.types import KnowledgeItem


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that name the items."""
    parser.add_argument("--items", type=Path, metavar="FILE", help="items as .tsv[.gz] (WIT) or .jsonl[.gz]")
    parser.add_argument("--index", type=Path, metavar="DIR", help="index folder: all its items")
    parser.add_argument(
        "--corpus",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="first index these into --index, as index build",
    )
    parser.add_argument("--embedder", help="of --corpus: 'toy', an open_clip folder, or ARCH:PRETRAINED")
    parser.add_argument("--images", type=Path, metavar="DIR", help="where image paths of the files start")


def check_sources(args: argparse.Namespace) -> None:
    """Refuse combinations that mean nothing.

    Raises:
        ValueError: none or both of --items and --index, or --corpus without --index.
    """
    if (args.items is None) == (args.index is None):
        raise ValueError("give the items: either --items FILE or --index DIR")
    if args.corpus and args.index is None:
        raise ValueError("--corpus needs --index DIR, where its index shall lie")


def open_items(args: argparse.Namespace) -> tuple[Iterable[KnowledgeItem], int | None]:
    """The items and, where it is known ahead, their number."""
    if args.items is not None:
        from comem.retrieval.corpus import read_corpus

        return read_corpus([args.items], images=args.images), None
    if args.corpus:
        _index(args)
    from comem.retrieval.knowledge import KnowledgeBase

    base = KnowledgeBase(args.index)
    return _all_items(base), len(base)


def _index(args: argparse.Namespace) -> None:
    """Build the index, unless it is there and of these very files."""
    from comem.retrieval.build import BuildSettings, build, is_current

    if is_current(args.corpus, args.index, args.embedder, args.images):
        return
    settings = BuildSettings() if args.embedder is None else BuildSettings(embedder=args.embedder)
    build(args.corpus, args.index, settings, images=args.images)


def _all_items(base: KnowledgeBase) -> Iterator[KnowledgeItem]:
    """Every item, a thousand at a time: a knowledge base may be larger than memory."""
    for start in range(0, len(base), 1000):
        yield from base.items(range(start, min(start + 1000, len(base))))
