"""`comem report`: runs beside each other and beside the paper, as a page and a figure."""

from __future__ import annotations

import argparse
from pathlib import Path

from comem.io.console import make_table, out
from comem.report.page import FIGURE, PAGE, write_report
from comem.report.results import cell, overview

_HELP = """\
examples:
  comem report runs/infoseek-baseline runs/infoseek-comem --output runs/report
  comem report runs --output runs/report
  comem report runs oven-comem.json --output runs/report --title "Qwen2.5-VL-7B"
The page opens without a server. Files of comem evaluate --output serve like run folders.
"""


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `comem report`."""
    parser.epilog = _HELP
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run folder, folder of such, or report"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="where the report goes")
    parser.add_argument("--title", default="CoMEM", help="heading (%(default)s)")


def run_report(args: argparse.Namespace) -> int:
    """Write the report, print the overview."""
    found = overview(write_report(args.runs, args.output, args.title))
    rows = [(f"{name} · {metric}", *(cell(each) for each in values)) for name, metric, values in found.rows]
    labels = (column.label for column in found.columns)
    out().print(make_table(("benchmark · metric", *labels), rows, "percent, official scores"))
    out().print(f"page: {args.output / PAGE}")
    if found.rows:
        out().print(f"figure: {args.output / FIGURE}")
    return 0
