"""`comem index evaluate`: recall of distorted pictures, of an index, or of items known to be relevant."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comem.retrieval.evaluate import RecallReport


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `comem index evaluate`."""
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="a folder of pictures, asked for distorted"
    )
    parser.add_argument(
        "--distortions",
        nargs="+",
        metavar="NAME",
        help="crop, resize, jpeg, combined, colour, rotation (all)",
    )
    parser.add_argument("--index", type=Path, metavar="DIR", help="an index, against exact search over it")
    parser.add_argument("--queries", type=int, default=200, metavar="N", help="of --index (%(default)s)")
    parser.add_argument("--contexts", type=Path, metavar="FILE", help="made by comem retrieve")
    parser.add_argument("--relevant", type=Path, metavar="FILE", help="lines of example_id, relevant (ids)")
    parser.add_argument("--embedder", default="toy", help="as in index build (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the numbers as JSON too")
    parser.add_argument("--baseline", action="store_true", help="compare with raw 16 x 16 pixels")


def run_evaluate(args: argparse.Namespace) -> int:
    """One of three: pictures, an index, or results with known items."""
    given = [args.images is not None, args.index is not None, args.contexts is not None]
    if sum(given) != 1 or (args.contexts is None) != (args.relevant is None):
        raise ValueError("give one of --images DIR, --index DIR, and --contexts FILE with --relevant FILE")
    if args.images is not None:
        return _evaluate_pictures(args)
    from comem.records import run_manifest, write_json
    from comem.retrieval.quality import relevance

    if args.index is not None:
        numbers = _index_recall(args)
    else:
        quality = relevance(args.contexts, args.relevant)
        numbers = {"questions": quality.count, "mrr": quality.mrr}
        numbers |= {f"recall@{k}": value for k, value in quality.recall.items()}
    for name, number in numbers.items():
        say(f"{name}: {number:.4g}")
    if args.output is not None:
        write_json(args.output, {"numbers": numbers, **run_manifest({"seed": args.seed})})
    return 0


def _index_recall(args: argparse.Namespace) -> dict[str, float]:
    """Recall of an index against exact search, over a sample of its own vectors."""
    from comem.retrieval.index import VectorIndex
    from comem.retrieval.quality import KS, exact_search, recall_at

    index = VectorIndex(args.index)
    vectors = index.stored_vectors()
    queries = vectors.sample(args.queries, args.seed)
    deep = min(max(KS), len(index))
    exact = exact_search(vectors, queries, deep)
    _, found = index.vectors.search(queries, deep)
    numbers = {"vectors": float(len(index)), "queries": float(len(queries))}
    return numbers | {f"recall@{k}": recall_at(found, exact, k) for k in KS if k <= deep}


def _evaluate_pictures(args: argparse.Namespace) -> int:
    from comem.records import run_manifest, write_json
    from comem.retrieval.embedder import Embedder, load_embedder
    from comem.retrieval.evaluate import DISTORTIONS, RawPixels, evaluate_folder, to_json

    embedders: list[Embedder] = [load_embedder(args.embedder)]
    if args.baseline:
        embedders.append(RawPixels(16))
    kinds = args.distortions or tuple(DISTORTIONS)
    reports = {
        embedder.name: evaluate_folder(args.images, embedder, kinds, args.seed) for embedder in embedders
    }
    for name, report in reports.items():
        _show_recall(name, report)
    if args.output is not None:
        numbers = {name: to_json(report) for name, report in reports.items()}
        write_json(
            args.output, {"reports": numbers, **run_manifest({"seed": args.seed, "images": str(args.images)})}
        )
    return 0


def _show_recall(name: str, report: RecallReport) -> None:
    from rich.table import Table

    table = Table("distortion", *(f"recall@{k}" for k in next(iter(report.recall.values()))), "missed at 1")
    table.title = f"{name}: {report.count} pictures, {report.distinct} different"
    for kind, recall in report.recall.items():
        missed = ", ".join(f"{query} → {found}" for query, found in report.misses[kind][:8])
        more = len(report.misses[kind]) - 8
        table.add_row(
            kind,
            *(f"{value:.3f}" for value in recall.values()),
            missed + (f" and {more} more" if more > 0 else ""),
        )
    say(table)


def say(what: object) -> None:
    """To standard output; passages and ids hold brackets, which are no markup."""
    from rich.console import Console

    Console(soft_wrap=isinstance(what, str), markup=False, highlight=False).print(what)
