"""Results as people see them: tables on the terminal, a page and a figure beside the JSON."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from comem.io.files import write_atomic
from comem.profiling.measure import FILE, Results
from comem.profiling.timing import OWN

#: Items, questions at once, context tokens, time to first token, decoded tokens and questions a second.
HEADINGS = (
    "mode", "k", "b", "engine", "context", "TTFT", "p95", "× plain", "tokens/s", "q/s", "peak", "TFLOP",
)  # fmt: skip
#: Columns that a terminal has room for.
SHORT = ("mode", "k", "b", "TTFT", "× plain", "tokens/s", "q/s", "peak")
Row = Mapping[str, Any]


def table_rows(rows: Iterable[Row]) -> list[tuple[str, ...]]:
    """A line for each cell; one that was skipped says why instead of its first token."""
    rows = list(rows)
    measured = (row for row in rows if row["mode"] == "baseline" and "repeats" in row)
    plain = {(row["engine"], row["batch"]): row["first_token_seconds"]["p50"] for row in measured}
    return [_line(row, plain.get((row["engine"], row["batch"]))) for row in rows]


def _line(row: Row, plain: float | None) -> tuple[str, ...]:
    head = (row["mode"], str(row["k"]), str(row["batch"]), row["engine"], f"{row['context_tokens']:,}")
    operations = f"{sum(row['flops'].values()) / 1e12:,.4g}"
    if "skipped" in row:
        return (*head, row["skipped"], "", "", "", "", "", operations)
    first, peak = row["first_token_seconds"], row["peak_bytes"]
    ratio = "" if plain is None else f"{first['p50'] / plain:.2f}"
    speeds = f"{row['decode_tokens_per_second']['p50']:,.1f}", f"{row['questions_per_second']['p50']:,.3g}"
    used = "–" if peak is None else f"{peak / 2**30:.2f} GB"
    return (*head, duration(first["p50"]), duration(first["p95"]), ratio, *speeds, used, operations)


def short(lines: Iterable[Sequence[str]], engine: str) -> list[tuple[str, ...]]:
    """The lines of one engine, with the columns `SHORT`."""
    columns, own = [HEADINGS.index(name) for name in SHORT], HEADINGS.index("engine")
    return [tuple(line[column] for column in columns) for line in lines if line[own] == engine]


def duration(seconds: float) -> str:
    """Milliseconds below a second."""
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table for a page."""
    lines = [headings, ["---"] + ["---:"] * (len(headings) - 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def title(results: Results) -> str:
    """Model, dtype and device."""
    head = results.header
    return f"{head['backbone']}, {head['dtype']}, {head['device']}"


def tables(results: Results) -> Iterator[tuple[str, Sequence[str], list[tuple[str, ...]]]]:
    """Title, headings and lines: a table for each engine, and the longest operations of each traced path."""
    rows = list(results.rows.values())
    for engine in dict.fromkeys(row["engine"] for row in rows):
        yield f"{title(results)}, engine {engine}", SHORT, short(table_rows(rows), engine)
    for name, found in results.header.get("traces", {}).items():
        lines: list[tuple[str, ...]] = [
            (each["name"][:60], str(each["calls"]), f"{each['milliseconds']:.2f}")
            for each in found["operations"][:8]
        ]
        yield f"{name}: {found['total_milliseconds']:.1f} ms", ("operation", "calls", "ms"), lines


def files(folder: Path) -> dict[str, Path]:
    """Where everything is, by what it holds; there is no figure where no cell was measured."""
    return {"results": folder / FILE, "table": folder / "profile.md", "figure": folder / "profile.png"}


def save(results: Results, folder: Path) -> None:
    """Write the table with all columns, and the figure."""
    rows = list(results.rows.values())
    write_atomic(files(folder)["table"], markdown(HEADINGS, table_rows(rows)))
    if any("repeats" in row for row in rows):
        write_atomic(files(folder)["figure"], draw_figure(rows, title(results)))


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
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), dpi=110, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=_INK)
    panels = figure.subplots(2, 2)
    one = min(row["batch"] for row in rows)
    ten = min((row["k"] for row in rows if row["k"]), key=lambda k: abs(k - 10), default=0)
    by_items = [row for row in rows if row["batch"] == one]
    by_batch = [row for row in rows if row["k"] in (0, ten)]
    _panel(panels[0, 0], by_items, "k", "first_token_seconds", f"seconds to first token, batch {one}")
    _panel(panels[0, 1], by_batch, "batch", "questions_per_second", f"questions a second, k = {ten}")
    _panel(panels[1, 0], by_batch, "batch", "decode_tokens_per_second", f"decoded tokens a second, k = {ten}")
    _panel(panels[1, 1], by_items, "k", "peak_bytes", f"peak memory in GB, batch {one}")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=4, frameon=False, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _spread(row: Row, y: str) -> tuple[float, float]:
    """p50 and p95; of memory, in GB, twice the one number."""
    if y == "peak_bytes":
        return ((float("nan") if row[y] is None else row[y] / 2**30),) * 2
    return row[y]["p50"], row[y]["p95"]


def _panel(panel: Any, rows: Sequence[Row], x: str, y: str, title: str) -> None:
    """A line for each mode and engine, with a mark up to p95; the baseline is level over the items."""
    engines = list(dict.fromkeys(row["engine"] for row in rows))
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    for mode, engine in dict.fromkeys((m, e) for m in modes for e in engines):
        own = [row for row in rows if (row["mode"], row["engine"]) == (mode, engine)]
        found = sorted((row[x], *_spread(row, y)) for row in own)
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
