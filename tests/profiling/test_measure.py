"""A run of cells: figures, limits, resuming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from comem.profiling import measure
from comem.profiling.bench import WAYS, Bench
from comem.profiling.cost import cell_bytes
from comem.profiling.measure import FILE, Limits, Results, figures, header, run_cells
from comem.profiling.timing import Cell, Run, grid, repeat

ONE = Limits(seconds=0.0)
CELLS = [Cell("baseline", 0, 1), Cell("comem-bank", 2, 1)]


def results(bench: Bench, folder: Path, **more: Any) -> Results:
    return Results(folder / FILE, header("tiny", bench), **more)


def test_figures_are_those_of_the_runs() -> None:
    runs = [Run(0.5, 1.5, 11, {"encode": 0.25}), Run(0.7, 1.2, 11, {"encode": 0.35})]
    found = figures(runs, batch=4)
    assert found["repeats"] == 2
    assert found["first_token_seconds"] == pytest.approx({"p50": 0.6, "p95": 0.69})
    assert found["decode_tokens_per_second"] == pytest.approx({"p50": 60.0, "p95": 78.0})
    assert found["questions_per_second"]["p50"] == pytest.approx((4 / 1.5 + 4 / 1.2) / 2)
    assert found["encode_seconds"]["p50"] == pytest.approx(0.3)


def test_repeat_stops_at_the_time_or_the_number() -> None:
    assert len(repeat(lambda: Run(0.0, 5.0, 2), seconds=9.0, most=20)) == 1  # a second would pass the end
    assert len(repeat(lambda: Run(0.0, 0.0, 2), seconds=9.0, most=3)) == 3


def test_each_cell_is_written_and_finished_ones_are_not_run_again(bench: Bench, tmp_path: Path) -> None:
    ran: list[str] = []
    ways = {name: lambda b, c, way=way: (ran.append(c.mode), way(b, c))[1] for name, way in WAYS.items()}
    run_cells(bench, CELLS[:1], results(bench, tmp_path), ONE, ways)
    run_cells(bench, CELLS, results(bench, tmp_path, resume=True), ONE, ways)
    assert ran == ["baseline", "comem-bank"]
    found = json.loads((tmp_path / FILE).read_text())
    assert [row["mode"] for row in found["cells"]] == ran
    assert found["weights_bytes"] == 4 * 223_456 and found["settings"]["item"] == 24
    assert found["cells"][1]["context_tokens"] == 16
    run_cells(bench, CELLS[:1], results(bench, tmp_path), ONE, ways)
    assert ran[-1] == "baseline"  # without resume all is measured anew


def test_results_of_other_settings_are_not_gone_on_with(bench: Bench, tmp_path: Path) -> None:
    results(bench, tmp_path).write()
    head = header("tiny", bench) | {"dtype": "bfloat16"}
    with pytest.raises(ValueError, match="dtype: 'float32' there, 'bfloat16' now.*--resume"):
        Results(tmp_path / FILE, head, resume=True)


def test_cells_beyond_a_limit_say_why_and_are_tried_again(bench: Bench, tmp_path: Path) -> None:
    found = results(bench, tmp_path)
    run_cells(bench, CELLS[:1], found, Limits(petaflops=1e-12))
    assert "PFLOP" in found.rows[CELLS[0].key]["skipped"]
    run_cells(bench, CELLS[:1], found, Limits(total_seconds=-1.0))
    assert "no time was left in this run" in found.rows[CELLS[0].key]["skipped"]
    run_cells(bench, CELLS[:1], found, ONE)
    assert found.rows[CELLS[0].key]["repeats"] == 1


def test_a_cell_that_has_no_room_is_not_tried(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = results(bench, tmp_path)
    large = Cell("rag", 10_000, 1)
    config = bench.model.config
    needed = cell_bytes(large, bench.lengths, config, 4)
    assert needed > 10_000 * 64 * 1176 * 4  # the pixels alone
    monkeypatch.setattr(measure, "free_bytes", lambda device: needed)
    run_cells(bench, [large], found, ONE)
    assert "GB needed beside the weights" in found.rows[large.key]["skipped"]


def test_a_cell_without_memory_for_it_is_skipped_and_the_next_runs(bench: Bench, tmp_path: Path) -> None:
    tries = []

    def full(bench: Bench, cell: Cell) -> Any:
        tries.append(bench.decoding("comem"))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB\nmore")

    found = results(bench, tmp_path)
    run_cells(bench, CELLS, found, ONE, {**WAYS, "baseline": full})
    assert found.rows[CELLS[0].key]["skipped"] == "out of memory: CUDA out of memory. Tried to allocate 3 GiB"
    assert found.rows[CELLS[1].key]["repeats"] == 1
    assert len(tries) == 2 and tries[0] is not tries[1]  # once more, without the caches of the first


def test_no_cell_inherits_the_caches_of_another(bench: Bench, tmp_path: Path) -> None:
    seen: list[Any] = []
    ways = {**WAYS, "rag": lambda b, c: (WAYS["rag"](b, c), seen.append(b.decoding(c.engine)))[0]}
    run_cells(bench, [Cell("rag", 1, 1), Cell("rag", 2, 1)], results(bench, tmp_path), ONE, ways)
    assert len(seen) == 2 and seen[0] is not seen[1]


def test_the_baseline_has_no_items_and_others_have() -> None:
    cells = grid(["baseline", "rag"], [0, 3, 3], [1, 2], ["comem"])
    assert [(c.mode, c.k, c.batch) for c in cells] == [
        ("baseline", 0, 1), ("baseline", 0, 2), ("rag", 3, 1), ("rag", 3, 2),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="batches from 1"):
        grid(["rag"], [1], [0], ["comem"])
