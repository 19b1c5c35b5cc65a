"""What runs have scored, as the report reads it: from run folders, or from files of `comem evaluate`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comem.benchmarks import BENCHMARKS
from comem.evaluation.scorers import SCORERS
from comem.records import RecordError, read_json
from comem.report.paper_numbers import printed

_METRICS, _RUN = "metrics*.json", "run.json"
#: The order in which modes are shown; others follow.
MODES = ("baseline", "rag", "comem", "vlm_as_memory")


@dataclass(frozen=True)
class Result:
    """One run's scores.

    Args:
        benchmark, mode, model: what was run; "–" where the files do not say.
        metrics: as in metrics.json.
        place: where they were read.
    """

    benchmark: str
    mode: str
    model: str
    metrics: Mapping[str, Any] = field(repr=False)
    place: str = ""

    @property
    def scorer(self) -> str:
        """official or paper."""
        return str(self.metrics.get("scorer", "official"))


@dataclass(frozen=True)
class Measure:
    """One number of a result, in percent: with its interval, and with missing answers as wrong."""

    metric: str
    value: float
    interval: tuple[float, float] | None
    missing_wrong: float | None


def find_results(paths: Iterable[str | Path]) -> list[Result]:
    """The results in run folders (at any depth) and report files, by benchmark and mode.

    Raises:
        RecordError: a path without any, or a file that is no report; names it.
    """
    results = [result for path in paths for result in _results(Path(path))]
    return sorted(results, key=lambda each: (_order(each.benchmark), _mode_order(each.mode), each.model))


def _results(path: Path) -> list[Result]:
    files = [path] if path.is_file() else sorted(path.rglob(_METRICS))
    if not files:
        remedy = "comem predict makes run folders, comem evaluate --output such files"
        raise RecordError(f"{path}: no {_METRICS} in it; {remedy}")
    return [read_result(file) for file in files]


def read_result(file: Path) -> Result:
    """One metrics.json with the run.json beside it, if there is one.

    Raises:
        RecordError: it names no benchmark.
    """
    metrics = read_json(file)
    if not isinstance(metrics, Mapping) or "benchmark" not in metrics:
        raise RecordError(
            f"{file}: no report (it names no benchmark); give run folders or metrics.json files"
        )
    run = file.parent / _RUN
    config = read_json(run).get("config", {}) if run.is_file() else {}
    name = str(config.get("benchmark", metrics["benchmark"]))
    model = str(config.get("model", config.get("backbone", "–")))
    return Result(name, str(config.get("mode", "–")), model, metrics, str(file.parent))


def _order(benchmark: str) -> tuple[int, str]:
    known = [*BENCHMARKS, *SCORERS]
    return (known.index(benchmark) if benchmark in known else len(known), benchmark)


def _mode_order(mode: str) -> tuple[int, str]:
    return (MODES.index(mode) if mode in MODES else len(MODES), mode)


def headline(benchmark: str) -> tuple[str, ...]:
    """The metrics that are shown of a benchmark, the most important first."""
    if benchmark in BENCHMARKS:
        return BENCHMARKS[benchmark].headline
    return SCORERS[benchmark].headline if benchmark in SCORERS else ()


def measures(result: Result) -> list[Measure]:
    """The numbers of a result that are shown: the headline, and every pair that the paper prints."""
    names = [name for name in headline(result.benchmark) if name in result.metrics]
    pairs = [f"by_pair.{name}" for name in result.metrics.get("by_pair", {})]
    names += [name for name in pairs if printed(result.benchmark, name)]
    found = []
    for name in names:
        value = _number(_lookup(result.metrics, name))
        if value is not None:
            missing = _number(_lookup(result.metrics, f"{name}_missing_wrong"))
            found.append(Measure(path_of(result, name), value, _interval(result, name), missing))
    return found


def path_of(result: Result, name: str) -> str:
    """Where a number stands in the metrics: of InfoSeek's splits in their `score`."""
    return f"{name}.score" if isinstance(_lookup(result.metrics, name), Mapping) else name


def _lookup(metrics: Mapping[str, Any], name: str) -> Any:
    first, _, rest = name.partition(".")
    value = metrics.get(first)
    return _lookup(value, rest) if rest and isinstance(value, Mapping) else value


def _number(value: Any) -> float | None:
    if isinstance(value, Mapping):
        value = value.get("score")
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _interval(result: Result, name: str) -> tuple[float, float] | None:
    ends: Sequence[float] | None = result.metrics.get("confidence", {}).get(name)
    if name.startswith("by_pair."):
        group = result.metrics.get("by_group", {}).get(name.removeprefix("by_pair."), {})
        ends = group.get("overall_confidence")
    return (float(ends[0]), float(ends[1])) if ends else None
