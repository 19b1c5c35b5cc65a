"""What knowledge costs, in one run: plain model, RAG, CoMEM with and without a bank, the authors' procedure.

    python benchmarks/answering.py --shape cpu --k 10 50 --batch 1 --out runs/answering
    python benchmarks/answering.py --shape qwen2_5_vl_7b --dtype bfloat16 --out runs/answering-7b --resume

Random weights: only shapes matter. Modes: baseline (the model without knowledge), rag, comem (the encoder in
the loop), comem-bank (memories from disk), authors-batch and authors-loop (benchmarks/authors_procedure.py:
items as one padded batch, as their code has them, and one by one), which take one question at a time.
Engines: each of --engine; the authors' procedure has its own loop. Results: profile.json (written after every
cell), profile.md, profile.png, marks.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from authors_procedure import AuthorsProcedure
from marks import HEADINGS, check_marks

from comem.io.console import print_table
from comem.io.files import write_atomic
from comem.profiling.bench import ENGINES, WAYS, Answer, Bench, Way
from comem.profiling.measure import FILE, Limits, Results, header, run_cells
from comem.profiling.prompts import Lengths
from comem.profiling.shapes import SHAPES, random_model
from comem.profiling.show import markdown, save, tables
from comem.profiling.timing import OWN, Cell, grid

AUTHORS = ("authors-batch", "authors-loop")


class Authors:
    """Their procedure on the bench's model; the second copy of the weights is made when it is needed."""

    def __init__(self) -> None:
        self._made: AuthorsProcedure | None = None

    def procedure(self, bench: Bench) -> AuthorsProcedure:
        """Made once; the bench's model is bare from here on."""
        self._made = self._made or AuthorsProcedure.on(bench)
        bench.bare()
        return self._made

    def release(self) -> None:
        """Forget the second copy."""
        self._made = None

    def ways(self) -> dict[str, Way]:
        """Rows beside those of `WAYS`."""
        return {"authors-batch": self._batch, "authors-loop": self._loop}

    def _batch(self, bench: Bench, cell: Cell) -> Answer:
        return self._way(bench, cell, [bench.maker.items(cell.k)])

    def _loop(self, bench: Bench, cell: Cell) -> Answer:
        return self._way(bench, cell, [bench.maker.items(1) for _ in range(cell.k)])

    def _way(self, bench: Bench, cell: Cell, items: list[dict[str, Any]]) -> Answer:
        if cell.batch != 1:
            raise ValueError("the authors' procedure takes one question at a time")
        procedure, question = self.procedure(bench), bench.maker.prompts(1)
        return lambda new_tokens: procedure.answer(items, question, new_tokens)


def main() -> None:
    args = _arguments()
    device = torch.device(args.device)
    given = (args.item_tokens, args.question_tokens, args.answer_tokens)
    lengths = Lengths.of(*given, args.image_tokens)
    model = random_model(SHAPES[args.shape], device, getattr(torch, args.dtype))
    limits = Limits(args.seconds_per_cell, args.repeats, args.max_petaflop, args.total_seconds)
    with Bench(model, lengths, args.encode_batch) as bench:
        head = header(args.shape, bench) | {"benchmark": "answering"}
        results = Results(args.out / FILE, head, resume=args.resume)
        run_cells(bench, cells(args), results, limits, {**WAYS, **Authors().ways()})
    save(results, args.out)
    show_marks(results, check_marks(results.rows.values(), on_gpu=device.type == "cuda"), args.out)


def show_marks(results: Results, lines: Sequence[tuple[str, ...]], folder: Path) -> None:
    """Tables on the terminal, marks there and beside the results."""
    for title, headings, rows in tables(results):
        print_table(headings, rows, title)
    print_table(HEADINGS, lines, "marks")
    write_atomic(folder / "marks.md", markdown(HEADINGS, lines))


def cells(args: argparse.Namespace) -> list[Cell]:
    """The plain ways on every engine, then the authors' procedure, whose two copies take the memory."""
    ours = [mode for mode in args.modes if mode in WAYS]
    theirs = [mode for mode in args.modes if mode in AUTHORS]
    return [*grid(ours, args.k, args.batch, args.engine), *grid(theirs, args.k, [1], [OWN])]


def _arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    on_gpu, modes = torch.cuda.is_available(), [*WAYS, *AUTHORS]
    add = parser.add_argument
    add("--shape", choices=list(SHAPES), default="cpu")
    add("--k", type=int, nargs="+", default=[10, 50], help="items per question (10 50)")
    add("--batch", type=int, nargs="+", default=[1], help="questions at once (1)")
    add("--modes", nargs="+", choices=modes, default=modes)
    add("--engine", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    add("--item-tokens", type=int, default=640)
    add("--question-tokens", type=int, default=400)
    add("--answer-tokens", type=int, default=64)
    add("--image-tokens", type=int, help="of every picture (324 in items, 256 in questions)")
    add("--encode-batch", type=int, default=32, help="items per call of the encoder (32)")
    add("--device", default="cuda" if on_gpu else "cpu")
    add("--dtype", choices=["float32", "bfloat16"], default="bfloat16" if on_gpu else "float32")
    add("--seconds-per-cell", type=float, default=10.0)
    add("--repeats", type=int, default=20)
    add("--max-petaflop", type=float, help="skip cells of more operations")
    add("--total-seconds", type=float, help="start no cell after them")
    add("--resume", action="store_true", help="keep finished cells")
    add("--out", type=Path, required=True, help="folder of the results")
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
