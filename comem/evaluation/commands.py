"""`comem evaluate`: score a benchmark's files as they stand, without torch."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from comem.evaluation.files import ScoreFiles
from comem.evaluation.scorers import SCORERS, Scorer
from comem.records import write_json
from comem.types import Report

_PARTS = ("query", "entity")


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `comem evaluate`."""
    parser.description = "Score predictions by the benchmark's official definition."
    parser.add_argument("benchmark", metavar="BENCHMARK", help=f"one of: {', '.join(SCORERS)}")
    for part in ("", *_PARTS):
        option, only = (f"-{part}", " (oven)") if part else ("", "")
        for kind in ("predictions", "references"):
            text = f"the {part or 'benchmark'}'s {kind}{only}"
            parser.add_argument(f"--{kind}{option}", type=Path, metavar="FILE", help=text)
    parser.add_argument("--question-types", type=Path, metavar="FILE", help="InfoSeek's question types")
    parser.add_argument(
        "--whole", action="store_true",
        help="compare whole texts: take no answer out of boxes and final-answer lines",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the report as JSON here")


def run_evaluate(args: argparse.Namespace) -> int:
    """Score, print the table, write the JSON.

    Raises:
        ValueError: an unknown benchmark, a missing option, or a file that cannot be scored.
    """
    scorer = SCORERS[args.benchmark]
    files = ScoreFiles(
        predictions=_given(args, "predictions"),
        references=_given(args, "references"),
        question_types=args.question_types,
        whole=args.whole,
    )
    report = scorer.evaluate(files)
    show(report, scorer)
    if args.output is not None:
        write_json(args.output, {"benchmark": report.benchmark, "count": report.count, **report.metrics})
    return 0


def _given(args: argparse.Namespace, kind: str) -> dict[str, Path]:
    options = {"": kind, **{part: f"{kind}_{part}" for part in _PARTS}}
    return {part: getattr(args, name) for part, name in options.items() if getattr(args, name) is not None}


def show(report: Report, scorer: Scorer) -> None:
    """Print a report as a table, the headline figures first."""
    from rich.console import Console
    from rich.table import Table as RichTable

    table = RichTable(title=f"{report.benchmark}: {report.count} references", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    names = [*scorer.headline, *(name for name in report.metrics if name not in scorer.headline)]
    for name in names:
        for label, value in _rows(name, report.metrics.get(name)):
            table.add_row(label, value)
    console = Console()
    console.print(table)
    console.print(f"definition: {scorer.definition}", highlight=False)
    for note in report.metrics.get("notes", ()):
        console.print(f"note: {note}", style="yellow", highlight=False)


def _rows(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """The table rows of one metric; nested ones are indented below their name."""
    if name == "notes" or value is None:
        return
    if not isinstance(value, Mapping):
        yield name, f"{value:.2f}" if isinstance(value, float) else str(value)
        return
    scalars = {key: item for key, item in value.items() if not isinstance(item, Mapping)}
    if scalars:
        yield name, ""
        for key, item in scalars.items():
            yield f"  {key}", f"{item:.2f}" if isinstance(item, float) else str(item)
    for key, item in value.items():
        if isinstance(item, Mapping):
            counts = f" ({item['answered']}/{item['total']})" if "total" in item else ""
            yield f"{name} · {key}{counts}", f"{item['accuracy']:.2f}" if "accuracy" in item else ""
