"""Score what a run folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from comem.benchmarks import Benchmark
from comem.evaluation.files import keyed, match, read_predictions
from comem.records import done_ids, write_json
from comem.runner.run_folder import ERRORS, METRICS, PREDICTIONS
from comem.types import Example, Report

_COSTS = ("context_tokens", "prompt_tokens", "seconds")


def evaluate(benchmark: Benchmark, examples: Sequence[Example], run_folder: str | Path) -> Report:
    """Score a run folder (or a file of predictions) and write `metrics.json` beside the predictions.

    Besides the benchmark's own metrics: the mean cost of a question, and how many failed.

    Raises:
        ValueError: there are no predictions, or none belongs to the examples.
    """
    path = Path(run_folder)
    file = path / PREDICTIONS if path.is_dir() or not path.suffix else path
    report = benchmark.score(read_predictions(file), list(examples))
    rows = keyed(file, torn_tail=True)
    scored = [rows[name] for name in match(rows, {example.id: example for example in examples})]
    metrics = {
        **report.metrics,
        "failed": len(done_ids(file.parent / ERRORS, "data_id")),
        "with_knowledge": sum(bool(row.get("knowledge_ids")) for row in scored),
        "mean": {name: fmean(float(row.get(name, 0)) for row in scored) for name in _COSTS},
    }
    write_json(file.parent / METRICS, {"benchmark": report.benchmark, "count": report.count, **metrics})
    return Report(report.benchmark, metrics, report.count)
