"""The results as a table of text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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
    plain: dict[tuple[str, int], float] = {}
    for row in rows:
        if row["mode"] == "baseline" and "repeats" in row:
            plain[row["engine"], row["batch"]] = row["first_token_seconds"]["p50"]
    return [_line(row, plain.get((row["engine"], row["batch"]))) for row in rows]


def _line(row: Row, plain: float | None) -> tuple[str, ...]:
    head = (row["mode"], str(row["k"]), str(row["batch"]), row["engine"], f"{row['context_tokens']:,}")
    operations = f"{sum(row['flops'].values()) / 1e12:,.4g}"
    if "skipped" in row:
        return (*head, row["skipped"], "", "", "", "", "", operations)
    first, peak = row["first_token_seconds"], row["peak_bytes"]
    return (
        *head,
        duration(first["p50"]),
        duration(first["p95"]),
        "" if plain is None else f"{first['p50'] / plain:.2f}",
        f"{row['decode_tokens_per_second']['p50']:,.1f}",
        f"{row['questions_per_second']['p50']:,.3g}",
        "–" if peak is None else f"{peak / 2**30:.2f} GB",
        operations,
    )


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
