"""The results as a figure: what knowledge costs, by items and by questions at once."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from comem.profiling.cells import OWN

Row = Mapping[str, Any]
COLOURS = {"baseline": "#64748b", "rag": "#d97706", "comem": "#2563eb", "comem-bank": "#059669"}
_OTHERS = ("#be123c", "#7c3aed", "#0e7490")
_INK, _MUTED = "#1f2937", "#6b7280"
_DASHES = ("-", "--", ":")


def draw_figure(rows: Sequence[Row], title: str) -> bytes:
    """The figure as PNG.

    Raises:
        ValueError: no cell has figures.
    """
    rows = [row for row in rows if "repeats" in row]
    if not rows:
        raise ValueError("no cell was measured: nothing to draw")
    # Not pyplot: it would keep the figure in global state and may ask for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=_INK)
    panels = figure.subplots(2, 2)
    one = min(row["batch"] for row in rows)
    ten = min((row["k"] for row in rows if row["k"]), key=lambda k: abs(k - 10), default=0)
    by_items = [row for row in rows if row["batch"] == one]
    by_batch = [row for row in rows if row["k"] in (0, ten)]
    _panel(panels[0, 0], by_items, "k", "first_token_seconds", f"seconds to first token, batch {one}")
    _panel(panels[0, 1], by_batch, "batch", "questions_per_second", f"questions a second, k = {ten}")
    _panel(panels[1, 0], by_batch, "batch", "decode_tokens_per_second", f"decoded tokens a second, k = {ten}")
    _panel(panels[1, 1], by_items, "k", "peak_bytes", f"peak memory in GB, batch {one}", _gigabytes)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=4, frameon=False, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _gigabytes(value: Any) -> tuple[float, float]:
    return (value / 2**30, value / 2**30) if value is not None else (float("nan"), float("nan"))


def _spread(value: Mapping[str, float]) -> tuple[float, float]:
    return value["p50"], value["p95"]


def _panel(
    panel: Any, rows: Sequence[Row], x: str, y: str, title: str, read: Callable[[Any], Any] = _spread
) -> None:
    """A line for each mode and engine, with a mark up to p95; the baseline is level over the items."""
    engines = list(dict.fromkeys(row["engine"] for row in rows))
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    for mode in modes:
        for engine in engines:
            found = sorted(
                (row[x], *read(row[y])) for row in rows if (row["mode"], row["engine"]) == (mode, engine)
            )
            if not found:
                continue
            style = {"color": _colour(mode, modes), "linestyle": _DASHES[engines.index(engine) % 3]}
            label = mode if len(engines) == 1 or engine == OWN else f"{mode} ({engine})"
            if mode == "baseline" and x == "k":
                panel.axhline(found[0][1], label=label, linewidth=1.4, **style)
                continue
            places, middle, high = zip(*found, strict=True)
            panel.plot(places, middle, marker="o", markersize=4, linewidth=1.4, label=label, **style)
            panel.vlines(places, middle, high, color=style["color"], linewidth=1)
    _scale(panel, y)
    ticks = sorted({row[x] for row in rows} - {0})
    panel.set_xticks(ticks, map(str, ticks))
    panel.set_xlabel({"k": "items a question", "batch": "questions at once"}[x], fontsize=9, color=_MUTED)
    panel.set_title(title, fontsize=10, loc="left", color=_INK)
    panel.tick_params(colors=_MUTED, labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)


def _scale(panel: Any, y: str) -> None:
    """Logarithmic with plain numbers, but for memory, which starts at zero."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    if y == "peak_bytes":
        panel.set_ylim(0, 1.1 * panel.get_ylim()[1])
        return
    panel.set_yscale("log")
    low, high = panel.get_ylim()
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    panel.yaxis.set_major_formatter(plain)
    panel.yaxis.set_minor_formatter(plain if high / low < 10 else NullFormatter())


def _colour(mode: str, modes: Sequence[str]) -> str:
    others = [name for name in modes if name not in COLOURS]
    return COLOURS[mode] if mode in COLOURS else _OTHERS[others.index(mode) % len(_OTHERS)]
