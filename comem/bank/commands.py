"""`comem bank build | info | verify | export | merge`: options, and what is printed."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from comem.bank.sources import add_source_arguments, check_sources, open_items
from comem.io.console import bar, make_table, out, print_facts

_HELP = """\
examples:
  comem bank build --encoder toy --index data/toy/index --output data/toy/bank
  comem bank build --encoder toy --corpus ../shared/data/flags/wit_flags.tsv.gz --embedder toy \\
      --index runs/flags/index --output runs/flags/bank        # corpus to index and bank in one go
  comem bank info runs/flags/bank
  comem bank verify runs/flags/bank --drop-damaged
  comem bank export runs/flags/bank --form prq --output runs/flags/bank-small
  comem bank merge part-0 part-1 --output whole
A bank is a folder (docs/memory_bank.md). Stored items are not encoded again; changed ones are.
"""
Job = Callable[[argparse.Namespace], int]


def add_bank_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `comem bank`."""
    parser.epilog = _HELP
    jobs = parser.add_subparsers(title="jobs", metavar="JOB", required=True, dest="job")
    _add_build(jobs.add_parser("build", help="encode items into a bank; run again, it goes on"))
    _add_folder(jobs.add_parser("info", help="what lies in a bank"))
    verify = _add_folder(jobs.add_parser("verify", help="compare every checksum; exit code 1 for damage"))
    verify.add_argument("--drop-damaged", action="store_true", help="forget them: a build makes them again")
    _add_export(jobs.add_parser("export", help="another form, some items, or one .safetensors file"))
    _add_merge(jobs.add_parser("merge", help="several banks of one encoder into one"))


def run_bank(args: argparse.Namespace) -> int:
    """Runs the job that was chosen."""
    jobs: dict[str, Job] = {
        "build": _build, "info": _info, "verify": _verify, "export": _export, "merge": _merge,
    }  # fmt: skip
    return jobs[args.job](args)


def _add_folder(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("bank", type=Path, metavar="DIR", help="the bank's folder")
    return parser


def _add_build(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--encoder", required=True, metavar="DIR", help='encoder folder, or "toy" (embedded)')
    add_source_arguments(parser)
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="the bank's folder")
    parser.add_argument("--form", default="bf16", help="fp32, bf16, fp16, int8 (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="items per forward (16)")
    parser.add_argument("--commit-items", type=int, default=256, metavar="N", help="a crash may lose (256)")
    parser.add_argument("--skip-faults", action="store_true", help="go on without items that cannot be read")
    parser.add_argument("--by-id", action="store_true", help="known ids are unchanged: open no picture")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: a GPU if there is one)")
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="ray: several workers")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="of Ray (%(default)s)")
    parser.add_argument(
        "--gpus", type=float, default=0.0, metavar="N", help="of each Ray worker (%(default)s)"
    )
    parser.add_argument("--part-items", type=int, default=4096, metavar="N", help="a Ray task (%(default)s)")


def _build(args: argparse.Namespace) -> int:
    check_sources(args)
    if args.engine == "ray" and args.index is None:
        raise ValueError("--engine ray needs --index DIR: the workers read the items from there")
    items, count = open_items(args)
    if args.engine == "ray":
        return _build_divided(args)
    from comem.bank.build import build_store
    from comem.memory.serialization import open_encoder

    encoder = open_encoder(args.encoder, device=args.device)
    with bar("encoding", count) as progress:
        counts = build_store(
            encoder, items, args.output, args.form, args.batch_size, args.commit_items,
            skip_faults=args.skip_faults, by_id=args.by_id, progress=progress.update,
        )  # fmt: skip
    return _show_build(args, asdict(counts))


def _build_divided(args: argparse.Namespace) -> int:
    from functools import partial

    from comem.bank.divided import build_divided
    from comem.memory.serialization import open_encoder
    from comem.retrieval.knowledge import KnowledgeBase

    base = KnowledgeBase(args.index)
    loader = partial(open_encoder, args.encoder, None, args.device)
    with bar("encoding", len(base)) as progress:
        counts = build_divided(
            base, loader, args.output, args.form, args.batch_size, part_items=args.part_items,
            skip_faults=args.skip_faults, workers=args.workers, gpus=args.gpus, progress=progress.update,
        )  # fmt: skip
    return _show_build(args, counts)


def _show_build(args: argparse.Namespace, counts: dict[str, Any]) -> int:
    shown = counts | {"faults": len(counts["faults"])}
    print_facts([(name, f"{number:,}") for name, number in shown.items()])
    for item_id, fault in list(counts["faults"].items())[:20]:
        out().print(f"not stored: {item_id}: {fault}", markup=False)
    args.bank = args.output
    return _info(args)


def _info(args: argparse.Namespace) -> int:
    from comem.bank.reader import MemoryStore
    from comem.bank.verify import folder_bytes

    with MemoryStore(args.bank) as store:
        info, items, entries = store.info, len(store), store.table.count
    total = folder_bytes(args.bank)
    encoder = info.encoder
    facts = [
        ("bank", str(args.bank)),
        ("items", f"{items:,} of {info.queries} × {info.width}"),
        ("form", f"{info.form}, {info.stride:,} bytes an item"),
        ("on disk", f"{total / 2**20:,.1f} MiB, {total / max(1, items):,.0f} bytes an item"),
        ("replaced or removed", f"{entries - items:,} (comem bank export leaves them behind)"),
        ("encoder", encoder.fingerprint),
        ("prompt", repr(encoder.prompt) if encoder.prompt is not None else "not recorded"),
        ("picture", _limits(encoder.min_pixels, encoder.max_pixels)),
        ("passage", f"at most {encoder.max_chars:,} characters" if encoder.max_chars else "not recorded"),
    ]
    print_facts(facts)
    return 0


def _limits(low: int | None, high: int | None) -> str:
    return "not recorded" if low is None or high is None else f"{low:,} to {high:,} pixels"


def _verify(args: argparse.Namespace) -> int:
    from comem.bank.reader import MemoryStore
    from comem.bank.verify import drop_damaged, verify_store

    with MemoryStore(args.bank) as store:
        count = len(store)
    with bar("verifying", count) as progress:
        report = verify_store(args.bank, progress.update)
    if report.damaged:
        rows = list(report.damaged.items())
        title = "damaged" if len(rows) <= 20 else f"damaged, the first 20 of {len(rows):,}"
        out().print(make_table(("item", "what is wrong"), rows[:20], title))
    print_facts(
        [
            ("items", f"{report.items:,}"), ("damaged", f"{len(report.damaged):,}"),
            ("without a readable id", f"{report.nameless:,}"),
            ("verdict", "good" if report.good else "damaged"),
        ]
    )  # fmt: skip
    if report.damaged and args.drop_damaged:
        drop_damaged(args.bank, report)
        out().print(f"{len(report.damaged):,} items forgotten; comem bank build encodes them again")
    return 0 if report.good else 1


def _add_export(parser: argparse.ArgumentParser) -> None:
    _add_folder(parser)
    parser.add_argument("--output", required=True, type=Path, metavar="PATH", help="folder, or .safetensors")
    parser.add_argument("--form", help="fp32, bf16, fp16, int8, pq, prq (default: as it is)")
    parser.add_argument("--ids", type=Path, metavar="FILE", help="only these ids, one a line, in this order")
    parser.add_argument("--sample", type=int, default=20_000, metavar="N", help="items to train pq, prq on")
    parser.add_argument("--seed", type=int, default=0, help="of that training (%(default)s)")


def _export(args: argparse.Namespace) -> int:
    from comem.bank.reader import MemoryStore
    from comem.bank.transfer import export_bank, export_store

    ids = None if args.ids is None else args.ids.read_text(encoding="utf-8").split("\n")
    ids = None if ids is None else [item_id for item_id in ids if item_id]
    if args.output.suffix == ".safetensors":
        if args.form is not None:
            raise ValueError("--form is for folders; a .safetensors file has the bank's own type")
        export_bank(args.bank, args.output, ids)
        print_facts([("one-file bank", str(args.output))])
        return 0
    with MemoryStore(args.bank) as store, bar("exporting", len(store) if ids is None else len(ids)) as shown:
        export_store(
            args.bank, args.output, args.form, ids,
            sample=args.sample, seed=args.seed, progress=shown.update,
        ).close()  # fmt: skip
    args.bank = args.output
    return _info(args)


def _add_merge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("banks", type=Path, nargs="+", metavar="PATH", help="folders, or one .safetensors")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="new, or one to add to")
    parser.add_argument(
        "--on-conflict", default="refuse", metavar="HOW",
        help="an id with two contents: refuse, first, last (%(default)s)",
    )  # fmt: skip


def _merge(args: argparse.Namespace) -> int:
    from comem.bank.transfer import import_bank, merge_stores

    files = [path for path in args.banks if path.suffix == ".safetensors"]
    for path in files:
        import_bank(path, args.output).close()
    folders = [path for path in args.banks if path not in files]
    if folders:
        with bar("merging") as shown:
            merge_stores(folders, args.output, args.on_conflict, shown.update).close()
    args.bank = args.output
    return _info(args)
