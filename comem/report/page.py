"""The report as one HTML page that opens without a server or a network."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from comem.io.files import write_atomic, write_json
from comem.io.manifest import run_manifest
from comem.report.figure import draw_figure
from comem.report.results import (
    Line,
    Overview,
    Result,
    Section,
    cell,
    find_results,
    measures,
    overview,
    sections,
)

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 84rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin: 2rem 0 .3rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .55rem; border-bottom: 1px solid var(--line); text-align: right; }
th { vertical-align: bottom; line-height: 1.25; }
td { white-space: nowrap; }
th:nth-child(-n+2), td:nth-child(-n+2), td.source { text-align: left; }
tr.paper td { background: var(--soft); font-style: italic; }
td.source { font-size: .8em; white-space: normal; overflow-wrap: anywhere; min-width: 9rem; }
.note { margin: .2rem 0; font-size: .9em; }
img { max-width: 100%; background: white; }
"""
_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>{style}</style></head>
<body>
{body}
</body>
</html>
"""


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
    body = [f"<h1>{escape(title)}</h1>", *(f"<p>{escape(note)}</p>" for note in notes)]
    body.append(_overview(overview))
    if figure is not None:
        source = f"data:image/png;base64,{base64.b64encode(figure).decode('ascii')}"
        body.append(f'<img alt="scores by benchmark and mode, with the paper\'s numbers" src="{source}">')
    body += [_section(part) for part in parts]
    return _PAGE.format(title=escape(title), style=_STYLE, body="\n".join(body))


def _overview(found: Overview) -> str:
    head = ("benchmark", "metric", *(column.label for column in found.columns))
    rows = [(name, metric, *(cell(each) for each in values)) for name, metric, values in found.rows]
    return f"<h2>Benchmarks × modes (percent, official scores)</h2>{_table(head, map(_cells, rows))}"


def _section(part: Section) -> str:
    metrics = (metric.removesuffix(".score") for metric in part.metrics)
    head = ("mode", "model", *metrics, "answered", "context tokens", "s / question", "source")
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in part.notes)
    return f"<h2>{escape(part.benchmark)}</h2>{_table(head, map(_line, part.lines))}{notes}"


def _line(line: Line) -> str:
    values = (line.mode, line.model, *line.cells, line.answered, line.tokens, line.seconds)
    kind = "" if line.ours else ' class="paper"'
    return f'<tr{kind}>{_tds(values)}<td class="source">{escape(line.source)}</td></tr>'


def _cells(values: Sequence[str]) -> str:
    return f"<tr>{_tds(values)}</tr>"


def _tds(values: Sequence[str]) -> str:
    return "".join(f"<td>{escape(value)}</td>" for value in values)


def _table(head: Sequence[str], lines: Iterable[str]) -> str:
    heading = "".join(f"<th>{escape(name).replace('_', '_<wbr>')}</th>" for name in head)
    return f'<div class="scroll"><table><tr>{heading}</tr>{"".join(lines)}</table></div>'


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
