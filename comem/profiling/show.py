"""Results as people see them: tables on the terminal, a page and a figure beside the JSON."""

from __future__ import annotations

from pathlib import Path

from comem.console import make_table, out
from comem.profiling.figure import draw_figure
from comem.profiling.results import Results
from comem.profiling.table import HEADINGS, SHORT, markdown, short, table_rows
from comem.records import write_atomic


def title(results: Results) -> str:
    """Model, dtype and device."""
    head = results.header
    return f"{head['backbone']}, {head['dtype']}, {head['device']}"


def show_tables(results: Results) -> None:
    """A table for each engine."""
    rows = list(results.rows.values())
    lines = table_rows(rows)
    for engine in dict.fromkeys(row["engine"] for row in rows):
        out().print(make_table(SHORT, short(lines, engine), f"{title(results)}, engine {engine}"))


def save_table(results: Results, folder: Path) -> Path:
    """`profile.md`, with all columns."""
    path = folder / "profile.md"
    write_atomic(path, markdown(HEADINGS, table_rows(results.rows.values())))
    return path


def save_figure(results: Results, folder: Path) -> Path | None:
    """`profile.png`; none where no cell was measured."""
    rows = list(results.rows.values())
    if not any("repeats" in row for row in rows):
        return None
    path = folder / "profile.png"
    write_atomic(path, draw_figure(rows, title(results)))
    return path


def show_traces(results: Results) -> None:
    """The longest operations of each traced path."""
    for name, found in results.header.get("traces", {}).items():
        lines = [
            (each["name"][:60], str(each["calls"]), f"{each['milliseconds']:.2f}")
            for each in found["operations"][:8]
        ]
        heading = f"{name}: {found['total_milliseconds']:.1f} ms"
        out().print(make_table(("operation", "calls", "ms"), lines, heading))
