"""`comem profile`: options, and what is printed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comem.io.console import print_facts

if TYPE_CHECKING:
    import torch

    from comem.profiling.bench import Bench, Subject
    from comem.profiling.measure import Limits, Results

_HELP = """\
examples:
  comem profile --backbone tiny --k 0 3 --batch 1 2 --item-tokens 40 --question-tokens 30 \\
      --image-tokens 16 --answer-tokens 8 --out runs/profile
  comem profile --backbone cpu --k 0 10 50 --batch 1 --out runs/profile-cpu
  comem profile --backbone qwen2_5_vl_7b --device cuda --dtype bfloat16 --out runs/profile-7b --resume
Shapes have random weights and need no download. Results are written after every cell: profile.json,
profile.md, profile.png.
"""
_MODES = ("baseline", "rag", "comem", "comem-bank")


def add_profile_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `comem profile`."""
    parser.epilog = _HELP
    add = parser.add_argument
    add(
        "--backbone", required=True, metavar="NAME", help="a shape (tiny, cpu, qwen2_5_vl_7b …), else a model"
    )
    add("--k", type=int, nargs="+", default=[0, 3, 10, 50], metavar="N", help="items (0 3 10 50)")
    add("--modes", nargs="+", default=list(_MODES), choices=_MODES, metavar="MODE", help=", ".join(_MODES))
    add("--batch", type=int, nargs="+", default=[1, 8, 32], metavar="N", help="questions at once (1 8 32)")
    add("--engine", nargs="+", default=["comem"], metavar="NAME", help="who decodes (%(default)s)")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the results")
    add("--resume", action="store_true", help="keep the finished cells of an earlier run")
    add("--device", help="cpu, cuda, cuda:1 … (default: a GPU if there is one)")
    add(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="default: bfloat16 on a GPU, else float32"
    )
    _add_lengths(parser)
    add("--encode-batch", type=int, default=32, metavar="N", help="items per call of the encoder (32)")
    add("--seconds-per-cell", type=float, default=10.0, metavar="S", help="for repetitions (10)")
    add("--repeats", type=int, default=20, metavar="N", help="at most, per cell (20)")
    add("--max-petaflop", type=float, metavar="X", help="skip cells of more operations than this")
    add("--total-seconds", type=float, metavar="S", help="start no cell after this time")
    add("--profile", action="store_true", help="also trace prefill, decoding and encoding (torch.profiler)")


def _add_lengths(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--item-tokens", type=int, default=640, metavar="N", help="an item, picture included (640)")
    add("--question-tokens", type=int, default=400, metavar="N", help="a question, picture included (400)")
    add("--answer-tokens", type=int, default=64, metavar="N", help="generated (64)")
    add("--image-tokens", type=int, metavar="N", help="of every picture (324 in items, 256 in questions)")


def run_profile(args: argparse.Namespace) -> int:
    """Measure, cell by cell."""
    from comem.profiling.bench import Bench, open_subject
    from comem.profiling.timing import grid

    cells = grid(args.modes, args.k, args.batch, args.engine)
    device, dtype = _place(args)
    lengths = _lengths(args)
    subject = open_subject(args.backbone, device, dtype)
    with Bench(subject.model, lengths, args.encode_batch) as bench:
        results = _results(args, subject, bench)
        _run(args, subject, bench, results, cells)
        if args.profile:
            _trace(args, bench, results)
    _show(args, results)
    return 0


def _place(args: argparse.Namespace) -> tuple[torch.device, torch.dtype]:
    import torch

    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return device, getattr(torch, args.dtype or ("bfloat16" if device.type == "cuda" else "float32"))


def _lengths(args: argparse.Namespace) -> Any:
    from comem.profiling.prompts import Lengths

    given = (args.item_tokens, args.question_tokens, args.answer_tokens)
    return Lengths(*given) if args.image_tokens is None else Lengths(*given, *[args.image_tokens] * 2)


def _results(args: argparse.Namespace, subject: Subject, bench: Bench) -> Results:
    from comem.profiling.measure import FILE, Results, header

    return Results(args.out / FILE, header(subject.name, bench), resume=args.resume)


def _run(args: argparse.Namespace, subject: Subject, bench: Bench, results: Results, cells: Any) -> None:
    from comem.profiling.measure import Limits, run_cells

    limits: Limits = Limits(args.seconds_per_cell, args.repeats, args.max_petaflop, args.total_seconds)
    if subject.process is not None:
        from comem.profiling.prompts import preprocess_seconds

        results.write(preprocess_seconds=preprocess_seconds(subject.process, bench.lengths))
    run_cells(bench, cells, results, limits)


def _trace(args: argparse.Namespace, bench: Bench, results: Results) -> None:
    from comem.profiling.traces import hot_paths, trace

    k = min((k for k in args.k if k), key=lambda k: abs(k - 10), default=10)
    found = {}
    for name, path in hot_paths(bench, k, args.engine[0]).items():
        found[name] = trace(path, args.out / f"trace_{name}.json.gz", bench.device)
    results.write(traces=found)


def _show(args: argparse.Namespace, results: Results) -> None:
    from comem.profiling.show import save_figure, save_table, show_tables, show_traces

    show_tables(results)
    show_traces(results)
    files = [results.path, save_table(results, args.out), save_figure(results, args.out)]
    names = ("results", "table", "figure")
    print_facts([(name, str(path)) for name, path in zip(names, files, strict=True) if path is not None])
