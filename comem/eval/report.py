"""The report's figure: a panel for each benchmark, a bar for each mode, the paper's numbers as marks."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comem.config import option, take_paths
from comem.eval.paper_numbers import printed
from comem.eval.results import (
    NONE,
    Column,
    Measure,
    Overview,
    Result,
    cell,
    find_results,
    measures,
    overview,
    sections,
)
from comem.io.console import print_line, print_table
from comem.io.files import write_atomic, write_json
from comem.io.page import render
from comem.io.run_folder import run_manifest

INK, MUTED = "#1f2937", "#6b7280"
COLOURS = {"baseline": "#94a3b8", "rag": "#d97706", "comem": "#2563eb", "vlm_as_memory": "#059669"}
_OTHER = "#7c3aed"
#: The paper's models that are marked, and how.
MARKS = {"Qwen2.5-VL": ("D", "#111827"), "Qwen2-VL": ("o", "#be123c")}
_COLUMNS = 4


def draw_figure(found: Overview, title: str) -> bytes:
    """The figure as PNG.

    Raises:
        ValueError: nothing to draw.
    """
    if not found.rows:
        raise ValueError("the figure needs at least one benchmark with an official score")
    # Not pyplot: it would keep the figure in global state and may ask for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(found.rows))
    lines = math.ceil(len(found.rows) / columns)
    figure = Figure(figsize=(_width(found) * columns + 0.4, 2.9 * lines + 1.3), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title} (percent)", x=0.01, ha="left", fontsize=12, color=INK)
    panels = figure.subplots(lines, columns, squeeze=False).flat
    for (name, metric, values), panel in zip(found.rows, panels, strict=False):
        _panel(panel, name, metric, found.columns, values)
    for panel in list(panels):  # what the last line leaves over
        panel.set_axis_off()
    entries = _legend()
    beside = max(1, int(figure.get_figwidth() // (1 + max(len(each.get_label()) for each in entries) / 14)))
    figure.legend(handles=entries, loc="outside lower left", ncols=beside, frameon=False, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _width(found: Overview) -> float:
    """A panel's width in inches: wider where many runs stand side by side."""
    return max(3.4, 0.85 * len(found.columns))


def _panel(
    panel: Any, name: str, metric: str, columns: tuple[Column, ...], values: tuple[Measure | None, ...]
) -> None:
    """One benchmark: bars with intervals, and the paper's marks over the same modes."""
    for place, (column, found) in enumerate(zip(columns, values, strict=True)):
        if found is not None:
            panel.bar(place, found.value, width=0.62, color=COLOURS.get(column.mode, _OTHER))
        if found is not None and found.interval is not None:
            panel.vlines(place, *found.interval, color=INK, linewidth=1.2)
        for row in printed(name, metric):
            if row.mode == column.mode and row.model in MARKS:
                shape, colour = MARKS[row.model]
                panel.plot(place, row.value, shape, markersize=5, markerfacecolor="none", color=colour)
    panel.set_ylim(0, 105)
    panel.set_xticks(range(len(columns)), list(map(_label, columns, values)), fontsize=8)
    panel.set_title(f"{name} · {metric.removesuffix('.score')}", fontsize=9, loc="left", color=INK)
    panel.tick_params(colors=MUTED, length=0, labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)


def _label(column: Column, found: Measure | None) -> str:
    name = column.label.replace("_as_", "\nas ").replace(" · ", "\n")
    return f"{name}\n{NONE if found is None else f'{found.value:.1f}'}"


def _legend() -> list[Any]:
    from matplotlib.lines import Line2D

    handles: list[Any] = [Line2D([], [], color=INK, linewidth=1.2, label="bootstrap interval")]
    for model, (shape, colour) in MARKS.items():
        label = f"printed in the paper: {model}"
        handles.append(
            Line2D([], [], color=colour, marker=shape, markerfacecolor="none", linestyle="", label=label)
        )
    return handles


PAGE, FIGURE, NUMBERS = "report.html", "report.png", "report.json"
NOTES = (
    "Brackets: percentile bootstrap over the questions; at 0 or 100 it has no width, however few questions "
    "there were. Official scores follow each benchmark's definition; "
    "what they do with missing predictions differs, so a second figure counts those as wrong.",
    "Shaded rows are copied from the paper (arXiv 2505.17670), each with its table. They were computed by "
    "the authors' scorers and other models: compare them with runs of the same model under --scorer paper.",
)
FIELD_NOTE = (
    "Lines of others are printed numbers of other models, retrievers and knowledge bases, and of splits and "
    "columns that differ where it is said: they show where the field stands, they rank nobody."
)


@dataclass(frozen=True)
class ReportSettings:
    """Runs beside each other and beside the paper's numbers.

    The page opens without a server. Files of comem evaluate --output serve like run folders.

    Attributes:
        runs: run folders, folders of such, or reports.
        output: where the report goes.
        title: its heading.
        field: with the numbers that others print about knowledge-based VQA, each with its source.
    """

    runs: tuple[Path, ...] = option(positional=True, metavar="RUN")
    output: Path = option(metavar="DIR")
    title: str = "CoMEM"
    field: bool = False

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
    return write_report(settings.runs, settings.output, settings.title, field=settings.field)


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
    paths: Iterable[str | Path],
    folder: str | Path,
    title: str = "CoMEM",
    notes: Sequence[str] = (),
    field: bool = False,
) -> list[Result]:
    """`report`, with paragraphs before ours.

    Args:
        paths: run folders, folders of such, or files of `comem evaluate --output`.
        folder: where to; made when missing.
        title: the page's heading.
        notes: paragraphs before ours.
        field: with the numbers that others print.
    """
    results, place = find_results(paths), Path(folder)
    found = overview(results)
    figure = draw_figure(found, title) if found.rows else None
    if figure is not None:
        write_atomic(place / FIGURE, figure)
    head = ("benchmark", "metric", *(column.label for column in found.columns))
    rows = [(name, metric, *map(cell, values)) for name, metric, values in found.rows]
    shown = {"overview": {"head": head, "rows": rows}, "sections": sections(results, field), "figure": figure}
    write_atomic(
        place / PAGE,
        render("report", title=title, notes=(*notes, *NOTES, *((FIELD_NOTE,) if field else ())), **shown),
    )
    write_json(place / NUMBERS, {"results": [_plain(each) for each in results], "run": run_manifest()})
    return results


def _plain(result: Result) -> dict[str, object]:
    return {
        "benchmark": result.benchmark, "mode": result.mode, "model": result.model, "scorer": result.scorer,
        "place": result.place, "measures": [vars(each) for each in measures(result)],
    }  # fmt: skip
