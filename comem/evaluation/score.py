"""From files and options to a report: the scorer, its statistics and its warnings."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from comem.evaluation.comparison import compare
from comem.evaluation.files import ScoreFiles
from comem.evaluation.scorers import SCORER_SETS, Scorer
from comem.evaluation.statistics import Bootstrap, with_statistics
from comem.types import Report


def score_files(
    benchmark: str, files: ScoreFiles, scorer: str = "official", bootstrap: Bootstrap | None = None
) -> Report:
    """Score a benchmark's files.

    Args:
        benchmark: a row of the table of scorers.
        files: what there is to score.
        scorer: "official", or "paper" for what the authors' code computed.
        bootstrap: how intervals are drawn; as by default without it.

    Raises:
        ValueError: an unknown benchmark or scorer, or files that cannot be scored.
    """
    row = SCORER_SETS[scorer][benchmark]
    with _no_collection():
        return finished(row.evaluate(files), row, scorer, bootstrap)


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


def finished(report: Report, row: Scorer, scorer: str, bootstrap: Bootstrap | None = None) -> Report:
    """The report with its statistics, the scorer's name and definition, and what is wrong with it."""
    report = with_statistics(report, bootstrap or Bootstrap(), row.combined, row.missing_wrong)
    notes = list(report.metrics.get("notes", ()))
    if row.warning:
        notes.insert(0, f"the {scorer} scorer is not the benchmark's: {row.warning}")
    facts = {"scorer": scorer, "definition": row.definition, "notes": notes}
    return replace(report, metrics={**report.metrics, **facts})


def comparison(first: Report, second: Report, bootstrap: Bootstrap | None = None) -> dict[str, Any]:
    """Two reports over the same questions, metric by metric (see `comem.evaluation.comparison.Comparison`).

    Raises:
        ValueError: they have no metric or no answered question in common.
    """
    common = [metric for metric in first.scores if metric in second.scores]
    if not common:
        raise ValueError("the two runs have no metric in common; score both by the same scorer")
    drawn = bootstrap or Bootstrap()
    return {
        metric: asdict(compare(first.scores[metric], second.scores[metric], drawn))
        for metric in common
        if any(score.answered for score in second.scores[metric])
    }
