"""What runs have scored, as the report reads it: from run folders, or from files of `comem evaluate`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comem.benchmarks import BENCHMARKS
from comem.eval.paper_numbers import FieldNumber, Printed, of_field, printed
from comem.io.files import RecordError, read_json

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
        RecordError: it names no benchmark, or is not in the form that `comem evaluate` writes.
    """
    metrics = read_json(file)
    if not isinstance(metrics, Mapping) or "benchmark" not in metrics:
        raise RecordError(
            f"{file}: no report (it names no benchmark); give run folders or metrics.json files"
        )
    run = file.parent / _RUN
    about = read_json(run) if run.is_file() else {}
    try:
        config = about.get("config", {})
        name = str(config.get("benchmark", metrics["benchmark"]))
        model = str(config.get("model", config.get("backbone", "–")))
        result = Result(name, str(config.get("mode", "–")), model, metrics, str(file.parent))
        sections([result])
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise RecordError(
            f"{file}: it, or {_RUN} beside it, is not in the form that comem evaluate writes "
            f"({error!r:.200}); score the run again"
        ) from error
    return result


def _order(benchmark: str) -> tuple[int, str]:
    known = list(BENCHMARKS)
    return (known.index(benchmark) if benchmark in known else len(known), benchmark)


def _mode_order(mode: str) -> tuple[int, str]:
    return (MODES.index(mode) if mode in MODES else len(MODES), mode)


def headline(benchmark: str) -> tuple[str, ...]:
    """The metrics that are shown of a benchmark, the most important first."""
    if benchmark not in BENCHMARKS:
        return ()
    row = BENCHMARKS[benchmark]
    return tuple(dict.fromkeys((*(m for each in row.others.values() for m in each.headline), *row.headline)))


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
        ends = next((value for key, value in group.items() if key.endswith("_confidence")), None)
    return (float(ends[0]), float(ends[1])) if ends else None


NONE = "–"


@dataclass(frozen=True)
class Line:
    """One line of a benchmark's table: who answered, a cell for each metric, what it cost, its source."""

    mode: str
    model: str
    cells: tuple[str, ...]
    answered: str = ""
    tokens: str = ""
    seconds: str = ""
    source: str = ""
    ours: bool = True


@dataclass(frozen=True)
class Section:
    """A benchmark's table; `metrics` head the cells."""

    benchmark: str
    metrics: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]


def sections(results: Sequence[Result], field: bool = False) -> list[Section]:
    """A section for every benchmark, in the order of the results.

    Args:
        results: what was found.
        field: with the numbers that others print.
    """
    names = dict.fromkeys(result.benchmark for result in results)
    return [_section(name, [each for each in results if each.benchmark == name], field) for name in names]


def _section(benchmark: str, results: Sequence[Result], field: bool) -> Section:
    measured = [(result, {each.metric: each for each in measures(result)}) for result in results]
    metrics = tuple(dict.fromkeys(metric for _, found in measured for metric in found))
    if field:
        metrics = tuple(dict.fromkeys((*metrics, *(row.metric for row in of_field(benchmark)))))
    ours = [_line(result, [found.get(metric) for metric in metrics]) for result, found in measured]
    notes = dict.fromkeys(str(note) for result in results for note in result.metrics.get("notes", ()))
    others = of_field(benchmark) if field else []
    lines = (*ours, *_paper_lines(benchmark, metrics), *_field_lines(others, metrics))
    return Section(benchmark, metrics, lines, tuple(notes))


def _line(result: Result, found: Sequence[Measure | None]) -> Line:
    metrics = result.metrics
    mean = metrics.get("mean", {})
    return Line(
        mode=result.mode,
        model=result.model,
        cells=tuple(cell(each) for each in found),
        answered=f"{metrics['answered']} / {metrics['total']}" if "total" in metrics else NONE,
        tokens=f"{mean['context_tokens']:.1f}" if "context_tokens" in mean else NONE,
        seconds=f"{mean['seconds']:.3f}" if "seconds" in mean else NONE,
        source=f"{result.scorer} scorer; {result.place}",
    )


def cell(measure: Measure | None) -> str:
    """A number with its interval, and with missing answers as wrong where that differs."""
    if measure is None:
        return NONE
    text = f"{measure.value:.2f}"
    if measure.interval is not None:
        text += f" [{measure.interval[0]:.1f}, {measure.interval[1]:.1f}]"
    if measure.missing_wrong is not None and abs(measure.missing_wrong - measure.value) >= 0.005:
        text += f"; missing as wrong {measure.missing_wrong:.2f}"
    return text


def _paper_lines(benchmark: str, metrics: Sequence[str]) -> Iterator[Line]:
    """What the paper prints of these metrics, by mode and model; several tables are named together."""
    found: dict[tuple[str, str], dict[str, Printed]] = {}
    for metric in metrics:
        for row in printed(benchmark, metric):
            found.setdefault((row.mode, row.model), {})[metric] = row
    for (mode, model), by_metric in sorted(found.items(), key=lambda each: _rank(*each[0])):
        tables = tuple(dict.fromkeys(row.table for row in by_metric.values()))
        cells = tuple(_printed_cell(by_metric.get(metric), len(tables) > 1) for metric in metrics)
        yield Line(mode, model, cells, source=f"paper, {', '.join(tables)}, as printed", ours=False)


def _field_lines(rows: Sequence[FieldNumber], metrics: Sequence[str]) -> Iterator[Line]:
    """What others print, a line for each model; notes stand beside the source."""
    for model in dict.fromkeys(row.model for row in rows):
        own = {row.metric: row for row in rows if row.model == model}
        cells = tuple(f"{own[metric].value:g}" if metric in own else NONE for metric in metrics)
        said = dict.fromkeys(text for row in own.values() for text in (row.source, row.note) if text)
        yield Line("others", model, cells, source=f"{'; '.join(said)}; as printed", ours=False)


def _printed_cell(row: Printed | None, named: bool) -> str:
    """A printed number, with its table where the line has numbers of several."""
    if row is None:
        return NONE
    return f"{row.value:g} ({row.table})" if named else f"{row.value:g}"


def _rank(mode: str, model: str) -> tuple[int, str, str]:
    return (MODES.index(mode) if mode in MODES else len(MODES), mode, model)


@dataclass(frozen=True)
class Column:
    """A column of the overview: a mode, of one model and one run where there are several."""

    mode: str
    label: str


@dataclass(frozen=True)
class Overview:
    """Benchmarks × modes: a row for each official number of a benchmark, but those of its splits."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, str, tuple[Measure | None, ...]], ...]


def overview(results: Sequence[Result]) -> Overview:
    """The overview; several runs of a benchmark in a mode with a model are told apart by their folders."""
    official = [result for result in results if result.scorer != "paper"]
    several = len({result.model for result in official}) > 1
    variants = _variants(official)
    runs = [
        ((each.mode, each.model if several else "", variant), each)
        for each, variant in zip(official, variants, strict=True)
    ]
    keys = sorted({key for key, _ in runs}, key=lambda key: (*_rank(*key[:2]), _natural(key[2])))
    rows = []
    for name in dict.fromkeys(result.benchmark for result in official):
        own: dict[tuple[str, str, str], dict[str, Measure]] = {}
        for key, each in reversed(runs):  # of one folder, perhaps, by two scorers
            if each.benchmark == name:
                own[key] = own.get(key, {}) | {found.metric: found for found in measures(each)}
        known = dict.fromkeys(metric for key in keys for metric in own.get(key, {}) if "." not in metric)
        for metric in known or (headline(name) or (NONE,))[:1]:
            rows.append((name, metric, tuple(own.get(key, {}).get(metric) for key in keys)))
    columns = (Column(key[0], " · ".join(part for part in key if part)) for key in keys)
    return Overview(tuple(columns), tuple(rows))


def _variants(results: Sequence[Result]) -> list[str]:
    """What tells a run from others of its benchmark, mode and model: the folders in which they differ."""
    groups: dict[tuple[str, str, str], list[tuple[str, ...]]] = {}
    for each in results:
        groups.setdefault((each.benchmark, each.mode, each.model), []).append(Path(each.place).parts)
    found = []
    for each in results:
        parts, others = Path(each.place).parts, groups[each.benchmark, each.mode, each.model]
        differing = [
            part for at, part in enumerate(parts) if any(other[at : at + 1] != (part,) for other in others)
        ]
        found.append("/".join(part for part in differing if part not in (each.benchmark, each.mode)))
    return found


def _natural(text: str) -> list[tuple[int, str]]:
    """A key that sorts items_3 before items_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]
