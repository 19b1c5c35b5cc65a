"""The files that scorers read: predictions and references as the benchmarks publish them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from comem.benchmarks.files import is_in_split
from comem.benchmarks.text import extract_answer
from comem.io.jsonl import RecordError, read_json, read_jsonl, unique

log = logging.getLogger(__name__)

#: A published record; records, and answers, by their id.
Row = Mapping[str, Any]
Rows = Mapping[str, Row]
Answers = Mapping[str, str]
#: The names under which benchmarks keep an example's id, and a model's answer.
ID_KEYS = ("data_id", "question_id", "example_id", "id", "ID")
TEXT_KEYS = ("prediction", "answer", "output", "text")


@dataclass(frozen=True)
class ScoreFiles:
    """What `comem evaluate` was given.

    Args:
        predictions: one file, or by part ("query", "entity") where a benchmark has several.
        references: likewise.
        question_types: InfoSeek's separate file of question types.
        whole: compare answers as they stand, without taking them out of boxes and final-answer lines.
        split: only the references of this split; all of them without one.
    """

    predictions: Mapping[str, Path]
    references: Mapping[str, Path]
    question_types: Path | None = None
    whole: bool = False
    split: str | None = None

    def path(self, kind: str, part: str = "") -> Path:
        """The file of a kind ("predictions", "references").

        Raises:
            ValueError: it was not given; names the option.
        """
        found = {"predictions": self.predictions, "references": self.references}[kind].get(part)
        if found is None:
            option = f"--{kind}-{part}" if part else f"--{kind}"
            raise ValueError(f"this benchmark is scored with {option} FILE; it is missing")
        return found

    def answers(self, part: str = "") -> dict[str, str]:
        """The predictions by id (see `read_predictions`)."""
        return read_predictions(self.path("predictions", part), whole=self.whole)

    def reference_rows(
        self, key: str | None = None, part: str = "", rows: Iterable[dict[str, Any]] | None = None
    ) -> dict[str, dict[str, Any]]:
        """The references of the split by their id (see `keyed`).

        Raises:
            RecordError: an id twice or missing, or no reference is in the split; names those that there are.
        """
        path = self.path("references", part)
        return in_split(keyed(path, key, rows=rows), self.split, path)


def read_files(files: ScoreFiles, key: str | None = None) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Answers and reference rows by id, from files of records; `key` names the references' id."""
    return files.answers(), files.reference_rows(key)


def in_split(
    rows: Mapping[str, dict[str, Any]], split: str | None, path: str | Path
) -> dict[str, dict[str, Any]]:
    """The rows of a split: `val_unseen_entity` is in the splits val_unseen_entity, unseen_entity and val.

    Raises:
        RecordError: no row is in it; names the splits that there are.
    """
    if split is None:
        return dict(rows)
    there = {name: str(row.get("data_split", row.get("split", ""))) for name, row in rows.items()}
    found = {name: rows[name] for name, of in there.items() if is_in_split(of, split)}
    if not found:
        known = ", ".join(sorted({of or "no split" for of in there.values()})) or "no references"
        raise RecordError(f"{path}: no reference is in split {split!r}; the file has {known}")
    return found


def read_rows(path: str | Path, *, torn_tail: bool = False) -> Iterator[dict[str, Any]]:
    """The rows of a JSON-lines file, or of a JSON file with a list."""
    name = str(path).removesuffix(".gz")
    if not name.endswith(".json"):
        yield from read_jsonl(path, tolerate_torn_tail=torn_tail)
        return
    rows = read_json(path)
    if not isinstance(rows, list):
        raise RecordError(f"{path}: expected a JSON list of objects, found {type(rows).__name__}")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise RecordError(f"{path}: record {number} is {type(row).__name__}; expected an object")
        yield row


def key_of(row: Mapping[str, Any], keys: tuple[str, ...], path: str | Path, number: int) -> str:
    """The first of the `keys` that a row has."""
    for key in keys:
        if key in row:
            return key
    fields = ", ".join(row) or "no fields"
    raise RecordError(f"{path}: record {number} has none of {', '.join(keys)}; it has {fields}")


def keyed(
    path: str | Path,
    key: str | None = None,
    *,
    torn_tail: bool = False,
    rows: Iterable[dict[str, Any]] | None = None,
) -> dict[str, dict[str, Any]]:
    """The rows of a file by their id, each id once; without a `key`, the first row says which it is.

    Args:
        path: the file.
        key: the field with the id.
        torn_tail: pass over a last line that a crash cut short.
        rows: the rows, where they were read already; `path` is then for messages.
    """
    rows = iter(rows) if rows is not None else read_rows(path, torn_tail=torn_tail)
    first = next(rows, None)
    if first is None:
        return {}
    key = key or key_of(first, ID_KEYS, path, 1)
    return {str(row[key]): row for row in unique(chain([first], rows), key, path)}


def read_predictions(path: str | Path, *, whole: bool = False) -> dict[str, str]:
    """Answer text by example id.

    Args:
        path: JSON lines or a JSON list of objects with an id and an answer.
        whole: the texts as they stand; otherwise the answers in them (`extract_answer`).

    Raises:
        RecordError: an id twice, no id, or an answer that is not text.
    """
    answers: dict[str, str] = {}
    key = None
    for number, (name, row) in enumerate(keyed(path, torn_tail=True).items(), start=1):
        key = key if key is not None and key in row else key_of(row, TEXT_KEYS, path, number)
        answers[name] = checked_text(row[key], name, path)
    return answers if whole else {name: extract_answer(text) for name, text in answers.items()}


def checked_text(value: object, name: str, path: str | Path) -> str:
    """A prediction as text.

    Raises:
        RecordError: null, a number, a list: nothing that a scorer may guess about.
    """
    if not isinstance(value, str):
        kind = "null" if value is None else f"{type(value).__name__} {value!r:.40}"
        raise RecordError(f'{path}: the prediction of {name!r} is {kind}; write text ("" for no answer)')
    return value


def match(predictions: Mapping[str, Any], references: Mapping[str, Any]) -> list[str]:
    """The ids that both have, in the order of the references; strangers are logged.

    Raises:
        ValueError: there is nothing to score.
    """
    if not references:
        raise ValueError("there are no references; check the reference file and the split")
    both = [name for name in references if name in predictions]
    if not both:
        raise ValueError(
            f"none of the {len(predictions)} predictions belongs to one of the {len(references)} references "
            f"(predicted {_some(predictions)}; expected {_some(references)}); check split and benchmark"
        )
    strangers = len(predictions) - len(both)
    if strangers:
        log.warning("%d predictions belong to no reference and are passed over", strangers)
    return both


def _some(names: Mapping[str, Any]) -> str:
    listed = [repr(name) for name, _ in zip(names, range(2), strict=False)]
    return ", ".join(listed) + (", …" if len(names) > 2 else "") if listed else "nothing"
