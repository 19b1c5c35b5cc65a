"""`comem index build | search | evaluate | push | verify` and `comem retrieve`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from comem.config import load_config
from comem.retrieval.evaluate import add_evaluate_arguments, run_evaluate, say

if TYPE_CHECKING:
    from comem.types import KnowledgeItem


def add_index_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `comem index`."""
    jobs = parser.add_subparsers(title="jobs", metavar="JOB", required=True, dest="job")
    _add_build(jobs.add_parser("build", help="corpus files to knowledge base and index"))
    _add_search(jobs.add_parser("search", help="the items nearest to a picture or a text"))
    add_evaluate_arguments(
        jobs.add_parser("evaluate", help="recall: of pictures, of an index, or of known items")
    )
    _add_push(jobs.add_parser("push", help="the vectors to Milvus, which then searches in place of FAISS"))
    verify = jobs.add_parser("verify", help="compare every checksum; exit code 1 for damage")
    verify.add_argument("index", type=Path, metavar="DIR")


def run_index(args: argparse.Namespace) -> int:
    """Runs the job that was chosen."""
    jobs: dict[str, Callable[[argparse.Namespace], int]] = {
        "build": _build, "search": _search, "evaluate": run_evaluate, "push": _push, "verify": _verify,
    }  # fmt: skip
    return jobs[args.job](args)


def add_retrieve_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `comem retrieve`."""
    parser.add_argument("--index", type=Path, required=True, metavar="DIR", help="made by comem index build")
    parser.add_argument(
        "--questions", type=Path, required=True, metavar="FILE", help="JSONL with ids and image paths"
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="where relative image paths start (the file's folder)"
    )
    parser.add_argument("-k", type=int, default=10, help="items a question (%(default)s, as the paper)")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="JSONL; a second run goes on"
    )
    parser.add_argument("--embedder", help="only the one that made the index; needed when it has moved")
    parser.add_argument(
        "--languages", nargs="+", metavar="CODE", help="only items in these; own: in each question's language"
    )
    parser.add_argument("--temperature", type=float, help="softmax over the scores, with this temperature")
    parser.add_argument("--batch-size", type=int, default=64, help="questions a call (%(default)s)")
    parser.add_argument("--milvus", metavar="URI", help="search there (comem index push): http://…, or a .db")
    parser.add_argument("--collection", default="comem", help="of Milvus (%(default)s)")


def run_retrieve(args: argparse.Namespace) -> int:
    """Retrieves for all questions that are not in the output yet."""
    from tqdm import tqdm

    from comem.retrieval.retriever import RETRIEVERS, read_queries, retrieve_to_file

    options = {"languages": args.languages, "temperature": args.temperature}
    if args.milvus:
        options |= {"uri": args.milvus, "collection": args.collection}
    retriever = RETRIEVERS["milvus" if args.milvus else "faiss"](args.index, args.embedder, **options)
    examples = list(read_queries(args.questions, args.images))
    shown = tqdm(examples, desc="retrieving", unit="question")
    written = retrieve_to_file(retriever, shown, args.k, args.output, batch_size=args.batch_size)
    say(f"{written} questions retrieved, {len(examples) - written} were done before: {args.output}")
    return 0


def _add_push(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--index", type=Path, required=True, metavar="DIR", help="or a corpus folder")
    parser.add_argument("--uri", required=True, help="http://host:19530, or FILE.db (milvus-lite)")
    parser.add_argument("--collection", default="comem", help="replaced when it is there (%(default)s)")
    parser.add_argument("--embedder", default="toy", help="the one that made the vectors (%(default)s)")
    parser.add_argument("--index-type", default="AUTOINDEX", help="of Milvus: HNSW, IVF_FLAT … (%(default)s)")


def _push(args: argparse.Namespace) -> int:
    from comem.retrieval.embedder import load_embedder
    from comem.retrieval.knowledge import KnowledgeBase
    from comem.retrieval.milvus import push

    embedder = load_embedder(args.embedder)
    base = KnowledgeBase(args.index)
    count = push(base, embedder, args.uri, args.collection, index_type=args.index_type)
    say(f"{count} items in the collection {args.collection!r} of {args.uri}")
    return 0


def _add_build(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--corpus",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="a corpus folder, .tsv[.gz] (WIT), .jsonl",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="a second run goes on there"
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="where pictures lie (the corpus file's folder)"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings, as in configs/retrieval/")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="change settings: index.factory=HNSW32"
    )
    parser.add_argument(
        "--embedder", help="'toy', an open_clip folder, or ARCHITECTURE:PRETRAINED (ViT-L-14:openai)"
    )
    parser.add_argument(
        "--factory", help="FAISS factory string, or 'auto': by number of vectors and memory (auto)"
    )
    parser.add_argument("--memory-gb", type=float, metavar="GIB", help="that searching may take (4)")
    parser.add_argument("--languages", nargs="+", metavar="CODE", help="only rows in these languages")
    parser.add_argument(
        "--on-duplicate", choices=("refuse", "drop"), help="what to do with a repeated id (refuse)"
    )
    parser.add_argument(
        "--keep-partial", action="store_true", help="go on with what could be read of a cut shard"
    )


def _build(args: argparse.Namespace) -> int:
    from comem.retrieval.build import BuildSettings, build

    overrides = list(args.set)
    if args.embedder:
        overrides.append(f"embedder={args.embedder}")
    if args.languages:
        overrides.append(
            f"languages=[{', '.join(repr(code) for code in args.languages)}]"
        )  # 'no' is no boolean
    if args.factory:
        overrides.append(f"index.factory={args.factory!r}")
    if args.memory_gb is not None:
        overrides.append(f"index.memory_gb={args.memory_gb}")
    if args.on_duplicate:
        overrides.append(f"on_duplicate={args.on_duplicate}")
    settings = load_config(BuildSettings, args.config, overrides)
    index = build(
        args.corpus, args.output, settings, images=args.images, keep_partial=args.keep_partial, announce=say
    )
    rows = index.base.manifest["rows"]
    dropped = ", ".join(f"{count} {reason}" for reason, count in rows["dropped"].items()) or "none"
    say(f"{rows['read']} rows read, {rows['kept']} kept, dropped: {dropped}")
    say(f"{len(index)} items indexed over {index.manifest['images']} pictures: {args.output}")
    return 0


def _add_search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--index", type=Path, required=True, metavar="DIR")
    parser.add_argument("--image", type=Path, metavar="FILE", help="with --text: both, weighted")
    parser.add_argument("--text")
    parser.add_argument("--weight", type=float, default=0.5, help="the picture's share with both (0.5)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with thumbnails too")
    parser.add_argument("-k", type=int, default=5)
    parser.add_argument("--embedder", help="only the one that made the index; needed when it has moved")
    parser.add_argument("--languages", nargs="+", metavar="CODE")


def _search(args: argparse.Namespace) -> int:
    from comem.retrieval.query import query_vector, write_page
    from comem.retrieval.retriever import open_faiss
    from comem.types import ImageRef

    if args.image is None and args.text is None:
        raise ValueError("give --image FILE, --text TEXT, or both")
    retriever = open_faiss(args.index, args.embedder)
    image = None if args.image is None else ImageRef(path=str(args.image))
    query = query_vector(retriever.embedder, image, args.text, args.weight)
    hits = retriever.index.search(query, args.k, args.languages)
    items = retriever.index.base.items(hits.rows[0].tolist())
    if args.html is not None:
        write_page(args.html, args.text or "", items, hits.scores[0].tolist(), image)
    _show_items(items, hits.scores[0].tolist())
    return 0


def _verify(args: argparse.Namespace) -> int:
    from comem.retrieval.index import verify_index

    wrong = verify_index(args.index)
    for sentence in wrong:
        say(sentence)
    say("damaged" if wrong else "good")
    return 1 if wrong else 0


def _show_items(items: list[KnowledgeItem], scores: list[float]) -> None:
    from rich.table import Table

    table = Table("rank", "score", "id", "language", "passage", "picture")
    for rank, (item, score) in enumerate(zip(items, scores, strict=True), start=1):
        text = item.text if len(item.text) <= 120 else item.text[:119] + "…"
        table.add_row(str(rank), f"{score:.3f}", item.id, item.language, text, str(item.image or ""))
    say(table)
