"""Score files: a benchmark's scorer, its statistics and its warnings; and two runs compared."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from comem.benchmarks import BENCHMARKS
from comem.benchmarks.score_files import ScoreFiles
from comem.benchmarks.statistics import Bootstrap
from comem.eval.compare import compare
from comem.types import Report


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


def comparison(first: Report, second: Report, bootstrap: Bootstrap | None = None) -> dict[str, Any]:
    """Two reports over the same questions, metric by metric (see `comem.eval.compare.Comparison`).

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
