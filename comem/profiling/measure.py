"""Runs cells one after another; the file of results is whole after each of them."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from comem.io.files import read_json, write_json
from comem.io.run_folder import check_same, run_manifest
from comem.profiling.bench import ENGINES, WAYS, Bench, Way
from comem.profiling.cost import cell_bytes, cell_flops, context_tokens
from comem.profiling.timing import Cell, PeakMemory, Run, device_name, free_bytes, quantiles, repeat

FILE = "profile.json"
logger = logging.getLogger(__name__)


class Results:
    """Rows by cell, written whole after each.

    Args:
        path: the JSON file.
        header: what the rows were measured on; results of another header are not gone on with.
        resume: keep the finished cells of an earlier run.

    Raises:
        ValueError: `resume`, and the file is of other settings.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], *, resume: bool = False) -> None:
        self.path, self.header = path, dict(header)
        self.rows: dict[str, dict[str, Any]] = {}
        if resume and path.is_file():
            there = read_json(path)
            names = ("backbone", "settings", "dtype", "device")
            old, new = ({name: each.get(name) for name in names} for each in (there, self.header))
            remedy = "give another --out, or leave --resume out to measure anew"
            check_same(path, old, new, lead="was measured with other settings", remedy=remedy)
            self.rows = {cell_of(row).key: row for row in there["cells"]}

    def finished(self, cell: Cell) -> bool:
        """Whether the cell has figures; one that was skipped is tried again."""
        return "repeats" in self.rows.get(cell.key, {})

    def add(self, cell: Cell, row: dict[str, Any]) -> None:
        """Take a row and write the file."""
        self.rows[cell.key] = row
        self.write()

    def write(self, **more: Any) -> None:
        """Write the file, with further entries at its top from here on."""
        self.header |= more
        write_json(self.path, {**self.header, "cells": list(self.rows.values()), "manifest": run_manifest()})


def cell_of(row: Mapping[str, Any]) -> Cell:
    """The cell that a row is of."""
    return Cell(row["mode"], row["k"], row["batch"], row["engine"])


def header(backbone: str, bench: Bench) -> dict[str, Any]:
    """What every row of a run shares."""
    return {
        "benchmark": "profile",
        "backbone": backbone,
        "dtype": str(bench.dtype).removeprefix("torch."),
        "device": device_name(bench.device),
        "weights_bytes": bench.weights_bytes(),
        "settings": {**asdict(bench.lengths), "encode_batch": bench.encode_batch},
    }


#: Cells whose first run takes longer keep the device busy anyway: nothing is recorded for them.
_QUICK = 2.0


@dataclass(frozen=True)
class Limits:
    """How much may be spent.

    Attributes:
        seconds: for the timed runs of one cell; one run is made whatever it takes.
        repeats: at most, per cell.
        petaflops: cells of more operations are skipped; None for no limit.
        total_seconds: no cell starts after them; None for no limit.
    """

    seconds: float = 10.0
    repeats: int = 20
    petaflops: float | None = None
    total_seconds: float | None = None


def run_cells(
    bench: Bench, cells: Sequence[Cell], results: Results, limits: Limits = Limits(),
    ways: Mapping[str, Way] = WAYS, done: Callable[[Cell, dict[str, Any]], object] = lambda cell, row: None,
) -> None:  # fmt: skip
    """Measure what is not finished, writing after every cell.

    Args:
        bench: the model, and what is measured on it.
        cells: what is measured, in order.
        results: what is finished, and where new rows go.
        limits: of operations and of time.
        ways: how each mode is answered.
        done: called after each cell with its row.
    """
    end = None if limits.total_seconds is None else time.perf_counter() + limits.total_seconds
    for cell in cells:
        way = ways[cell.mode]
        if results.finished(cell):
            continue
        cost = cell_flops(cell, bench.lengths, bench.model.config)
        reason = _reason(sum(cost.values()), limits, end) or _too_large(bench, cell)
        row = {"skipped": reason} if reason else _attempt(bench, cell, way, limits)
        row = {**asdict(cell), "context_tokens": context_tokens(cell, bench.lengths), "flops": cost, **row}
        results.add(cell, row)
        done(cell, row)


def _reason(operations: float, limits: Limits, end: float | None) -> str:
    """Why a cell is not run, or nothing."""
    if limits.petaflops is not None and operations > limits.petaflops * 1e15:
        return f"{operations / 1e15:.1f} PFLOP a batch, above the limit of {limits.petaflops:g}"
    return "no time was left in this run" if end is not None and time.perf_counter() > end else ""


def _too_large(bench: Bench, cell: Cell) -> str:
    """Why there is no room for a cell, or nothing: a CPU's process would be killed instead of told."""
    needed = cell_bytes(cell, bench.lengths, bench.model.config, bench.dtype.itemsize)
    free = free_bytes(bench.device)
    if free is not None and needed >= free:  # the caches of earlier cells may be in the way
        _make_room(bench)
        free = free_bytes(bench.device)
    if free is None or needed < free:
        return ""
    return f"about {needed / 2**30:.1f} GB needed beside the weights, {free / 2**30:.1f} GB free"


def _attempt(bench: Bench, cell: Cell, way: Way, limits: Limits) -> dict[str, Any]:
    """The cell's figures, or why there are none; where memory runs out, once more without old caches."""
    for tries in range(2):
        _make_room(bench)  # so that the peak is this cell's own
        try:
            return _measure(bench, cell, way, limits)
        except torch.OutOfMemoryError as error:
            reason = f"out of memory: {str(error).splitlines()[0]}"
            logger.info("%s, try %d: %s", cell.key, tries + 1, reason)
    _make_room(bench)
    return {"skipped": reason}


def _make_room(bench: Bench) -> None:
    """Forget the engines with the caches that they keep."""
    bench.release()
    gc.collect()
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()


def _measure(bench: Bench, cell: Cell, way: Way, limits: Limits) -> dict[str, Any]:
    answer, tokens = way(bench, cell), bench.lengths.answer
    whole = cell.engine in ENGINES and ENGINES[cell.engine].records  # some ways have a loop of their own
    start = time.perf_counter()
    answer(tokens if whole else 2)  # warm-up: every kernel of prefill and of a step
    if whole and time.perf_counter() - start < _QUICK:
        answer(tokens)  # what comes for the second time is recorded
    # What is allocated before the runs: weights and inputs (GPU only).
    before = torch.cuda.memory_allocated(bench.device) if bench.device.type == "cuda" else None
    peak = PeakMemory(bench.device)
    runs = repeat(lambda: answer(tokens), limits.seconds, limits.repeats)
    used = peak.read()
    logger.info("%s: %d runs, first token %.4f s", cell.key, len(runs), runs[-1].first_seconds)
    return figures(runs, cell.batch) | {"peak_bytes": used, "bytes_before": before}


def figures(runs: Sequence[Run], batch: int) -> dict[str, Any]:
    """p50 and p95 over the runs of one cell."""
    decoding = [max(run.seconds - run.first_seconds, 1e-9) for run in runs]
    rows: dict[str, list[float]] = {
        "first_token_seconds": [run.first_seconds for run in runs],
        "seconds": [run.seconds for run in runs],
        "decode_tokens_per_second": [
            batch * (run.tokens - 1) / seconds for run, seconds in zip(runs, decoding, strict=True)
        ],
        "questions_per_second": [batch / run.seconds for run in runs],
        **{f"{part}_seconds": [run.parts[part] for run in runs] for part in runs[0].parts},
    }
    return {"repeats": len(runs), **{name: quantiles(values) for name, values in rows.items()}}
