"""MathVista: mathematics in pictures, by choice or with a number as the answer (1,000 in testmini).

Two published forms: parquet (AI4Math/MathVista: pid, question, image, decoded_image, choices, unit,
precision, answer, question_type, answer_type, metadata, query) and `testmini.json`, `{pid: the same}` with
the pictures in `images/`. Asked is the published query: a hint on the form, the question, its choices.

Officially a language model takes the answer out of a response that is no bare answer. No model is asked here:
taken are bare answers, `The answer is "…".`, boxes and final-answer lines; what has none of these counts as
empty, and is counted (`unextracted`). Files of the official scripts bring their `extraction`, which is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from comem.benchmarks.base import Benchmark, Scorer
from comem.benchmarks.files import (
    DataFiles,
    HubFiles,
    find_parquet,
    locate,
    named_image,
    question_text,
    read_parquet,
)
from comem.benchmarks.scoring import (
    Answers,
    Row,
    Rows,
    ScoreFiles,
    checked_text,
    keyed,
    match,
    mean_report,
    means_by,
)
from comem.benchmarks.text import marked_answer
from comem.io.files import RecordError, read_json, unique
from comem.types import Example, Report

CHOICE = "multi_choice"
#: What metadata is reported by; the paper's table has the tasks.
KEYS = (
    "question_type",
    "answer_type",
    "language",
    "source",
    "category",
    "task",
    "context",
    "grade",
    "skills",
)
_QUOTED = re.compile(r'The answer is "(.*)"\.')
_LETTER = re.compile(r"\(([a-zA-Z])\)")
_ALONE = re.compile(r"\(?([A-Z])\)?[.:]?")


def extract(response: str, row: Row) -> str | None:
    """The answer in a response; None where a language model would be asked.

    Args:
        response: what was said.
        row: its question's.
    """
    said = marked_answer(response)
    text = (response if said is None else said).strip()
    kind, choices = row.get("answer_type"), row.get("choices") or ()
    if not text or (row.get("question_type") == CHOICE and text in choices):
        return text
    for wanted, number in (("integer", int), ("float", float)):
        if kind == wanted:
            try:
                return str(number(text))
            except ValueError:
                pass
    if quoted := _QUOTED.search(text):
        return quoted[1]
    if said is not None:
        return text
    return text if row.get("question_type") == CHOICE and _ALONE.fullmatch(text) else None


def normalized(extraction: str, row: Row) -> str | None:
    """An extracted answer in the form of the accepted one: a choice's text, or a number of its precision."""
    if row.get("question_type") == CHOICE:
        return to_choice(extraction.strip(), [str(each) for each in row.get("choices") or ()])
    try:
        if row.get("answer_type") == "integer":
            return str(int(float(extraction)))
        if row.get("answer_type") == "float":
            return str(round(float(extraction), int(row.get("precision") or 0)))
    except (ValueError, OverflowError):
        return None
    return extraction


def to_choice(text: str, choices: Sequence[str]) -> str:
    """The choice of a letter, else the nearest by edit distance; officially, also for an empty text."""
    if letter := _LETTER.search(text):
        text = letter[1].upper()
    number = ord(text) - ord("A") if len(text) == 1 else -1
    if 0 <= number < len(choices):
        return choices[number]
    return min(choices, key=lambda choice: distance(text, choice))


def distance(first: str, second: str) -> int:
    """Levenshtein's edit distance."""
    line = list(range(len(second) + 1))
    for row, letter in enumerate(first, start=1):
        before, line[0] = line[0], row
        for column, other in enumerate(second, start=1):
            change = before + (letter != other)
            before = line[column]
            line[column] = min(change, before + 1, line[column - 1] + 1)
    return line[-1]


def evaluate(answers: Answers, rows: Rows, benchmark: str = "mathvista") -> Report:
    """The official accuracy of responses (or of the extractions that the rows bring), and by metadata."""
    values, unextracted = {}, 0
    for name in match(answers, rows):
        row = rows[name]
        if not row.get("answer"):
            raise RecordError(
                f"question {name!r} has no answer; the test split is scored by its authors only"
            )
        given = row.get("extraction")
        found = extract(answers[name], row) if given is None else str(given)
        unextracted += found is None
        values[name] = float(normalized(found or "", row) == row["answer"])

    def task(name: str) -> str:
        return str((rows[name].get("metadata") or {}).get("task", ""))

    more: dict[str, Any] = {"by_pair": means_by(values, task), "unextracted": unextracted}
    more |= {f"by_{key}": _by(key, values, rows) for key in KEYS if key != "task"}
    if unextracted:
        more["notes"] = [
            f"{unextracted} responses are no bare answers, and no box or final-answer line is in them: "
            "officially a language model reads them. Run MathVista's extract_answer.py, and score its file"
        ]
    return mean_report(benchmark, "accuracy", values, rows, task, **more)


def _by(key: str, values: Mapping[str, float], rows: Rows) -> dict[str, float]:
    """Accuracy by what a key says; a question counts for each of its skills."""
    parts: dict[str, list[float]] = {}
    for name, value in values.items():
        told = rows[name].get(key, (rows[name].get("metadata") or {}).get(key, ""))
        for each in told if isinstance(told, list) else [told]:
            parts.setdefault(str(each), []).append(value)
    return {name: 100 * sum(part) / len(part) for name, part in sorted(parts.items())}


def read(files: ScoreFiles) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Responses and rows by pid.

    Predictions: the official `{pid: {response, extraction, …}}`, or rows with an id. References:
    `testmini.json`, or the parquet files.
    """
    path, source = files.path("predictions"), files.path("references")
    rows = {
        str(example.meta["pid"]): dict(example.meta) for example in load(DataFiles(source, split=files.split))
    }
    content = read_json(path) if str(path).removesuffix(".gz").endswith(".json") else None
    if not isinstance(content, Mapping):
        said = keyed(path, torn_tail=True)
        outputs = {n: checked_text(r.get("prediction", r.get("response")), n, path) for n, r in said.items()}
        return outputs, rows
    outputs = {}
    for name, row in content.items():
        if not isinstance(row, Mapping) or not isinstance(row.get("response", row.get("extraction")), str):
            raise RecordError(
                f"{path}: {name!r} has neither response nor extraction; expected {{pid: {{…}}}}"
            )
        outputs[name] = str(row.get("response", ""))
        if name in rows and row.get("extraction") is not None:
            rows[name]["extraction"] = row["extraction"]
    return outputs, rows


_COLUMNS = ("pid", "question", "choices", "unit", "precision", "answer", "question_type", "answer_type")
SPLITS = ("testmini", "test")


def load(files: DataFiles) -> Iterator[Example]:
    """Examples of either form; the group is the task."""
    split = files.split or SPLITS[0]
    for row, image, file in _records(files, split):
        yield _example(row, image, file)


def _records(files: DataFiles, split: str) -> Iterator[tuple[dict[str, Any], Any, Path]]:
    path = files.path
    if path.name.endswith((".json", ".json.gz")) or any(path.glob(f"{split}.json*")):
        file = locate(path, (f"{split}.json",))
        rows = read_json(file)
        if not isinstance(rows, Mapping):
            raise RecordError(f"{file}: expected {{pid: question}}, as testmini.json is")
        listed: Iterable[dict[str, Any]] = ({"pid": pid, **row} for pid, row in rows.items())
        for row in unique(listed, "pid", file):
            yield row, named_image(files.images, row.get("image"), file), file
        return
    parts = find_parquet(path, split)
    for row in unique(
        read_parquet(parts, (*_COLUMNS, "decoded_image"), ("metadata", "query")), "pid", parts[0]
    ):
        yield row, named_image(None, row.pop("decoded_image"), parts[0]), parts[0]


def _example(row: dict[str, Any], image: Any, file: Path) -> Example:
    name = str(row["pid"])
    asked = question_text(row, "question", name, file)
    choices = [str(each) for each in row.get("choices") or () if str(each)]
    if row.get("question_type") == CHOICE and len(choices) < 2:
        raise RecordError(f"{file}: {name!r} has no choices")
    metadata = row.get("metadata") or {}
    return Example(
        id=name,
        question=str(row.get("query") or query(row, asked, choices)),
        image=image,
        answers=(str(row["answer"]),) if row.get("answer") else (),
        choices=tuple(choices),
        group=str(metadata.get("task", "")),
        meta={**row, "choices": choices, "data_split": metadata.get("split", "")},
    )


_HINTS = {
    ("integer", ""): "an integer answer and provide the final value, e.g., 1, 2, 3,",
    (
        "float",
        "1",
    ): "a floating-point number with one decimal place and provide the final value, e.g., 1.2, 1.3, 1.4,",
    (
        "float",
        "2",
    ): "a floating-point number with two decimal places and provide the final value, e.g., 1.23, 1.34, 1.45,",
    ("list", ""): "a Python list as an answer and provide the final list, e.g., [1, 2, 3], [1.2, 1.3, 1.4],",
}


def query(row: Row, asked: str, choices: Sequence[str]) -> str:
    """The published query: a hint on the answer's form, the question with its unit, the choices."""
    if row.get("question_type") == CHOICE:
        form = "and provide the correct option letter, e.g., A, B, C, D,"
    else:
        kind = str(row.get("answer_type"))
        precision = str(int(row.get("precision") or 0)) if kind == "float" else ""
        form = f"requiring {_HINTS.get((kind, precision), 'an answer')}"
    unit = f" (Unit: {row['unit']})" if row.get("unit") else ""
    lines = [f"Hint: Please answer the question {form} at the end.", f"Question: {asked}{unit}"]
    if choices:
        lines += ["Choices:", *(f"({chr(ord('A') + at)}) {choice}" for at, choice in enumerate(choices))]
    return "\n".join(lines)


ROW = Benchmark(
    name="mathvista",
    loader=load,
    scorer=Scorer(
        evaluate,
        "lupantech/MathVista, calculate_score.py: equality after normalisation, the nearest choice by edit "
        "distance; extraction by rules, no language model",
        whole=True,
    ),
    reader=read,
    short=lambda text, row: text,
    source="https://huggingface.co/datasets/AI4Math/MathVista, testmini (1,000 questions)",
    licence="CC BY-SA 4.0; pictures: each source's own",
    paper="Lu et al. 2024, ICLR, arXiv 2310.02255",
    style="bare",
    groups="task",
    splits=SPLITS,
    hub=HubFiles("AI4Math/MathVista"),
    files="data/testmini-*.parquet of https://huggingface.co/datasets/AI4Math/MathVista, or "
    "data/testmini.json of https://github.com/lupantech/MathVista",
    images="embedded in the parquet files; with the JSON file images.zip of the same data set",
)
