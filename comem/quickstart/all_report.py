"""What came of a run over all benchmarks: OVEN's official score, the report, and what a question cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from comem.benchmarks.score_files import ScoreFiles
from comem.eval.run_folder import METRICS, RUN
from comem.eval.score import score_files
from comem.io.console import make_table, out
from comem.io.files import write_json
from comem.io.jsonl import read_json
from comem.report.page import FIGURE, PAGE, write_report
from comem.report.results import NONE, Measure, Result, overview

NOTES = (
    "The embedded models on the embedded world, in the benchmarks' formats: the numbers say that everything "
    "runs, and how the modes compare here; beside the paper's they mean nothing. Questions are asked bare: "
    "this backbone has read neither instructions nor options.",
    "mrag_bench: the official rules look for a letter, which it never says; overall_named counts an option "
    "that is named by its text.",
    "oven_*: title_match counts titles named word for word; oven: the official score of the linked answers.",
)
PARTS = ("query", "entity")
_COSTS = {"context_tokens": 1, "prompt_tokens": 1, "seconds": 3}


def show_all(folder: Path, modes: Sequence[str]) -> None:
    """Print the overview and the costs, write the report, and say where it is."""
    if all((folder / "answers" / f"oven_{part}").is_dir() for part in PARTS):
        for mode in modes:
            score_oven(folder, mode)
    results = write_report([folder / "answers"], folder / "report", "Every benchmark in every mode", NOTES)
    found = overview(results)
    rows = [(f"{name} · {metric}", *map(_value, values)) for name, metric, values in found.rows]
    headings = ("benchmark · metric", *(column.label for column in found.columns))
    out().print(make_table(headings, rows, "Every benchmark in every mode (percent, official scores)"))
    costs = [(mode, *(f"{_mean(results, mode, key):.{digits}f}" for key, digits in _COSTS.items()))
             for mode in modes]  # fmt: skip
    out().print(make_table(("mode", *_COSTS), costs, "What a question costs, on the average"))
    for note in NOTES:
        out().print(note)
    out().print(f"page, with intervals: {folder / 'report' / PAGE}")
    out().print(f"figure: {folder / 'report' / FIGURE}")
    out().print(f"run folders: {folder / 'answers'}/BENCHMARK/MODE")


def _value(found: Measure | None) -> str:
    """A number without its interval, for which a terminal is too narrow."""
    return NONE if found is None else f"{found.value:.2f}"


def score_oven(folder: Path, mode: str) -> None:
    """Both sets of OVEN, linked, as a scored folder of their own beside theirs."""
    answers, data = folder / "answers", folder / "data" / "oven"
    files = ScoreFiles(
        predictions={part: answers / f"oven_{part}" / mode / "linked.jsonl" for part in PARTS},
        references={part: data / f"oven_{part}_val.jsonl" for part in PARTS},
    )
    report, place = score_files("oven", files), answers / "oven" / mode
    run = read_json(answers / "oven_query" / mode / RUN)
    write_json(place / RUN, {**run, "config": {**run["config"], "benchmark": "oven"}})
    write_json(place / METRICS, {"benchmark": "oven", "count": report.count, **report.metrics})


def _mean(results: Sequence[Result], mode: str, cost: str) -> float:
    """The mean over the benchmarks, each counting alike."""
    costs = [
        float(each.metrics["mean"][cost]) for each in results if each.mode == mode and "mean" in each.metrics
    ]
    return fmean(costs) if costs else float("nan")
