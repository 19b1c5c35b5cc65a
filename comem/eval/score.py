"""Score files or answers: a benchmark's scorer with its statistics and warnings."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from comem.benchmarks import BENCHMARKS, Benchmark
from comem.benchmarks.scoring import Bootstrap, ScoreFiles
from comem.eval.run_folder import ERRORS, METRICS, PREDICTIONS, read_answers
from comem.io.files import done_ids, write_json
from comem.types import Answer, Example, Report

_COSTS = ("context_tokens", "prompt_tokens", "seconds")


def score_files(
    benchmark: str, files: ScoreFiles, scorer: str = "official", bootstrap: Bootstrap | None = None
) -> Report:
    """Score a benchmark's files.

    Args:
        benchmark: a row of `BENCHMARKS`.
        files: what there is to score.
        scorer: "official", or "paper" for what the authors' code computed.
        bootstrap: how intervals are drawn; as by default without it.

    Raises:
        ValueError: an unknown benchmark or scorer, or files that cannot be scored.
    """
    row = BENCHMARKS[benchmark]
    with _no_collection():
        return row.scorers[scorer].finished(row.score_files(files, scorer), scorer, bootstrap)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without garbage collection: millions of rows stay, and going through them again and again is slow."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def score_answers(
    benchmark: Benchmark,
    examples: Sequence[Example],
    answers: Mapping[str, Answer],
    failed: int = 0,
    scorer: str = "official",
    bootstrap: Bootstrap | None = None,
) -> Report:
    """Score answers by example id.

    Besides the benchmark's own metrics: intervals, groups and languages, the mean cost of a question, and
    how many failed.

    Args:
        benchmark: the row that the examples come from.
        examples: the questions.
        answers: by the examples' ids.
        failed: questions that could not be answered.
        scorer: "official"; or "paper", what the authors' code computed.
        bootstrap: how intervals are drawn.

    Raises:
        ValueError: no answer belongs to the examples, or no such scorer.
    """
    found = benchmark.score({name: answer.text for name, answer in answers.items()}, examples, scorer)
    report = benchmark.scorers[scorer].finished(found, scorer, bootstrap)
    scored = [answers[example.id] for example in examples if example.id in answers]
    costs = {name: fmean(float(getattr(answer, name)) for answer in scored) for name in _COSTS}
    with_knowledge = sum(bool(answer.knowledge_ids) for answer in scored)
    more = {"failed": failed, "with_knowledge": with_knowledge, "mean": costs}
    return replace(report, metrics={**report.metrics, **more})


def score_run(
    benchmark: Benchmark,
    examples: Sequence[Example],
    run_folder: str | Path,
    *,
    scorer: str = "official",
    bootstrap: Bootstrap | None = None,
) -> Report:
    """Score a run folder (or a file of predictions), into `metrics.json` beside the predictions.

    The paper's scorer writes `metrics_paper.json`. Otherwise as `score_answers`.

    Raises:
        ValueError: there are no predictions, none belongs to the examples, or no such scorer.
    """
    path = Path(run_folder)
    file = path / PREDICTIONS if path.is_dir() or not path.suffix else path
    failed = len(done_ids(file.parent / ERRORS, "data_id"))
    report = score_answers(benchmark, examples, read_answers(file), failed, scorer, bootstrap)
    return write_metrics(report, file.parent)


def write_metrics(report: Report, folder: Path) -> Report:
    """Write a report into its run folder."""
    scorer = report.metrics["scorer"]
    name = METRICS if scorer == "official" else f"metrics_{scorer}.json"
    write_json(folder / name, {"benchmark": report.benchmark, "count": report.count, **report.metrics})
    return report
