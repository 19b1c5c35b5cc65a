"""A page with samples of a training file: what the model will be shown."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Sequence
from html import escape

from comem.data.check import Check
from comem.images import ImageError, open_image
from comem.training.dataset import TrainingExample
from comem.types import ImageRef

_SIDE = 160  # pixels of a thumbnail
_HEAD = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:15px sans-serif;max-width:60em;margin:2em auto}}article{{border-top:1px solid #bbb;
padding:1em 0}}img{{max-width:160px;vertical-align:top;margin:4px}}table{{border-collapse:collapse}}
td,th{{padding:2px 10px;text-align:left;vertical-align:top}}small{{color:#666}}</style><h1>{title}</h1>
"""


def page(check: Check, samples: int = 20, seed: int = 0) -> str:
    """HTML with the counts, the faults and a seeded sample of the questions; pictures are embedded."""
    chosen = random.Random(seed).sample(check.examples, min(samples, len(check.examples)))
    facts = [(name, str(value)) for name, value in check.counts().items()]
    parts = [_HEAD.format(title=escape(check.path.name)), _table(("", ""), facts)]
    if check.faults:
        rows = [(str(fault.line), fault.field, fault.problem, fault.remedy) for fault in check.faults]
        parts += ["<h2>Faults</h2>", _table(("line", "field", "problem", "remedy"), rows)]
    return "\n".join([*parts, f"<h2>{len(chosen)} samples</h2>", *map(_article, chosen), "</html>\n"])


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["".join(f"<th>{escape(cell)}</th>" for cell in heading)]
    lines += ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _article(example: TrainingExample) -> str:
    turns = "".join(f"<p>{escape(ask)}<br><b>{escape(answer)}</b></p>" for ask, answer in example.turns)
    items = "".join(
        f"<tr><td>{_thumbnail(item.image) if item.image else ''}</td>"
        f"<td>{escape(item.text[:600])} <small>{escape(item.id)}, {escape(item.language)}</small></td></tr>"
        for item in example.items
    )
    pictures = "".join(map(_thumbnail, example.images))
    about = f"<small>{escape(example.id)}, {escape(example.language)}</small>"
    return f"<article>{about}<br>{pictures}{turns}<table>{items}</table></article>"


def _thumbnail(ref: ImageRef) -> str:
    try:
        image = open_image(ref)
    except ImageError as error:
        return f"<small>[{escape(str(error))}]</small>"
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
