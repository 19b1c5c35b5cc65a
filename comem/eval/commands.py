"""`comem evaluate`: score a benchmark's files as they stand, without torch."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from comem.benchmarks.score_files import ScoreFiles
from comem.benchmarks.statistics import Bootstrap
from comem.eval.score import SCORER_SETS, SCORERS, comparison, score_files
from comem.eval.show import show, show_comparison
from comem.io.files import write_json

__all__ = ["add_evaluate_arguments", "run_evaluate", "show"]

_PARTS = ("query", "entity")


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `comem evaluate`."""
    parser.description = (
        "Score predictions by the benchmark's official definition, or as the paper's code did."
    )
    parser.add_argument("benchmark", metavar="BENCHMARK", help=f"one of: {', '.join(SCORERS)}")
    for kind in ("predictions", "references", "compare"):
        for part in ("", *_PARTS):
            option, only = (f"-{part}", " (oven)") if part else ("", "")
            what = "predictions of another run, to compare with" if kind == "compare" else kind
            text = f"{f'the {part} set: ' if part else ''}{what}{only}"
            parser.add_argument(f"--{kind}{option}", type=Path, metavar="FILE", help=text)
    parser.add_argument("--question-types", type=Path, metavar="FILE", help="InfoSeek's question types")
    parser.add_argument("--split", metavar="NAME", help="only the references of this split")
    parser.add_argument(
        "--scorer", default="official", metavar="NAME",
        help=f"{' or '.join(SCORER_SETS)} (%(default)s); paper: as the authors' code computed, bugs included",
    )  # fmt: skip
    parser.add_argument(
        "--whole", action="store_true",
        help="compare whole texts: take no answer out of boxes and final-answer lines",
    )  # fmt: skip
    parser.add_argument(
        "--bootstrap", type=int, default=1000, metavar="N", help="draws for intervals (%(default)s; 0: none)"
    )
    parser.add_argument(
        "--level", type=float, default=95.0, metavar="PERCENT", help="of intervals (%(default)g)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of intervals (%(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the report as JSON here")


def run_evaluate(args: argparse.Namespace) -> int:
    """Score, compare, print the tables, write the JSON.

    Raises:
        ValueError: an unknown benchmark, a missing option, or a file that cannot be scored.
    """
    row = SCORER_SETS[args.scorer][args.benchmark]
    bootstrap = Bootstrap(args.bootstrap, args.level, args.seed)
    files = ScoreFiles(
        predictions=_given(args, "predictions"),
        references=_given(args, "references"),
        question_types=args.question_types,
        whole=args.whole,
        split=args.split,
    )
    report = score_files(args.benchmark, files, args.scorer, bootstrap)
    result: dict[str, Any] = {"benchmark": report.benchmark, "count": report.count, **report.metrics}
    others = _given(args, "compare")
    if others:
        other = score_files(args.benchmark, _compared(files, others), args.scorer, Bootstrap(0))
        result["comparison"] = comparison(report, other, bootstrap)
    show(report, row)
    if others:
        show_comparison(result["comparison"], bootstrap.level)
    if args.output is not None:
        write_json(args.output, result)
    return 0


def _compared(files: ScoreFiles, others: dict[str, Path]) -> ScoreFiles:
    """The other run's files; references that lie in the first run's predictions serve it, too."""
    return dataclasses.replace(files, predictions=others, references=files.references or files.predictions)


def _given(args: argparse.Namespace, kind: str) -> dict[str, Path]:
    options = {"": kind, **{part: f"{kind}_{part}" for part in _PARTS}}
    return {part: getattr(args, name) for part, name in options.items() if getattr(args, name) is not None}
