"""`comem encode` and `comem parity`: options, and what is printed."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from comem.io.console import bar, make_table, out, print_facts

if TYPE_CHECKING:
    from comem.retrieval.knowledge import KnowledgeBase
    from comem.types import KnowledgeItem

_ENCODE_HELP = """\
examples:
  comem encode --encoder toy --index runs/index --output runs/bank.safetensors
  comem encode --encoder models/7b-encoder --items wit.tsv.gz --output bank.safetensors --batch-size 4
Run the same command again after an interruption: finished items are not encoded twice.
"""

_PARITY_HELP = """\
examples:
  comem parity golden/qwen2_5_vl golden/qwen2_vl
  comem parity golden/qwen2_vl --tolerance 1e-6
Exit code: 0 when every difference is within the tolerance, 1 when one is not.
"""


def add_encode_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `comem encode`."""
    parser.epilog = _ENCODE_HELP
    parser.add_argument("--encoder", required=True, metavar="DIR", help='encoder folder, or "toy" (embedded)')
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--items", type=Path, metavar="FILE", help="items as .tsv[.gz] (WIT) or .jsonl[.gz]")
    source.add_argument("--index", type=Path, metavar="DIR", help="index folder: all its items")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the bank (.safetensors)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="where image paths of --items start")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="items per forward (16)")
    parser.add_argument("--shard-items", type=int, default=256, metavar="N", help="a crash may lose (256)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: a GPU if there is one)")


def run_encode(args: argparse.Namespace) -> int:
    """Encode items into a bank file."""
    if args.output.suffix != ".safetensors":
        raise ValueError(f"--output {args.output}: a bank is one .safetensors file; name it so")
    items, count = _items(args)
    from comem.bank.encode import encode_to_bank
    from comem.memory.serialization import open_encoder

    encoder = open_encoder(args.encoder, device=args.device)
    with bar("encoding", count) as progress:
        bank = encode_to_bank(
            encoder, items, args.output, args.batch_size, args.shard_items, progress.update
        )  # fmt: skip
    _, queries, width = bank.embeddings.shape
    items_shape = f"{len(bank):,} × {queries} × {width}"
    size = f"{args.output.stat().st_size / 2**20:.1f} MB"
    print_facts([("bank", str(args.output)), ("items", items_shape), ("size", size)])
    return 0


def _items(args: argparse.Namespace) -> tuple[Iterable[KnowledgeItem], int | None]:
    """The items and, where it is known ahead, their number."""
    if args.index is not None:
        from comem.retrieval.knowledge import KnowledgeBase

        base = KnowledgeBase(args.index)
        return _all_items(base), len(base)
    from comem.retrieval.corpus import read_corpus

    return read_corpus([args.items], images=args.images), None


def _all_items(base: KnowledgeBase) -> Iterator[KnowledgeItem]:
    """Every item, a thousand at a time: a knowledge base may be larger than memory."""
    for start in range(0, len(base), 1000):
        yield from base.items(range(start, min(start + 1000, len(base))))


def add_parity_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `comem parity`."""
    parser.epilog = _PARITY_HELP
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="with case_*.safetensors")
    parser.add_argument("--tolerance", type=float, default=1e-5, metavar="X", help="allowed (1e-5)")


def run_parity(args: argparse.Namespace) -> int:
    """Compare our outputs with the recorded ones; 1 if any is further off than the tolerance."""
    from comem.compat.parity import run_parity as compare

    if not args.tolerance >= 0:
        raise ValueError(f"--tolerance {args.tolerance}: give 0 or more")
    worst = 0.0
    for folder in args.folders:
        found = compare(folder)
        rows = [(d.case, d.output, f"{d.max_abs:.2e}", _verdict(d.max_abs, args.tolerance)) for d in found]
        out().print(make_table(("case", "output", "largest difference", ""), rows, str(folder)))
        worst = max([worst, *(each.max_abs for each in found)])
    good = worst <= args.tolerance
    place = "within" if good else "ABOVE"
    out().print(f"largest of all: {worst:.2e}; {place} the tolerance of {args.tolerance:g}")
    return 0 if good else 1


def _verdict(difference: float, tolerance: float) -> str:
    return "ok" if difference <= tolerance else "TOO FAR"
