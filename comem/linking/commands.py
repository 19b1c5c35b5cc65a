"""`comem oven index` and `comem oven link`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from comem.linking.titles import TOKENIZERS

_HELP = """\
examples:
  comem oven index --titles Wiki6M_ver_1_0_title_only.jsonl --output data/wiki6m
  comem oven index --titles Wiki6M_ver_1_0.jsonl.gz --tokenizer bert --vocabulary vocab.txt \\
      --output data/wiki6m-bert
  comem oven link --index data/wiki6m-bert --predictions runs/query/predictions.jsonl \\
      --output runs/query/linked.jsonl
  comem evaluate oven --predictions-query runs/query/linked.jsonl --references-query query.jsonl \\
      --predictions-entity runs/entity/linked.jsonl --references-entity entity.jsonl
Titles: .jsonl or .tsv (id, tab, title), plain or .gz. The official tokens are BERT's (bert-base-uncased).
"""


def add_oven_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `comem oven`."""
    parser.epilog = _HELP
    jobs = parser.add_subparsers(title="jobs", metavar="JOB", required=True, dest="job")
    index = jobs.add_parser("index", help="index Wikipedia's titles for BM25")
    index.add_argument("--titles", type=Path, required=True, metavar="FILE", help="Wikidata ids and titles")
    index.add_argument("--output", type=Path, required=True, metavar="DIR", help="the index folder")
    known = ", ".join(TOKENIZERS)
    index.add_argument("--tokenizer", default="words", metavar="NAME", help=f"{known} (%(default)s)")
    index.add_argument("--vocabulary", type=Path, metavar="FILE", help="word pieces (vocab.txt), for bert")
    link = jobs.add_parser("link", help="add the entity that each answer names to a file of predictions")
    link.add_argument("--index", type=Path, required=True, metavar="DIR", help="made by comem oven index")
    link.add_argument("--predictions", type=Path, required=True, metavar="FILE", help="ids and answers")
    link.add_argument("--output", type=Path, required=True, metavar="FILE", help="a second run goes on")
    link.add_argument("--whole", action="store_true", help="take no answer out of boxes and final lines")
    link.add_argument(
        "--max-chars", type=int, default=0, metavar="N", help="cut answers (the paper's code: 50; 0: never)"
    )
    link.add_argument("--keep", type=int, default=1, metavar="K", help="note the best K titles (%(default)s)")


def run_oven(args: argparse.Namespace) -> int:
    """Runs the job that was chosen."""
    jobs: dict[str, Callable[[argparse.Namespace], int]] = {"index": _index, "link": _link}
    return jobs[args.job](args)


def _index(args: argparse.Namespace) -> int:
    from comem.io.progress import bar
    from comem.linking.build import build_title_index

    tokenizer = TOKENIZERS[args.tokenizer](args.vocabulary)
    index = build_title_index(args.titles, args.output, tokenizer, bar)
    size = sum(index.manifest["bytes"].values()) / 2**20
    tokens = index.manifest["tokens"]
    _say(f"{len(index):,} titles, {tokens:,} tokens ({tokenizer.name}), {size:,.1f} MiB: {args.output}")
    return 0


def _link(args: argparse.Namespace) -> int:
    from comem.io.progress import bar
    from comem.linking.index import TitleIndex
    from comem.linking.link import LinkSettings, link_file

    settings = LinkSettings(args.whole, args.max_chars, args.keep)
    index = TitleIndex(args.index)
    with bar("linking", unit="answers") as advance:
        counts = link_file(index, args.predictions, args.output, settings, advance)
    _say(f"{counts.linked:,} answers linked, {counts.resumed:,} were done before: {args.output}")
    if counts.empty:
        _say(f"{counts.empty:,} of them share no word with any title and got no entity")
    return 0


def _say(text: str) -> None:
    from rich.console import Console

    Console(soft_wrap=True, markup=False, highlight=False).print(text)
