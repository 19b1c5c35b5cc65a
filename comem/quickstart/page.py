"""One HTML page with the results and worked examples; it opens without a server or a network."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from comem.io.files import write_atomic
from comem.io.images import ImageError, open_image
from comem.quickstart.result import Answered, Case, Row
from comem.quickstart.table import HEADINGS, cells
from comem.types import ImageRef, KnowledgeItem

SIDE = 320  # longest side of an embedded picture, in pixels
# Control characters and lone surrogates (a model may write anything): not allowed in HTML, or not in UTF-8.
_NOT_HTML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")

STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #15803d; --bad: #b91c1c; }
@media (prefers-color-scheme: dark) { :root { --good: #4ade80; --bad: #f87171; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th:first-child, td:first-child { text-align: left; }
section { border: 1px solid var(--line); border-radius: .5rem; padding: 0 1rem 1rem; margin: 1.5rem 0; }
.row { display: flex; gap: 1rem; flex-wrap: wrap; }
figure { margin: 0; flex: 1 1 13rem; max-width: 18rem; font-size: .85rem; }
figure img { width: 9rem; height: 9rem; object-fit: contain; image-rendering: auto; }
.ask { display: flex; gap: 1rem; align-items: center; font-size: 1.1rem; }
.ask img { width: 9rem; height: 9rem; object-fit: contain; }
.wide { max-width: 100%; }
.right { color: var(--good); } .wrong { color: var(--bad); }
.answers td { text-align: left; overflow-wrap: anywhere; }
.answers td:first-child { min-width: 7rem; } .answers td:nth-child(2) { min-width: 1rem; }
figcaption { overflow-wrap: anywhere; }
@media (max-width: 40rem) { th, td { padding: .3rem .35rem; font-size: .8rem; } }
"""
PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>{style}</style></head>
<body>
{body}
</body>
</html>
"""


def write_page(
    path: str | Path, title: str, notes: Sequence[str], tables: Sequence[tuple[str, Sequence[Row]]],
    figure: str | Path, cases: Sequence[Case],
) -> None:  # fmt: skip
    """Write the page, atomically.

    Args:
        path: the HTML file.
        title: its heading.
        notes: paragraphs under the heading.
        tables: captions and rows.
        figure: a PNG, embedded.
        cases: the worked examples.
    """
    drawn = base64.b64encode(Path(figure).read_bytes()).decode("ascii")
    parts = [f"<h1>{_text(title)}</h1>", *(f"<p>{_text(note)}</p>" for note in notes)]
    parts += [_table(caption, rows) for caption, rows in tables]
    source = f"data:image/png;base64,{drawn}"
    parts.append(f'<img class="wide" alt="accuracy and context tokens per mode" src="{source}">')
    parts.append("<h2>Worked examples</h2>")
    parts += [_case(number, case) for number, case in enumerate(cases, start=1)]
    write_atomic(path, PAGE.format(title=_text(title), style=STYLE, body="\n".join(parts)))


def _text(text: str) -> str:
    """Text as HTML: marked up characters escaped, and those that no page may hold shown as �."""
    return escape(_NOT_HTML.sub("\N{REPLACEMENT CHARACTER}", text))


def _table(caption: str, rows: Sequence[Row]) -> str:
    head = "".join(f"<th>{_text(heading)}</th>" for heading in HEADINGS)
    lines = ("".join(f"<td>{_text(cell)}</td>" for cell in cells(row)) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    count = rows[0].count if rows else 0
    return f"<h2>{_text(caption)} ({count} questions)</h2><table><tr>{head}</tr>{body}</table>"


def _case(number: int, case: Case) -> str:
    example = case.example
    gold = " / ".join(example.answers)
    question = f'<b lang="{_text(example.language)}">{_text(example.question)}</b>'
    ask = f"<div>{question}<br>expected: {_text(gold)}</div>"
    items = "".join(_item(rank, item) for rank, item in enumerate(case.items, start=1))
    answers = "".join(map(_answer, case.answers))
    return (
        f"<section><h3>Example {number}</h3>"
        f'<div class="ask">{_picture(example.image)}{ask}</div>'
        f'<h4>What each mode answered</h4><table class="answers">{answers}</table>'
        f'<h4>What was retrieved, best first</h4><div class="row">{items}</div></section>'
    )


def _answer(answer: Answered) -> str:
    mark, kind = ("✓", "right") if answer.right else ("✗", "wrong")
    text = _text(answer.text.strip()) or "<i>nothing</i>"
    return f'<tr><td>{_text(answer.label)}</td><td class="{kind}">{mark}</td><td>{text}</td></tr>'


def _item(rank: int, item: KnowledgeItem) -> str:
    caption = f"<figcaption><b>{rank}.</b> {_text(item.text)}</figcaption>"
    return f'<figure lang="{_text(item.language)}">{_picture(item.image)}{caption}</figure>'


def _picture(image: ImageRef | None) -> str:
    """The picture itself inside the page, reduced; a word where there is none that can be opened."""
    if image is None:
        return "<span>no picture</span>"
    try:
        picture = open_image(image)
    except ImageError:
        return "<span>picture cannot be read</span>"
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="" src="data:image/png;base64,{data}">'
