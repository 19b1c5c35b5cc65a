"""Questions of one's own: a question, an image if there is one, accepted answers if they are known."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from comem.benchmarks.base import Benchmark, Scorer
from comem.benchmarks.files import DataFiles, is_in_split, locate, named_image, read_parquet
from comem.benchmarks.scoring import Answers, match, read_rows
from comem.benchmarks.text import normalize
from comem.benchmarks.viquae import f1, report_of
from comem.io.files import RecordError, exact, is_missing, parse_json, read_csv, unique
from comem.types import Example, Report

NAMES = ("questions.jsonl", "test.jsonl", "train.jsonl", "questions.json")
#: By what a record may call it, as in training files and in the published benchmarks.
_IDS = ("id", "data_id", "question_id", "example_id")
_IMAGES = ("image", "image_path", "images")
_ANSWERS = ("answer", "answers", "answer_eval")
_OTHERS = ("question", "conversations", "choices", "language")
_GROUPS = ("data_split", "split", "origin", "source", "group")
_MARK = re.compile(r"\s*<image>\s*")


def load(files: DataFiles) -> Iterator[Example]:
    """Questions out of JSON lines, a JSON list, CSV, TSV or Parquet, by the fields of training files.

    Raises:
        RecordError: a record has no question, an id comes twice, or the split is not there.
    """
    file = locate(files.path, NAMES)
    named = (
        {**row, "id": _first(row, *_IDS) if _first(row, *_IDS) is not None else number}
        for number, row in enumerate(_rows(file), start=1)
    )
    groups = dict[str, None]()
    count = 0
    for row in unique(named, "id", file):
        group = exact(_first(row, *_GROUPS))
        groups[group] = None
        if files.split is not None and not is_in_split(group, files.split):
            continue
        count += 1
        name, (question, answers) = str(row["id"]), _asked(row)
        if not question:
            raise RecordError(f"{file}: {name!r} has no question text")
        yield Example(
            id=name,
            question=question,
            image=named_image(files.images, _first(row, *_IMAGES), file),
            answers=answers,
            choices=tuple(map(str, row.get("choices") or ())),
            language=exact(row.get("language")) or "en",
            group=group,
            meta={key: value for key, value in row.items() if key not in _IMAGES},
        )
    if not count:
        there = ", ".join(map(repr, groups)) or "no questions"
        of = f" of split {files.split!r}" if groups else ""
        raise RecordError(f"{file}: no question{of}; it has {there}")


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """The records of a file, by its suffix; lists stand in the cells of a table as JSON."""
    kind = file.suffix.lower()
    if kind == ".parquet":
        yield from read_parquet([file], (), (*_IDS, *_IMAGES, *_ANSWERS, *_GROUPS, *_OTHERS))
    elif kind in (".csv", ".tsv"):
        for row in read_csv(file, ("question",), "," if kind == ".csv" else "\t"):
            yield {name: _listed(cell) for name, cell in row.items()}
    else:
        yield from read_rows(file)


def _listed(cell: str) -> Any:
    try:
        return parse_json(cell)[0] if cell.startswith("[") else cell
    except ValueError:
        return cell


def _first(row: Mapping[str, Any], *names: str) -> Any:
    return next((row[name] for name in names if not is_missing(row.get(name))), None)


def _asked(row: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Question and accepted answers; of a dialogue the first turn's."""
    turns = row.get("conversations")
    if isinstance(turns, list) and turns and all(isinstance(turn, Mapping) for turn in turns):
        if "from" in turns[0]:
            row = {"question": turns[0].get("value"), "answer": turns[1].get("value") if turns[1:] else None}
        else:
            row = turns[0]
    question = row.get("question")
    given = (row.get(name) for name in _ANSWERS)
    texts = (str(one).strip() for value in given for one in _flat(value) if not is_missing(one))
    return _MARK.sub(" ", question).strip() if isinstance(question, str) else "", tuple(dict.fromkeys(texts))


def _flat(value: Any) -> Iterator[Any]:
    """The answers in a list of them, or in dicts as SQuAD's and VQA's."""
    if isinstance(value, Mapping):
        value = next((value[key] for key in ("text", "answer", "value") if key in value), None)
    if isinstance(value, (list, tuple, Mapping)):
        for each in (value,) if isinstance(value, Mapping) else value:
            yield from _flat(each)
    else:
        yield value


def evaluate(answers: Answers, examples: Mapping[str, Example], benchmark: str = "own") -> Report:
    """Exact match, whether an accepted answer is contained, and F1, the best over the accepted answers.

    Questions without accepted answers earn nothing and cost nothing; without any there are counts only.
    """
    known = {name: example for name, example in examples.items() if example.answers}
    without = len(examples) - len(known)
    if not any(name in answers for name in known):
        given = match(answers, examples)
        metrics = {"answered": len(given), "total": len(examples), "without_accepted_answers": without}
        return Report(benchmark, metrics, len(examples))
    earned: dict[str, dict[str, float]] = {"exact_match": {}, "contains": {}, "f1": {}}
    asked = {name: text for name, text in answers.items() if name in known or name not in examples}
    for name in match(asked, known):
        said, accepted = plain(answers[name]), [plain(answer) for answer in known[name].answers]
        earned["exact_match"][name] = float(said in accepted)
        earned["contains"][name] = float(any(contains(said, answer) for answer in accepted))
        earned["f1"][name] = max(float(said == answer) or f1(said, answer) for answer in accepted)
    report = report_of(earned, known, benchmark)
    more = {"without_accepted_answers": without} if without else {}
    return Report(benchmark, {**report.metrics, **more}, report.count, report.scores)


def plain(text: str) -> str:
    """As scorers compare: one form of each letter, lower case, no ASCII punctuation, no English articles.

    A text that consists of these alone ("The", "+") stays as it stands.
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    return normalize(text) or " ".join(text.split())


def contains(said: str, accepted: str) -> bool:
    """Whether a text has the answer in it, as whole words where its letters make words."""
    start = r"(?<![^\W_])" if _spaced(accepted[:1]) else ""
    end = r"(?![^\W_])" if _spaced(accepted[-1:]) else ""
    return bool(accepted) and re.search(start + re.escape(accepted) + end, said) is not None


def _spaced(letter: str) -> bool:
    """Whether a letter is of a script that puts blanks between words, as Chinese and Thai do not."""
    return letter.isalnum() and _UNSPACED.match(letter) is None


_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")


ROW = Benchmark(
    name="own",
    loader=load,
    scorer=Scorer(
        evaluate,
        "normalised as SQuAD's, after NFKC: exact match, an accepted answer contained as whole words, F1; "
        "each the best over the accepted answers",
    ),
    source="your file: question, and image, answer or answers, language, id if there are",
    licence="yours",
    paper="none",
    groups="data_split, split, origin or source of the record",
    headline=("exact_match", "contains", "f1"),
    files="JSON lines, CSV or Parquet, each record with a question",
    fallback_language="en",
    needs_images=False,
)
