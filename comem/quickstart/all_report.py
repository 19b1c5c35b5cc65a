"""What came of a run over all benchmarks: a table of benchmarks × modes, the costs, and JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from comem.benchmarks import BENCHMARKS
from comem.console import make_table, out
from comem.evaluation.files import ScoreFiles
from comem.evaluation.score import score_files
from comem.records import read_json, run_manifest, write_json
from comem.runner.run_folder import METRICS

Scores = dict[str, dict[str, dict[str, Any]]]

NOTES = (
    "Questions are asked bare: the embedded backbone has read neither instructions nor options.",
    "mrag_bench: the official rules look for a letter, which it never says; overall_named counts an option "
    "that is named by its text.",
    "oven_*: title_match counts titles named word for word; oven: the official score of the linked answers.",
)


def show_all(
    folder: Path, names: Mapping[str, str], modes: tuple[str, ...], settings: Mapping[str, Any]
) -> None:
    """Print the tables, write results.json, and say where everything is.

    Args:
        folder: the run folder.
        names: the rows that were answered.
        modes: the modes.
        settings: what decided the results, for the manifest.
    """
    found = read_scores(folder, names, modes)
    rows = [(f"{name} · {metric}", *cells) for name, metric, cells in table_rows(found, modes)]
    out().print(make_table(("benchmark · metric", *modes), rows, "Every benchmark in every mode (percent)"))
    costs = [
        (mode, *(f"{_mean(found, mode, key):.{digits}f}" for key, digits in _COSTS.items())) for mode in modes
    ]
    out().print(make_table(("mode", *_COSTS), costs, "A question costs, on the average"))
    for note in NOTES:
        out().print(note)
    results = {"scores": found, "notes": list(NOTES), "run": run_manifest({"settings": dict(settings)})}
    write_json(folder / "results.json", results)
    out().print(f"numbers: {folder / 'results.json'}")
    out().print(f"run folders: {folder / 'answers'}/BENCHMARK/MODE")


_COSTS = {"context_tokens": 1, "prompt_tokens": 1, "seconds": 3}


def read_scores(folder: Path, names: Mapping[str, str], modes: tuple[str, ...]) -> Scores:
    """The metrics of every run by benchmark and mode; `oven` is both of its parts, linked."""
    found: Scores = {
        name: {mode: read_json(folder / "answers" / name / mode / METRICS) for mode in modes}
        for name in names
    }
    if {"oven_query", "oven_entity"} <= set(names):
        found["oven"] = {mode: _oven(folder, mode) for mode in modes}
    return found


def _oven(folder: Path, mode: str) -> dict[str, Any]:
    parts = ("query", "entity")
    files = ScoreFiles(
        predictions={part: folder / "answers" / f"oven_{part}" / mode / "linked.jsonl" for part in parts},
        references={part: folder / "data" / "oven" / f"oven_{part}_val.jsonl" for part in parts},
    )
    report = score_files("oven", files)
    return {"benchmark": "oven", "count": report.count, **report.metrics}


def table_rows(found: Scores, modes: tuple[str, ...]) -> Iterator[tuple[str, str, list[str]]]:
    """Benchmark, metric and a cell for each mode."""
    for name, by_mode in found.items():
        headline = BENCHMARKS[name].headline if name in BENCHMARKS else ("final_score",)
        for metric in headline:
            yield name, metric, [_cell(by_mode[mode].get(metric)) for mode in modes]


def _cell(value: Any) -> str:
    """A metric in percent; of InfoSeek's splits their score."""
    if isinstance(value, Mapping):
        value = value.get("score")
    return "–" if value is None else f"{value:.1f}"


def _mean(found: Scores, mode: str, cost: str) -> float:
    """The mean over the benchmarks, each counting alike."""
    return fmean(by_mode[mode]["mean"][cost] for by_mode in found.values() if "mean" in by_mode[mode])
