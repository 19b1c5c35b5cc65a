"""Score what a run folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from comem.benchmarks import Benchmark
from comem.benchmarks.score_files import keyed, match, read_predictions
from comem.benchmarks.statistics import Bootstrap
from comem.eval.run_folder import ERRORS, METRICS, PREDICTIONS
from comem.io.files import write_json
from comem.io.jsonl import done_ids
from comem.types import Example, Report

_COSTS = ("context_tokens", "prompt_tokens", "seconds")


def evaluate(
    benchmark: Benchmark, examples: Sequence[Example], run_folder: str | Path, *,
    scorer: str = "official", bootstrap: Bootstrap | None = None,
) -> Report:  # fmt: skip
    """Score a run folder (or a file of predictions) and write `metrics.json` beside the predictions.

    Besides the benchmark's own metrics: intervals, groups and languages, the mean cost of a question, and
    how many failed.

    Args:
        benchmark: the row that the examples come from.
        examples: the questions.
        run_folder: what `predict` has made.
        scorer: "official"; or "paper", what the authors' code computed (into `metrics_paper.json`).
        bootstrap: how intervals are drawn.

    Raises:
        ValueError: there are no predictions, none belongs to the examples, or no such scorer.
    """
    path = Path(run_folder)
    file = path / PREDICTIONS if path.is_dir() or not path.suffix else path
    found = benchmark.score(read_predictions(file, whole=True), examples, scorer)
    report = benchmark.scorers[scorer].finished(found, scorer, bootstrap)
    rows = keyed(file, torn_tail=True)
    scored = [rows[name] for name in match(rows, {example.id: example for example in examples})]
    metrics = {
        **report.metrics,
        "failed": len(done_ids(file.parent / ERRORS, "data_id")),
        "with_knowledge": sum(bool(row.get("knowledge_ids")) for row in scored),
        "mean": {name: fmean(float(row.get(name, 0)) for row in scored) for name in _COSTS},
    }
    name = METRICS if scorer == "official" else f"metrics_{scorer}.json"
    write_json(file.parent / name, {"benchmark": report.benchmark, "count": report.count, **metrics})
    return Report(report.benchmark, metrics, report.count, report.scores)
