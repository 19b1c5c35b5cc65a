"""The figure of results: accuracy and context tokens per mode, side by side, as one PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from comem.io.files import write_atomic
from comem.quickstart.result import Row

INK, MUTED = "#1f2937", "#6b7280"
BLUE, ORANGE = "#2563eb", "#d97706"


def draw_figure(rows: Sequence[Row], path: str | Path, title: str) -> None:
    """Write the figure, atomically.

    Raises:
        ValueError: nothing to draw.
    """
    if not rows:
        raise ValueError("the figure needs at least one row")
    # Not pyplot: it would keep the figure in global state and may ask for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 1.5 + 0.5 * len(rows)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=INK)
    left, right = figure.subplots(1, 2, sharey=True)
    accuracy = [100 * row.accuracy for row in rows]
    _bars(left, rows, accuracy, BLUE, "accuracy (%)", "{:.1f}")
    left.set_xlim(0, 112)
    tokens = [row.context_tokens for row in rows]
    _bars(right, rows, tokens, ORANGE, "context tokens per question", "{:.0f}")
    right.set_xlim(0, 1.15 * max(1.0, *tokens))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomic(path, buffer.getvalue())


def _bars(axes: Any, rows: Sequence[Row], values: list[float], colour: str, label: str, form: str) -> None:
    """Horizontal bars, the first row on top, each with its value."""
    places = range(len(rows))
    bars = axes.barh(places, values, height=0.6, color=colour)
    axes.bar_label(bars, labels=[form.format(value) for value in values], padding=3, fontsize=9, color=INK)
    axes.set_yticks(places, [row.label for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(label, color=MUTED)
    axes.tick_params(colors=MUTED, length=0)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
