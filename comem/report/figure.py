"""The report's figure: a panel for each benchmark, a bar for each mode, the paper's numbers as marks."""

from __future__ import annotations

import io
import math
from typing import Any

from comem.report.paper_numbers import printed
from comem.report.results import NONE, Column, Measure, Overview

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
    figure = Figure(figsize=(_width(found) * columns + 0.4, 2.9 * lines + 0.9), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title} (percent)", x=0.01, ha="left", fontsize=12, color=INK)
    panels = figure.subplots(lines, columns, squeeze=False).flat
    for (name, metric, values), panel in zip(found.rows, panels, strict=False):
        _panel(panel, name, metric, found.columns, values)
    for panel in list(panels):  # what the last line leaves over
        panel.set_axis_off()
    figure.legend(handles=_legend(), loc="outside lower left", ncols=3, frameon=False, fontsize=9)
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
