"""Every fault of a file of training records, with its line, field and remedy."""

from __future__ import annotations

import base64
import gzip
import io
import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any

from comem.io.images import ImageError, open_image
from comem.training.data import TrainingExample, parse_example
from comem.types import ImageRef, KnowledgeItem

#: What an error's text is about: pattern, field, remedy (empty where the text says it).
_FIELDS = (
    (r"field 'id'", "id", "give every record an id of its own"),
    (r"id .* is there already", "id", "rename or remove one of the two"),
    (r"^needs 'question'|^the question ", "question", "give a non-empty text without chat markup"),
    (
        r"^turns |^a turn |^'conversations'",
        "conversations",
        "see the table of fields in docs/training_data.md",
    ),
    (r"^the (id|language|source) must be", r"\1", "give a text, such as a name or a code"),
    (r"^the answer ", "answer", "give a non-empty text without chat markup"),
    (r"knowledge_ids|knowledge id", "knowledge_ids", "give --knowledge FILE with these ids"),
    (r"knowledge item", "knowledge", "give each item 'id' and 'text' or 'image'"),
    (r"^an image is a path", "image", "give a path relative to the file's folder"),
)


@dataclass(frozen=True)
class Fault:
    """What is wrong in a file: line (from 1), field ("" for the whole line), what, and what to do."""

    line: int
    field: str
    problem: str
    remedy: str


@dataclass
class Check:
    """What a file holds: its readable questions, its faults, and counts."""

    path: Path
    examples: list[TrainingExample] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    records: int = 0

    def counts(self) -> dict[str, Any]:
        """Records, readable ones, by language, source and items; pictures, dialogues, distinct items."""
        items = Counter(len(example.items) for example in self.examples)
        return {
            "records": self.records,
            "readable": len(self.examples),
            "faults": len(self.faults),
            "languages": dict(Counter(example.language for example in self.examples).most_common()),
            "sources": dict(Counter(example.source for example in self.examples).most_common()),
            "items_a_question": dict(sorted(items.items())),
            "distinct_items": len({item.id for example in self.examples for item in example.items}),
            "with_picture": sum(bool(example.images) for example in self.examples),
            "dialogues": sum(len(example.turns) > 1 for example in self.examples),
        }


def check_file(
    path: str | Path, table: Mapping[str, KnowledgeItem] | None = None, *, pictures: bool = True,
    progress: Callable[[], object] = lambda: None,
) -> Check:  # fmt: skip
    """Read a file of training records to its end, whatever is wrong with it.

    Args:
        path: JSONL or .jsonl.gz (see `comem.training.data`).
        table: knowledge items by id, for `knowledge_ids`.
        pictures: open every picture, each file once.
        progress: called after every record.

    Raises:
        ValueError: the file holds no record.
        OSError: it cannot be read.
    """
    result, seen = Check(Path(path)), {}  # type: Check, dict[str, int]
    opened: dict[str, str | None] = {}
    for line, raw in _lines(result.path):
        result.records += 1
        try:
            example = parse_example(_object(raw), result.path.parent, table)
            if example.id in seen:
                first = seen[example.id]
                raise ValueError(f"the id {example.id!r} is there already, on line {first}")
        except ValueError as error:
            result.faults.append(_fault(line, str(error)))
        else:
            seen[example.id] = line
            result.examples.append(example)
            if pictures:
                result.faults.extend(_picture_faults(line, example, opened))
        progress()
    if not result.records:
        raise ValueError(f"{path} holds no question; one JSON record a line is expected")
    return result


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
        yield from ((line, raw) for line, raw in enumerate(file, start=1) if raw.strip())


def _object(raw: bytes) -> dict[str, Any]:
    try:
        row = json.loads(raw.decode("utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON in UTF-8 ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(f"not JSON of an object but of {type(row).__name__}")
    return row


def _fault(line: int, problem: str) -> Fault:
    if problem.startswith("not JSON"):
        return Fault(line, "", problem, "repair or remove the line")
    for pattern, name, remedy in _FIELDS:
        if match := re.search(pattern, problem):
            return Fault(line, match.expand(name), problem, remedy)
    return Fault(line, "", problem, "see the table of fields in docs/training_data.md")


def _picture_faults(line: int, example: TrainingExample, opened: dict[str, str | None]) -> Iterator[Fault]:
    """Pictures that do not open: of the turns, and of the items."""
    named = [("image", image) for image in example.images]
    named += [(f"knowledge[{at}].image", item.image) for at, item in enumerate(example.items) if item.image]
    for name, image in named:
        if image.path not in opened:
            opened[str(image.path)] = _why_not(image)
        if problem := opened[str(image.path)]:
            yield Fault(line, name, problem, "put the picture there, or take it out of the record")


def _why_not(image: ImageRef) -> str | None:
    try:
        open_image(image)
    except ImageError as error:
        return str(error)
    return None


def length_statistics(
    examples: list[TrainingExample], length: Callable[[str], int]
) -> dict[str, dict[str, float]]:
    """Lengths of questions, answers and passages (each item once): count, mean, median, 95 %, longest."""
    passages = {item.id: item.text for example in examples for item in example.items}
    turns = list(itertools.chain(*(example.turns for example in examples)))
    texts = {
        "questions": [question for question, _ in turns],
        "answers": [answer for _, answer in turns],
        "passages": [text for text in passages.values() if text],
    }
    return {name: _summary(sorted(map(length, values))) for name, values in texts.items() if values}


def _summary(lengths: list[int]) -> dict[str, float]:
    def rank(part: float) -> int:
        return lengths[min(len(lengths) - 1, int(part * len(lengths)))]

    return {
        "count": len(lengths), "mean": round(fmean(lengths), 1), "median": rank(0.5), "p95": rank(0.95),
        "max": lengths[-1],
    }  # fmt: skip


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
