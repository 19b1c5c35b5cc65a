"""`comem report`: runs beside each other and beside the paper, as a page, a figure and JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from comem.config import option, take_paths
from comem.io.console import print_line, print_table
from comem.io.files import write_atomic, write_json
from comem.io.page import render
from comem.io.run_folder import run_manifest
from comem.report.figure import draw_figure
from comem.report.results import Result, cell, find_results, measures, overview, sections

PAGE, FIGURE, NUMBERS = "report.html", "report.png", "report.json"
NOTES = (
    "Brackets: percentile bootstrap over the questions; at 0 or 100 it has no width, however few questions "
    "there were. Official scores follow each benchmark's definition; "
    "what they do with missing predictions differs, so a second figure counts those as wrong.",
    "Shaded rows are copied from the paper (arXiv 2505.17670), each with its table. They were computed by "
    "the authors' scorers and other models: compare them with runs of the same model under --scorer paper.",
)


@dataclass(frozen=True)
class ReportSettings:
    """Runs beside each other and beside the paper's numbers.

    The page opens without a server. Files of comem evaluate --output serve like run folders.

    Attributes:
        runs: run folders, folders of such, or reports.
        output: where the report goes.
        title: its heading.
    """

    runs: tuple[Path, ...] = option(positional=True, metavar="RUN")
    output: Path = option(metavar="DIR")
    title: str = "CoMEM"

    def __post_init__(self) -> None:
        take_paths(self)
        if not self.runs:
            raise ValueError("no runs: give run folders, folders of such, or comem evaluate's --output")


def report(settings: ReportSettings) -> list[Result]:
    """Write report.html, report.png and report.json; what was found.

    Example:
        >>> report(ReportSettings((Path("runs"),), Path("runs/report")))

    Raises:
        ValueError: a path without results.
        StorageError: no space left.
    """
    return write_report(settings.runs, settings.output, settings.title)


def show_report(results: Sequence[Result], settings: ReportSettings) -> None:
    """Print the overview, and where the files are."""
    found = overview(results)
    rows = [(f"{name} · {metric}", *map(cell, values)) for name, metric, values in found.rows]
    labels = (column.label for column in found.columns)
    print_table(("benchmark · metric", *labels), rows, "percent, official scores")
    print_line(f"page: {settings.output / PAGE}")
    if found.rows:
        print_line(f"figure: {settings.output / FIGURE}")


def write_report(
    paths: Iterable[str | Path], folder: str | Path, title: str = "CoMEM", notes: Sequence[str] = ()
) -> list[Result]:
    """`report`, with paragraphs before ours.

    Args:
        paths: run folders, folders of such, or files of `comem evaluate --output`.
        folder: where to; made when missing.
        title: the page's heading.
        notes: paragraphs before ours.
    """
    results, place = find_results(paths), Path(folder)
    found = overview(results)
    figure = draw_figure(found, title) if found.rows else None
    if figure is not None:
        write_atomic(place / FIGURE, figure)
    head = ("benchmark", "metric", *(column.label for column in found.columns))
    rows = [(name, metric, *map(cell, values)) for name, metric, values in found.rows]
    shown = {"overview": {"head": head, "rows": rows}, "sections": sections(results), "figure": figure}
    write_atomic(place / PAGE, render("report", title=title, notes=(*notes, *NOTES), **shown))
    write_json(place / NUMBERS, {"results": [_plain(each) for each in results], "run": run_manifest()})
    return results


def _plain(result: Result) -> dict[str, object]:
    return {
        "benchmark": result.benchmark, "mode": result.mode, "model": result.model, "scorer": result.scorer,
        "place": result.place, "measures": [vars(each) for each in measures(result)],
    }  # fmt: skip
