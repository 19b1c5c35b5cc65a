"""Items per second of the encoder, and how much of the device's arithmetic that uses.

    python benchmarks/encode_items.py --shape cpu --batches 1 10 --out encode_items.json
    python benchmarks/encode_items.py --shape qwen2_5_vl_7b --dtype bfloat16 --out encode_items_7b.json

Random weights: only shapes matter. Ours in batches of several sizes, and the authors' procedure
(benchmarks/authors_procedure.py) with the items of one question as one batch ("authors-batch", as their code
has them) and one by one ("authors-loop"). Inputs are ready tensors on the device. "Share" is the operations
that an item needs (comem.backbones.flops), over the time, over the rate of a large matrix product measured in
the same process.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import marks
import torch
from authors_procedure import AuthorsProcedure

from comem.io.console import print_table
from comem.io.files import write_json
from comem.io.run_folder import run_manifest
from comem.profiling.bench import Bench, place
from comem.profiling.cost import item_flops
from comem.profiling.measure import Limits, header
from comem.profiling.prompts import Lengths
from comem.profiling.shapes import SHAPES, random_model
from comem.profiling.timing import PeakMemory, Run, now, quantiles, repeat

HEADINGS = ("way", "items a call", "items/s", "s an item", "share", "peak")


def main() -> None:
    args = _arguments()
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    images = {} if args.image_tokens is None else {"item_image": args.image_tokens}
    lengths, authors = Lengths(args.item_tokens, **images), None if args.no_authors else AuthorsProcedure.on
    limits, rate = Limits(args.seconds_per_cell, args.repeats), matmul_rate(device, dtype)
    with Bench(random_model(SHAPES[args.shape], device, dtype), lengths, max(args.batches)) as bench:
        head = header(args.shape, bench) | {"benchmark": "encode_items", "matmul_per_second": rate}
        rows: list[dict[str, Any]] = []
        for row in measure(bench, args.batches, args.k, rate, limits, authors):
            rows.append(row)
            write_json(args.out, {**head, "rows": rows, "manifest": run_manifest()})
    print_table(HEADINGS, [line(row) for row in rows], f"{args.shape}, {args.dtype}")
    print_table(marks.HEADINGS, marks.check_encoding(rows, device.type == "cuda"), "marks")


def measure(
    bench: Bench, batches: Sequence[int], k: int, rate: float, limits: Limits,
    authors: Callable[[Bench], AuthorsProcedure] | None,
) -> Any:  # fmt: skip
    """Rows, one at a time: ours by batch size, then the authors' two ways with `k` items.

    Args:
        rate: operations per second of a large matrix product.
        authors: makes their procedure, which takes a second copy of the weights; None leaves it out.
    """
    for size in batches:
        items = [place(bench.maker.items(size), bench.device)]
        bench.encoder()
        yield _row(bench, "comem", size, size, lambda items=items: bench.encode(items), rate, limits)
    if authors is None:
        return
    bench.bare()
    procedure, together = authors(bench), [place(bench.maker.items(k), bench.device)]
    yield _row(bench, "authors-batch", k, k, lambda: procedure.memory(together), rate, limits)
    singles = [place(bench.maker.items(1), bench.device) for _ in range(k)]
    yield _row(bench, "authors-loop", k, 1, lambda: procedure.memory(singles), rate, limits)


def _row(
    bench: Bench, way: str, items: int, per_call: int, call: Callable[[], Any], rate: float, limits: Limits
) -> dict[str, Any]:
    """Figures of one way; each run encodes `items` items."""
    head = {"way": way, "items": items, "items_per_call": per_call}
    try:
        call()  # warms up
        peak = PeakMemory(bench.device)
        seconds = [run.seconds for run in repeat(lambda: _timed(bench, call), limits.seconds, limits.repeats)]
    except torch.OutOfMemoryError as error:
        return {**head, "skipped": f"out of memory: {str(error).splitlines()[0]}"}
    operations = items * item_flops(bench.lengths, bench.model.config)
    found = quantiles(seconds)
    return {
        **head, "repeats": len(seconds), "seconds": found, "items_per_second": items / found["p50"],
        "flops_per_second": operations / found["p50"], "share": operations / found["p50"] / rate,
        "peak_bytes": peak.read(),
    }  # fmt: skip


def _timed(bench: Bench, call: Callable[[], Any]) -> Run:
    start = now(bench.device)
    call()
    seconds = now(bench.device) - start
    return Run(seconds, seconds, 1)


def matmul_rate(device: torch.device, dtype: torch.dtype, seconds: float = 1.0) -> float:
    """Operations per second of square matrix products: 8192 wide on a GPU, 2048 on a CPU; the median."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    torch.mm(a, b)
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 100):
        start = now(device)
        torch.mm(a, b)
        times.append(now(device) - start)
    return 2 * size**3 / sorted(times)[len(times) // 2]


def line(row: dict[str, Any]) -> tuple[str, ...]:
    """As a line of a table."""
    head = (row["way"], str(row["items_per_call"]))
    if "skipped" in row:
        return (*head, row["skipped"], "", "", "")
    peak = row["peak_bytes"]
    return (
        *head,
        f"{row['items_per_second']:.3g}",
        f"{1 / row['items_per_second']:.3g}",
        f"{100 * row['share']:.1f} %",
        "–" if peak is None else f"{peak / 2**30:.2f} GB",
    )


def _arguments() -> argparse.Namespace:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    on_gpu = torch.cuda.is_available()
    add = parser.add_argument
    add("--shape", choices=list(SHAPES), default="cpu")
    add("--batches", type=int, nargs="+", default=[1, 8, 16, 32, 64], help="items per call (1 8 16 32 64)")
    add("--k", type=int, default=10, help="items of a question, for the authors' procedure (10)")
    add("--item-tokens", type=int, default=640)
    add("--image-tokens", type=int, help="of an item's picture (324)")
    add("--no-authors", action="store_true", help="leave their procedure out")
    add("--device", default="cuda" if on_gpu else "cpu")
    add("--dtype", choices=["float32", "bfloat16"], default="bfloat16" if on_gpu else "float32")
    add("--seconds-per-cell", type=float, default=10.0)
    add("--repeats", type=int, default=20)
    add("--out", type=Path, required=True, help="JSON file to write")
    return parser.parse_args()


if __name__ == "__main__":
    main()
