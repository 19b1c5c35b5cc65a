"""Score files or answers: a benchmark's scorer with its statistics and warnings."""

from __future__ import annotations

import dataclasses
import gc
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from comem.benchmarks import BENCHMARKS, Benchmark
from comem.benchmarks.scoring import Bootstrap, ScoreFiles
from comem.config import option, take_paths
from comem.eval.run_folder import ERRORS, METRICS, PREDICTIONS, read_answers
from comem.io.console import print_line, print_table
from comem.io.files import done_ids, write_json
from comem.types import Answer, Example, Report, Score

#: A graded score (soft accuracy, F1) counts as right from here on, where right and wrong are asked for.
RIGHT = 0.5


@dataclass(frozen=True)
class Comparison:
    """Two runs over the same questions.

    Args:
        questions: how many both answered.
        first, second: their scores on those, in percent.
        difference: first minus second, in points.
        confidence: the difference's bootstrap interval.
        only_first, only_second: questions that one had right and the other wrong.
        both, neither: questions on which they agree.
        p_value: McNemar's exact test, two-sided.
    """

    questions: int
    first: float
    second: float
    difference: float
    confidence: list[float]
    only_first: int
    only_second: int
    both: int
    neither: int
    p_value: float


def compare(first: Sequence[Score], second: Sequence[Score], bootstrap: Bootstrap) -> Comparison:
    """Compare two runs, question by question, over those that both answered.

    Raises:
        ValueError: there is no such question.
    """
    others = {score.example_id: score.value for score in second if score.answered}
    pairs = [(s.value, others[s.example_id]) for s in first if s.answered and s.example_id in others]
    if not pairs:
        raise ValueError("the two runs have no answered question in common; are they of the same benchmark?")
    cells = Counter((a >= RIGHT, b >= RIGHT) for a, b in pairs)
    means = [100 * sum(values) / len(pairs) for values in zip(*pairs, strict=True)]
    drawn = bootstrap.means(round(a - b, 12) for a, b in pairs)
    return Comparison(
        questions=len(pairs),
        first=means[0],
        second=means[1],
        difference=means[0] - means[1],
        confidence=bootstrap.interval(drawn) if bootstrap.samples else [],
        only_first=cells[True, False],
        only_second=cells[False, True],
        both=cells[True, True],
        neither=cells[False, False],
        p_value=mcnemar(cells[True, False], cells[False, True]),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's exact two-sided p-value: the questions on which two runs differ as throws of a fair coin.

    Args:
        only_first: questions that only the first run has right.
        only_second: questions that only the second has right.
    """
    import numpy as np

    count, fewer = only_first + only_second, min(only_first, only_second)
    if only_first == only_second:
        return 1.0
    steps = np.arange(1, fewer + 1, dtype=np.float64)
    logs = np.concatenate([[0.0], np.cumsum(np.log(count - steps + 1) - np.log(steps))])  # log C(count, i)
    tail = float(np.exp(logs - count * np.log(2.0)).sum())
    return min(1.0, 2 * tail)


_COSTS = ("context_tokens", "prompt_tokens", "seconds")


def score_files(
    benchmark: str,
    files: ScoreFiles,
    scorer: str = "official",
    bootstrap: Bootstrap | None = None,
    judge: Path | None = None,
) -> Report:
    """Score a benchmark's files.

    Args:
        benchmark: a row of `BENCHMARKS`.
        files: what there is to score.
        scorer: "official", or "paper" for what the authors' code computed.
        bootstrap: how intervals are drawn; as by default without it.
        judge: the weights of the model that judges answers, where the scorer asks one.

    Raises:
        ValueError: an unknown benchmark or scorer, or files that cannot be scored.
    """
    row = BENCHMARKS[benchmark]
    with _no_collection():
        return row.scorers[scorer].finished(row.score_files(files, scorer, judge), scorer, bootstrap)


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
        scorer: official; paper: as the authors' code computed, bugs included; bem (evqa); of videos 2025,
            shared, drawn.
        judge: weights of the model that judges answers (evqa's bem).
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
    judge: Path | None = option(None, metavar="DIR")
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
    scoring = settings.benchmark, settings.scorer, settings.judge
    found = Evaluation(_scored(files, bootstrap, *scoring))
    if others := settings.files("compare"):
        compared = _compared(files, others)
        other = _scored(compared, Bootstrap(0), *scoring)
        found = Evaluation(found.report, _comparison(found.report, other, bootstrap))
    if settings.output is not None:
        write_json(settings.output, found.as_dict())
    return found


def _scored(
    files: ScoreFiles, bootstrap: Bootstrap, benchmark: str, scorer: str, judge: Path | None
) -> Report:
    return score_files(benchmark, files, scorer, bootstrap, judge)


def show_evaluation(found: Evaluation, settings: EvaluateSettings) -> None:
    """Print the tables."""
    show(found.report, BENCHMARKS[settings.benchmark].headline)
    if found.comparison is not None:
        show_comparison(found.comparison, settings.level)


def _compared(files: ScoreFiles, others: dict[str, Path]) -> ScoreFiles:
    """The other run's files; references that lie in the first run's predictions serve it, too."""
    return dataclasses.replace(files, predictions=others, references=files.references or files.predictions)


def _comparison(first: Report, second: Report, bootstrap: Bootstrap) -> dict[str, dict[str, Any]]:
    """Two reports over the same questions, metric by metric (see `comem.eval.score.Comparison`).

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
