"""The report as one HTML page that opens without a server or a network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from comem.io.files import write_atomic, write_json
from comem.io.manifest import run_manifest
from comem.io.page import render
from comem.report.figure import draw_figure
from comem.report.results import (
    Overview,
    Result,
    Section,
    cell,
    find_results,
    measures,
    overview,
    sections,
)


def page(
    title: str, notes: Sequence[str], overview: Overview, parts: Sequence[Section], figure: bytes | None
) -> str:
    """The page.

    Args:
        title: its heading.
        notes: paragraphs under the heading.
        overview: benchmarks × modes.
        parts: the benchmarks' tables.
        figure: a PNG, embedded.
    """
    head = ("benchmark", "metric", *(column.label for column in overview.columns))
    rows = [(name, metric, *map(cell, values)) for name, metric, values in overview.rows]
    shown = {"overview": {"head": head, "rows": rows}, "sections": parts, "figure": figure}
    return render("report", title=title, notes=notes, **shown)


PAGE, FIGURE, NUMBERS = "report.html", "report.png", "report.json"
NOTES = (
    "Brackets: percentile bootstrap over the questions; at 0 or 100 it has no width, however few questions "
    "there were. Official scores follow each benchmark's definition; "
    "what they do with missing predictions differs, so a second figure counts those as wrong.",
    "Shaded rows are copied from the paper (arXiv 2505.17670), each with its table. They were computed by "
    "the authors' scorers and other models: compare them with runs of the same model under --scorer paper.",
)


def write_report(
    paths: Iterable[str | Path], folder: str | Path, title: str = "CoMEM", notes: Sequence[str] = ()
) -> list[Result]:
    """Write report.html, report.png and report.json.

    Args:
        paths: run folders, folders of such, or files of `comem evaluate --output`.
        folder: where to; made when missing.
        title: the page's heading.
        notes: paragraphs before ours.

    Returns:
        What was found.

    Raises:
        ValueError: a path without results.
        StorageError: no space left.
    """
    results, place = find_results(paths), Path(folder)
    found = overview(results)
    drawn = draw_figure(found, title) if found.rows else None
    if drawn is not None:
        write_atomic(place / FIGURE, drawn)
    write_atomic(place / PAGE, page(title, (*notes, *NOTES), found, sections(results), drawn))
    write_json(place / NUMBERS, {"results": [_plain(each) for each in results], "run": run_manifest()})
    return results


def _plain(result: Result) -> dict[str, object]:
    return {
        "benchmark": result.benchmark, "mode": result.mode, "model": result.model, "scorer": result.scorer,
        "place": result.place, "measures": [vars(each) for each in measures(result)],
    }  # fmt: skip
