"""Reports as tables on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from comem.io.console import print_line, print_table
from comem.types import Report

#: Shown elsewhere, or only in the JSON.
_NOT_ROWS = ("notes", "confidence", "scorer", "definition", "by_group", "by_language")
_COUNTS = ("answered", "total")


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
