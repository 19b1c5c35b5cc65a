"""`comem evaluate`: score a benchmark's files as they stand, without torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comem.benchmarks import BENCHMARKS
from comem.benchmarks.score_files import ScoreFiles
from comem.benchmarks.statistics import Bootstrap
from comem.config import option
from comem.eval.compare import compare
from comem.eval.score import score_files
from comem.eval.show import show, show_comparison
from comem.io.files import write_json
from comem.types import Report

__all__ = ["EvaluateSettings", "Evaluation", "evaluate", "show", "show_evaluation"]

_PARTS = ("query", "entity")


@dataclass(frozen=True)
class EvaluateSettings:
    """Scoring a benchmark's files.

    Needs no GPU and no torch.

    Attributes:
        benchmark: whose scorer.
        predictions: predictions.
        predictions_query: the query set: predictions (oven).
        predictions_entity: the entity set: predictions (oven).
        references: references.
        references_query: the query set: references (oven).
        references_entity: the entity set: references (oven).
        compare: predictions of another run, to compare with.
        compare_query: the query set: predictions of another run (oven).
        compare_entity: the entity set: predictions of another run (oven).
        question_types: InfoSeek's question types.
        split: only the references of this split.
        scorer: official, or paper: as the authors' code computed, bugs included.
        whole: compare whole texts: take no answer out of boxes and final-answer lines.
        bootstrap: draws for intervals (0: none).
        level: of intervals, in percent.
        seed: of intervals.
        output: write the report as JSON here.
    """

    benchmark: str = option(positional=True, choices="comem.benchmarks:BENCHMARKS")
    predictions: Path | None = option(None, metavar="FILE")
    predictions_query: Path | None = option(None, metavar="FILE")
    predictions_entity: Path | None = option(None, metavar="FILE")
    references: Path | None = option(None, metavar="FILE")
    references_query: Path | None = option(None, metavar="FILE")
    references_entity: Path | None = option(None, metavar="FILE")
    compare: Path | None = option(None, metavar="FILE")
    compare_query: Path | None = option(None, metavar="FILE")
    compare_entity: Path | None = option(None, metavar="FILE")
    question_types: Path | None = option(None, metavar="FILE")
    split: str | None = option(None, metavar="NAME")
    scorer: str = option("official", metavar="NAME")
    whole: bool = False
    bootstrap: int = 1000
    level: float = option(95.0, metavar="PERCENT")
    seed: int = 0
    output: Path | None = option(None, metavar="FILE")

    def files(self, kind: str) -> dict[str, Path]:
        """The files of a kind ("predictions", "references", "compare") by part, "" for the only one."""
        names = {"": kind, **{part: f"{kind}_{part}" for part in _PARTS}}
        return {part: getattr(self, name) for part, name in names.items() if getattr(self, name) is not None}


@dataclass(frozen=True)
class Evaluation:
    """A report, and how it compares with that of another run, if one was given.

    Attributes:
        report: the scores.
        comparison: by metric.
    """

    report: Report
    comparison: Mapping[str, Mapping[str, Any]] | None = None

    def as_dict(self) -> dict[str, Any]:
        """As it is written to JSON."""
        report = self.report
        rows = {"benchmark": report.benchmark, "count": report.count, **report.metrics}
        return rows if self.comparison is None else {**rows, "comparison": self.comparison}


def evaluate(settings: EvaluateSettings) -> Evaluation:
    """Score, compare, write the JSON.

    Example:
        >>> files = {"predictions": Path("a.jsonl"), "references": Path("test.jsonl")}
        >>> evaluate(EvaluateSettings("viquae", **files)).report.metrics["f1"]

    Raises:
        ValueError: an unknown benchmark, a missing option, or a file that cannot be scored.
    """
    bootstrap = Bootstrap(settings.bootstrap, settings.level, settings.seed)
    files = ScoreFiles(
        predictions=settings.files("predictions"),
        references=settings.files("references"),
        question_types=settings.question_types,
        whole=settings.whole,
        split=settings.split,
    )
    found = Evaluation(score_files(settings.benchmark, files, settings.scorer, bootstrap))
    if others := settings.files("compare"):
        compared = _compared(files, others)
        other = score_files(settings.benchmark, compared, settings.scorer, Bootstrap(0))
        found = Evaluation(found.report, _comparison(found.report, other, bootstrap))
    if settings.output is not None:
        write_json(settings.output, found.as_dict())
    return found


def show_evaluation(found: Evaluation, settings: EvaluateSettings) -> None:
    """Print the tables."""
    show(found.report, BENCHMARKS[settings.benchmark].headline)
    if found.comparison is not None:
        show_comparison(found.comparison, settings.level)


def _compared(files: ScoreFiles, others: dict[str, Path]) -> ScoreFiles:
    """The other run's files; references that lie in the first run's predictions serve it, too."""
    return dataclasses.replace(files, predictions=others, references=files.references or files.predictions)


def _comparison(first: Report, second: Report, bootstrap: Bootstrap) -> dict[str, dict[str, Any]]:
    """Two reports over the same questions, metric by metric (see `comem.eval.compare.Comparison`).

    Raises:
        ValueError: they have no metric or no answered question in common.
    """
    common = [metric for metric in first.scores if metric in second.scores]
    if not common:
        raise ValueError("the two runs have no metric in common; score both by the same scorer")
    return {
        metric: dataclasses.asdict(compare(first.scores[metric], second.scores[metric], bootstrap))
        for metric in common
        if any(score.answered for score in second.scores[metric])
    }
