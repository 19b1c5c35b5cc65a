"""`comem evaluate`: score a benchmark's files as they stand, without torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comem.benchmarks import BENCHMARKS
from comem.benchmarks.scoring import Bootstrap, ScoreFiles
from comem.config import option, take_paths
from comem.eval.compare import compare
from comem.eval.score import score_files
from comem.io.console import print_line, print_table
from comem.io.files import write_json
from comem.types import Report

_PARTS = ("query", "entity")
#: Shown elsewhere, or only in the JSON.
_NOT_ROWS = ("notes", "confidence", "scorer", "definition", "by_group", "by_language")
_COUNTS = ("answered", "total")


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

    def __post_init__(self) -> None:
        take_paths(self)

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


def show(report: Report, headline: Sequence[str]) -> None:
    """Print a report: the headline figures first, with their intervals; then groups, languages and notes."""
    metrics = report.metrics
    answered = f"{metrics['answered']} of {metrics['total']} questions" if "total" in metrics else ""
    title = f"{report.benchmark}: {answered or report.count} answered" if answered else report.benchmark
    intervals = metrics.get("confidence", {})
    heading = f"{intervals['level']:g} % interval" if intervals else ""
    names = [*headline, *(name for name in metrics if name not in headline)]
    rows = [row for name in names for row in _rows(name, metrics.get(name), intervals)]
    print_table(("metric", "value", heading), rows, title)
    for name, label in (("by_group", "group"), ("by_language", "language")):
        if name in metrics:
            _print_groups(label, metrics[name])
    print_line(f"definition: {metrics['definition']}")
    for note in metrics.get("notes", ()):
        print_line(f"note: {note}", style="yellow")


def _rows(name: str, value: Any, intervals: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The table rows of one metric; nested ones are indented below their name."""
    if name in _NOT_ROWS or value is None:
        return
    if not isinstance(value, Mapping):
        yield name, _number(value), _interval(intervals.get(name))
        return
    scalars = {key: item for key, item in value.items() if not isinstance(item, Mapping)}
    if scalars:
        yield name, "", ""
        for key, item in scalars.items():
            yield f"  {key}", _number(item), ""
    for key, item in value.items():
        if isinstance(item, Mapping):
            counts = f" ({item['answered']}/{item['total']})" if "total" in item else ""
            yield f"{name} · {key}{counts}", _number(item.get("accuracy", "")), ""


def _print_groups(label: str, table: Mapping[str, Mapping[str, Any]]) -> None:
    first = next(iter(table.values()))
    metrics = [name for name in first if name not in _COUNTS and not name.endswith("_confidence")]
    headings = (
        label,
        "answered",
        *(name.replace("_missing_wrong", ", missing as wrong") for name in metrics),
    )
    rows = [
        (name or "–", f"{row['answered']}/{row['total']}", *(_cell(row, metric) for metric in metrics))
        for name, row in table.items()
    ]
    print_table(headings, rows, f"by {label}")


def _cell(row: Mapping[str, Any], metric: str) -> str:
    return f"{_number(row.get(metric, ''))} {_interval(row.get(f'{metric}_confidence'))}".strip()


def show_comparison(found: Mapping[str, Mapping[str, Any]], level: float) -> None:
    """Print how two runs compare, metric by metric."""
    rows = [
        (
            metric, str(row["questions"]), _number(row["first"]), _number(row["second"]),
            " ".join((f"{row['difference']:+.2f}", _interval(row["confidence"]))).strip(),
            f"{row['only_first']} / {row['only_second']}", f"{row['p_value']:.4g}",
        )
        for metric, row in found.items()
    ]  # fmt: skip
    headings = (
        "metric", "both answered", "this run", "other run", f"difference ({level:g} %)",
        "only this / other right", "McNemar p",
    )  # fmt: skip
    print_table(headings, rows, "paired comparison")


def _number(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _interval(ends: Sequence[float] | None) -> str:
    return f"[{ends[0]:.2f}, {ends[1]:.2f}]" if ends else ""
