"""Encyclopedic-VQA's exact match, and its published CSV files.

The official score (google-research/encyclopedic_vqa, evaluation_utils.py) takes an answer as right when it
matches exactly, and asks BEM, a BERT model, about the others. Here only the exact match is computed, as there
without BEM: a lower bound of the official score. Its table of contractions is left out: apostrophes are
deleted before it is looked up, so it can make no two texts equal that were not.
"""

from __future__ import annotations

import csv
import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from comem.evaluation.files import ScoreFiles, match, read_predictions
from comem.evaluation.statistics import scores_of
from comem.records import RecordError
from comem.types import Report

NOTE = "exact match only: the official score also asks BEM (a BERT model) about answers that do not match"
COLUMNS = ("question", "answer", "question_type", "dataset_name", "dataset_image_ids")
TYPES = ("templated", "automatic", "multi_answer", "2_hop")
#: A list is right from this intersection over union on.
IOU = 0.5

_DELETED = str.maketrans("", "", string.punctuation + "‘’´`_")
_PREFIX = re.compile(r"\b(the answer is|a|an|the)\b")
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_WORDS = {word: str(number) for number, word in enumerate(_NUMBERS)}
_WORDS |= {"none": "0", "entailment": "yes", "true": "yes", "contradiction": "no", "false": "no"}


@lru_cache(maxsize=100_000)  # accepted answers repeat
def process(text: str) -> str:
    """Lower case, without punctuation and articles, numerals as digits, single spaces."""
    text = text.lower().replace("\n", " ").replace("\t", " ").strip().translate(_DELETED)
    return " ".join(_WORDS.get(word, word) for word in _PREFIX.sub(" ", text).split())


def accepted(row: Mapping[str, Any], name: str) -> list[str]:
    """The accepted answers of a row, several where several people answered; a list's parts lie between "&&".

    Raises:
        RecordError: it has none.
    """
    found = [text for one in str(row.get("answer") or "").split("|") if (text := one.strip(" &"))]
    if not found:
        raise RecordError(f"question {name!r} has no answer")
    return found


def is_right(prediction: str, answers: Sequence[str], listed: bool) -> bool:
    """Whether a short answer matches one of the accepted ones; `listed`: they are lists of things."""
    if not listed:
        said = process(prediction)
        return bool(said) and any(process(answer) == said for answer in answers)
    given = _parts(prediction.replace(" and ", ",").replace(" & ", ",").split(","))
    wanted = [_parts(answer.split("&&")) for answer in answers]
    return any(each and len(each & given) / len(each | given) >= IOU for each in wanted)


def _parts(texts: Iterable[str]) -> set[str]:
    return {found for text in texts if (found := process(text))}


def evaluate(
    predictions: Mapping[str, str], rows: Mapping[str, Mapping[str, Any]], benchmark: str = "evqa"
) -> Report:
    """Score short answers by id against the CSV's rows by id."""
    kinds = {name: str(row.get("question_type", "")) for name, row in rows.items()}
    earned = {
        name: float(
            is_right(predictions[name], accepted(rows[name], name), kinds[name] == "multi_answer")
        )
        for name in match(predictions, rows)
    }  # fmt: skip
    by_type: dict[str, list[float]] = {}
    for name, value in earned.items():
        by_type.setdefault(kinds[name], []).append(value)
    metrics = {
        "exact_match": 100 * sum(earned.values()) / len(earned),
        "by_question_type": {kind: 100 * sum(found) / len(found) for kind, found in sorted(by_type.items())},
        "exact_match_missing_wrong": 100 * sum(earned.values()) / len(rows),
        "answered": len(earned), "total": len(rows), "notes": [NOTE],
    }  # fmt: skip
    scores = {"exact_match": scores_of(earned, rows, lambda name: kinds[name])}
    return Report(benchmark, metrics, len(rows), scores)


def read_csv(path: str | Path) -> Iterator[dict[str, Any]]:
    """The rows of a published file, each with a `data_id` of its split and its place: the file has no ids.

    Raises:
        RecordError: another file, or a damaged one; names file and line.
    """
    path = Path(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
                raise RecordError(f"{path}:1: no column {', '.join(missing)}; is it {path.stem}.csv of EVQA?")
            for number, row in enumerate(reader):
                if None in row or None in row.values():
                    raise RecordError(
                        f"{path}:{reader.line_num}: not as many fields as columns; fetch it again"
                    )
                split = row.get("encyclopedic_vqa_split") or path.stem
                yield {**row, "data_id": f"evqa_{split}_{number:07d}", "split": split}
    except (csv.Error, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: not a CSV file in UTF-8 ({error}); fetch it again") from error
    except FileNotFoundError as error:
        raise RecordError(f"{path}: no such file; check the path") from error


def evaluate_files(files: ScoreFiles) -> Report:
    """Score the official files as they stand."""
    path = files.path("references")
    rows = files.reference_rows("data_id", rows=read_csv(path) if path.suffix == ".csv" else None)
    return evaluate(read_predictions(files.path("predictions"), whole=files.whole), rows)
