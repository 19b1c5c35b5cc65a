"""Everything that is measured on a GPU, in one command and one process, with one limit of time.

    PYTHONPATH=. python benchmarks/gpu_suite.py --out runs/gpu --total-seconds 230
    PYTHONPATH=. python benchmarks/gpu_suite.py --shape tiny --short --device cpu --out runs/rehearsal

In the order of what is missed most: the marks (first tokens, questions per second), encoding,
the authors' procedure, transformers' own `generate`, the remaining cells, traces. Everything is written as it
comes: profile.json (all answering cells), encode_items.json, trace_*.json.gz; tables, figure and marks at the
end. What fails is noted, and the next goes on; --resume goes on where an earlier run stopped. Needs torch,
transformers, peft, safetensors, numpy, pillow, tqdm, rich and matplotlib.
"""

from __future__ import annotations

import argparse
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from answering import AUTHORS, Authors, show_marks
from encode_items import HEADINGS as ENCODE_HEADINGS
from encode_items import line, matmul_rate, measure
from marks import check_encoding, check_marks

from comem.io.console import print_line, print_table
from comem.io.files import write_json
from comem.io.run_folder import run_manifest
from comem.profiling.bench import WAYS, Bench
from comem.profiling.measure import FILE, Limits, Results, header, run_cells
from comem.profiling.prompts import Lengths
from comem.profiling.shapes import SHAPES, random_model
from comem.profiling.show import save
from comem.profiling.timing import OWN, Cell, grid
from comem.profiling.traces import hot_paths, trace

_K, _BATCHES, _ENCODED = (3, 10, 50), (1, 8, 32), (1, 8, 16, 32, 64)
_TRACE_SECONDS = 25.0  # kept back for the traces
SHORT = Lengths(item=24, question=12, answer=4, item_image=16, question_image=4)


class Suite:
    """One model on the bench, one clock.

    Args:
        args: of the command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.end = args, time.perf_counter() + args.total_seconds
        device, dtype = torch.device(args.device), getattr(torch, args.dtype)
        model = random_model(SHAPES[args.shape], device, dtype)
        self.bench = Bench(model, SHORT if args.short else Lengths(), args.encode_batch)
        self.results = Results(args.out / FILE, self._header("gpu_suite"), resume=args.resume)
        self.authors, self.encoded = Authors(), list[dict[str, Any]]()
        self.errors: dict[str, str] = {}
        self.say("model ready")

    def _header(self, benchmark: str) -> dict[str, Any]:
        return header(self.args.shape, self.bench) | {"benchmark": benchmark}

    def left(self) -> float:
        """Seconds."""
        return self.end - time.perf_counter()

    def say(self, what: str) -> None:
        """A line of progress."""
        print_line(f"{self.left():6.1f} s left: {what}")

    def answer(self, cells: Sequence[Cell], seconds: float = 2.0, keep: float = 0.0) -> None:
        """Measure cells, as long as more than `keep` seconds are left; none is tried twice for nothing."""
        ways = {**WAYS, **self.authors.ways()}
        for cell in cells:
            if "memory" in self.results.rows.get(cell.key, {}).get("skipped", ""):
                continue
            limits = Limits(seconds, 10, self.args.max_petaflop, self.left() - keep)
            with self.noting(cell.key):
                run_cells(self.bench, [cell], self.results, limits, ways, self._told)

    def _told(self, cell: Cell, row: dict[str, Any]) -> None:
        found = row.get("skipped") or f"first token {1000 * row['first_token_seconds']['p50']:.1f} ms"
        self.say(f"{cell.key}: {found}")

    @contextmanager
    def noting(self, what: str) -> Iterator[None]:
        """Note an error with its traceback and go on: time on a GPU is short."""
        try:
            yield
        except Exception:
            self.errors[what] = traceback.format_exc(limit=-6)
            self.results.write(errors=self.errors)
            self.say(f"{what} FAILED:\n{self.errors[what]}")

    def encode(self, seconds: float = 2.0) -> None:
        """Items per second, ours and the authors'."""
        rate = matmul_rate(self.bench.device, self.bench.dtype)
        head = self._header("encode_items") | {"matmul_per_second": rate}
        limits = Limits(seconds, 10)
        for row in measure(self.bench, self.args.encoded, 10, rate, limits, self.authors.procedure):
            self.encoded.append(row)
            found = {**head, "rows": self.encoded, "manifest": run_manifest()}
            write_json(self.args.out / "encode_items.json", found)
            self.say(
                f"{row['way']}, {row['items_per_call']} a call: {row.get('items_per_second', 0):.1f} items/s"
            )
            if self.left() < 2 * _TRACE_SECONDS:
                return

    def trace(self) -> None:
        """The three hottest paths."""
        found: dict[str, Any] = {}
        for name, path in hot_paths(self.bench, 10, "comem").items():
            with self.noting(f"trace of {name}"):
                found[name] = trace(path, self.args.out / f"trace_{name}.json.gz", self.bench.device)
                self.results.write(traces=found)
                self.say(f"trace of {name}")

    def show(self) -> None:
        """Tables and figure, on the terminal and beside the results."""
        title = f"encoding, {self.args.shape}, {self.args.dtype}"
        print_table(ENCODE_HEADINGS, [line(row) for row in self.encoded], title)
        on_gpu = self.bench.device.type == "cuda"
        lines = check_marks(self.results.rows.values(), on_gpu) + check_encoding(self.encoded, on_gpu)
        show_marks(self.results, lines, self.args.out)
        save(self.results, self.args.out)


def main() -> None:
    args = _arguments()
    suite = Suite(args)
    with suite.bench:
        try:
            _measure(suite)
        finally:  # whatever was measured is shown, also after an interruption
            suite.show()


def _measure(suite: Suite) -> None:
    """The stages; what is measured already is passed over."""
    suite.answer(_cells(["baseline"], (), _BATCHES))
    suite.answer(_cells(["comem-bank"], (10, 50), (1, 8)) + _cells(["rag"], (10, 50), (1,)))
    suite.answer(_cells(["comem-bank"], (10,), (32,)) + _cells(["comem"], (10,), (1, 8)))
    with suite.noting("encoding"):
        suite.encode()
    suite.answer(grid(AUTHORS, [10], [1], [OWN]), keep=_TRACE_SECONDS)
    suite.authors.release()
    plain = _cells(["baseline"], (), (1, 8), "transformers")
    suite.answer(plain + _cells(["comem-bank", "rag"], (10,), (1,), "transformers"), keep=_TRACE_SECONDS)
    rest = sorted(_cells(["comem-bank", "rag", "comem"], _K, _BATCHES), key=lambda cell: cell.k * cell.batch)
    suite.answer(rest, seconds=1.0, keep=_TRACE_SECONDS)
    if suite.args.traces:
        suite.trace()


def _cells(modes: list[str], ks: Sequence[int], batches: Sequence[int], engine: str = "comem") -> list[Cell]:
    return grid(modes, ks, batches, [engine])


def _arguments() -> argparse.Namespace:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    on_gpu = torch.cuda.is_available()
    add = parser.add_argument
    add("--shape", choices=list(SHAPES), default="qwen2_5_vl_7b")
    add("--device", default="cuda" if on_gpu else "cpu")
    add("--dtype", choices=["float32", "bfloat16"], default="bfloat16" if on_gpu else "float32")
    add("--short", action="store_true", help="prompts of a few tokens: a rehearsal")
    add("--encode-batch", type=int, default=32, help="items per call of the encoder (32)")
    add(
        "--encoded",
        type=int,
        nargs="+",
        default=list(_ENCODED),
        help="batches of encode_items (1 8 16 32 64)",
    )
    add("--max-petaflop", type=float, default=8.0, help="skip batches of more operations (8)")
    add("--total-seconds", type=float, default=230.0, help="nothing starts after them (230)")
    add("--traces", action=argparse.BooleanOptionalAction, default=True, help="torch.profiler at the end")
    add("--resume", action="store_true", help="keep finished cells")
    add("--out", type=Path, required=True, help="folder of the results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
