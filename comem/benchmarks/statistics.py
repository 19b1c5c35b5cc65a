"""How sure a score is: bootstrap intervals, and tables by group and language.

The percentile bootstrap (Efron 1979) draws questions with replacement. Scores take few distinct values
(0 and 1, thirds, …), so a draw is a multinomial count of those values: exact, and as fast for a million
questions as for a hundred.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from comem.types import Report, Score

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

_TINY = 1e-12


def harmonic_means(parts: Sequence[Array]) -> Array:
    """`harmonic_mean` of arrays, element by element."""
    import numpy as np

    inverse = sum((1.0 / np.where(part == 0, _TINY, part) for part in parts), np.zeros_like(parts[0]))
    return np.asarray(len(parts) / inverse)


def harmonic_mean(values: Sequence[float]) -> float:
    """The harmonic mean; a zero counts as 1e-12, as officially."""
    return len(values) / sum(1.0 / (value or _TINY) for value in values)


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are drawn.

    Args:
        samples: draws; 0 for no intervals.
        level: the interval's coverage, in percent.
        seed: of the random numbers; the same seed gives the same interval.

    Raises:
        ValueError: a negative number of draws, or a level outside 0 to 100.
    """

    samples: int = 1000
    level: float = 95.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 0 or not 0 < self.level < 100 or self.seed < 0:
            raise ValueError(
                f"bootstrap: samples {self.samples}, level {self.level:g}, seed {self.seed}; give samples "
                "and seed of 0 or more, and a level between 0 and 100"
            )

    def means(self, values: Iterable[float], stream: int = 0) -> Array:
        """Means of the values drawn again and again, `(samples,)`; nothing but zeros without values."""
        import numpy as np

        counts = Counter(values)
        total = sum(counts.values())
        if not total:
            return np.zeros(self.samples)
        distinct = sorted(counts)
        shares = np.array([counts[value] for value in distinct], dtype=np.float64) / total
        generator = np.random.default_rng([self.seed, stream])
        drawn = generator.multinomial(total, shares / shares.sum(), size=self.samples)
        return np.asarray(drawn @ np.array(distinct, dtype=np.float64) / total)

    def interval(self, means: Array) -> list[float]:
        """The middle `level` percent of the drawn means, in percent, with two digits."""
        import numpy as np

        tail = (100 - self.level) / 2
        return [round(float(end), 2) for end in np.percentile(100 * means, [tail, 100 - tail])]


#: From the drawn means of every group, `(samples,)` each, to those of a number made of them, or None.
Combine = Callable[[Mapping[str, "Array"]], "Array | None"]


def scores_of(
    values: Mapping[str, float],
    names: Iterable[str],
    group: Callable[[str], str] | None = None,
    language: Callable[[str], str] | None = None,
) -> list[Score]:
    """A score for every question; those without a value were not answered.

    Args:
        values: what each answered question earned, by id.
        names: the ids of all questions, in order.
        group: from an id to its group (split, scenario, …).
        language: from an id to its language.
    """
    return [
        Score(
            name, values.get(name, 0.0), group(name) if group else "", language(name) if language else "",
            name in values,
        )
        for name in names
    ]  # fmt: skip


def means_by(values: Mapping[str, float], key: Callable[[str], str]) -> dict[str, float]:
    """The mean of the questions' values in percent, by what `key` says of their ids; sorted."""
    groups: dict[str, list[float]] = {}
    for name, value in values.items():
        groups.setdefault(key(name), []).append(value)
    return {group: 100 * sum(part) / len(part) for group, part in sorted(groups.items())}


def mean_report(
    benchmark: str,
    metric: str,
    values: Mapping[str, float],
    names: Collection[str],
    group: Callable[[str], str] | None = None,
    language: Callable[[str], str] | None = None,
    **more: Any,
) -> Report:
    """The report whose metric is the mean of what the answered questions earned, in percent.

    Args:
        benchmark: its name.
        metric: the metric's name; with `_missing_wrong` behind it, the mean over all questions.
        values: what each answered question earned, by id.
        names: the ids of all questions, in order.
        group, language: from an id to its group and language.
        more: further metrics.
    """
    total = sum(values.values())
    metrics = {
        metric: 100 * total / len(values), **more, f"{metric}_missing_wrong": 100 * total / len(names),
        "answered": len(values), "total": len(names),
    }  # fmt: skip
    return Report(benchmark, metrics, len(names), {metric: scores_of(values, names, group, language)})


def with_statistics(
    report: Report,
    bootstrap: Bootstrap,
    combined: Mapping[str, Combine] | None = None,
    missing_wrong: bool = False,
) -> Report:
    """The report with intervals and tables by group and language.

    Args:
        report: with the questions' scores.
        bootstrap: how intervals are drawn.
        combined: numbers that are made of the groups' means (InfoSeek's and OVEN's final score).
        missing_wrong: the metrics themselves count missing predictions as wrong (A-OKVQA's official ones).
    """
    if not report.scores:
        return report
    metrics = dict(report.metrics)
    if bootstrap.samples:
        scores: Mapping[str, Sequence[Score]] = report.scores
        if missing_wrong:
            scores = {
                name: [replace(score, answered=True) for score in given] for name, given in scores.items()
            }
        metrics["confidence"] = {
            "level": bootstrap.level, "samples": bootstrap.samples, "seed": bootstrap.seed,
            **_intervals(scores, bootstrap, combined or {}),
        }  # fmt: skip
    for name, key in (("by_group", _group), ("by_language", _language)):
        table = _table(report.scores, key, bootstrap)
        if len(table) > 1:
            metrics[name] = table
    return replace(report, metrics=metrics)


def _group(score: Score) -> str:
    return score.group


def _language(score: Score) -> str:
    return score.language


def _intervals(
    scores: Mapping[str, Sequence[Score]], bootstrap: Bootstrap, combined: Mapping[str, Combine]
) -> dict[str, Any]:
    """Intervals of the metrics, over the questions answered and with missing ones as wrong."""
    found: dict[str, Any] = {}
    for metric, given in scores.items():
        found[metric] = bootstrap.interval(bootstrap.means(s.value for s in given if s.answered))
        found[f"{metric}_missing_wrong"] = bootstrap.interval(bootstrap.means(s.value for s in given))
    first = next(iter(scores.values()))
    groups = _parted([score for score in first if score.answered], _group)
    drawn = {
        name: bootstrap.means((score.value for score in part), stream)
        for stream, (name, part) in enumerate(sorted(groups.items()), start=1)
    }
    made = {name: combine(drawn) for name, combine in combined.items()}
    return found | {name: bootstrap.interval(means) for name, means in made.items() if means is not None}


def _parted(scores: Iterable[Score], key: Callable[[Score], str]) -> dict[str, list[Score]]:
    parts: dict[str, list[Score]] = {}
    for score in scores:
        parts.setdefault(key(score), []).append(score)
    return parts


def _table(
    scores: Mapping[str, Sequence[Score]], key: Callable[[Score], str], bootstrap: Bootstrap
) -> dict[str, dict[str, Any]]:
    """Counts, scores and their intervals by group."""
    rows: dict[str, dict[str, Any]] = {}
    for metric, given in scores.items():
        for name, part in sorted(_parted(given, key).items()):
            answered = [score.value for score in part if score.answered]
            row = rows.setdefault(name, {"total": len(part), "answered": len(answered)})
            row[metric] = round(100 * sum(answered) / len(answered), 2) if answered else 0.0
            row[f"{metric}_missing_wrong"] = round(100 * sum(answered) / len(part), 2)
            if bootstrap.samples:
                row[f"{metric}_confidence"] = bootstrap.interval(bootstrap.means(answered))
    return rows
