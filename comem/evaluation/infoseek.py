"""InfoSeek's score, equal to the official scorer's (edchengg/infoseek_eval, Apache-2.0, commit c8ef023).

The definition: *String* and *Time* answers match one of the accepted ones exactly after normalisation.
*Numerical* answers are right when the number lies in the accepted range, or when the range given lies in
it or overlaps it by at least half (intersection over union). A split's score is the accuracy over the
questions that were *answered*; the final score is the harmonic mean of the two unseen splits' scores, and
every split that is not unseen_question counts as unseen_entity. Because leaving questions out raises that
number, the report also counts missing answers as wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comem.evaluation.files import ScoreFiles, keyed, match, read_predictions
from comem.evaluation.harmonic import harmonic_mean
from comem.evaluation.infoseek_counts import (
    TYPES,
    UNSEEN,
    Cell,
    Cells,
    count,
    counts_as,
    split_scores,
    table,
)
from comem.evaluation.numbers import matches, read_number
from comem.evaluation.statistics import scores_of
from comem.evaluation.text import normalize
from comem.records import RecordError
from comem.types import Report, Score


@dataclass(frozen=True)
class Question:
    """What the scorer needs of a reference."""

    id: str
    split: str
    kind: str  # string, time or numerical
    answers: tuple[str, ...] = ()  # normalised
    range: tuple[float, float] = (0.0, 0.0)


def question(
    row: Mapping[str, Any], kind: str | None = None, normal: Callable[[str], str] = normalize
) -> Question:
    """A reference row as the scorer needs it.

    Args:
        row: data_id, answer_eval, data_split and perhaps question_type, as published.
        kind: the question's type; without it the row's own, else what the form of answer_eval says.
        normal: how accepted answers are normalised.

    Raises:
        RecordError: no accepted answers, an unknown type, or a range that is none; names the question.
    """
    name, accepted = str(row.get("data_id")), row.get("answer_eval")
    if accepted is None or accepted == []:
        raise RecordError(f"reference {name!r} has no answer_eval; is this the test set, without answers?")
    kind = (kind or row.get("question_type") or infer_kind(accepted)).lower()
    if kind not in TYPES:
        raise RecordError(f"reference {name!r}: question type {kind!r}; known: String, Time, Numerical")
    split = str(row.get("data_split", ""))
    if kind == "numerical":
        return Question(name, split, kind, range=_range(accepted, name))
    texts = accepted if isinstance(accepted, list) else [accepted]
    return Question(name, split, kind, answers=tuple(normal(str(text)) for text in texts))


def infer_kind(accepted: Any) -> str:
    """Numerical when the accepted answer is a range; otherwise String (Time is scored alike)."""
    first = accepted[0] if isinstance(accepted, list) else accepted
    return "numerical" if isinstance(first, Mapping) and "range" in first else "string"


def _range(accepted: Any, name: str) -> tuple[float, float]:
    """The accepted range, from `[{"range": [low, high]}]`, `{"range": …}` or `[low, high]`."""
    first = accepted[0] if isinstance(accepted, list) else accepted
    values = first.get("range") if isinstance(first, Mapping) else accepted
    try:
        low, high = (float(value) for value in list(values or ())[:2])
    except (TypeError, ValueError) as error:
        raise RecordError(f"reference {name!r}: {accepted!r} holds no range [low, high]") from error
    return low, high


def is_correct(answer: str, asked: Question) -> bool:
    """Whether an answer is right."""
    if asked.kind != "numerical":
        return normalize(answer) in asked.answers
    return matches(read_number(answer), asked.range)


def score_each(predictions: Mapping[str, str], questions: Iterable[Question]) -> list[Score]:
    """A score for every question that was answered; the group is its split."""
    return [
        Score(asked.id, float(is_correct(predictions[asked.id], asked)), asked.split)
        for asked in questions
        if asked.id in predictions
    ]


@dataclass(frozen=True)
class Rules:
    """How answers are compared: what is done to accepted answers, and when an answer is right."""

    normal: Callable[[str], str] = normalize
    right: Callable[[str, Question], bool] = is_correct


def evaluate(
    predictions: Mapping[str, str],
    references: Sequence[Mapping[str, Any]],
    question_types: Mapping[str, str] | None = None,
    benchmark: str = "infoseek",
    rules: Rules = Rules(),  # noqa: B008 - frozen
) -> Report:
    """Score answers by the official definition.

    Args:
        predictions: short answers by data_id.
        references: rows as published.
        question_types: String, Time or Numerical by data_id; optional (see `question`).
        benchmark: the name in the report.
        rules: how answers are compared; officially by default.

    Returns:
        The official keys (final_score, unseen_question_score, unseen_entity_score, in percent, rounded
        to two digits on the way as officially), answered and total, the same with missing answers
        counted as wrong (`…_missing_wrong`), accuracy over all splits, per split and per type.
    """
    types = question_types or {}
    rows = {str(row["data_id"]): row for row in references}
    questions = {name: question(row, types.get(name), rules.normal) for name, row in rows.items()}
    names = match(predictions, questions)
    values = {name: float(rules.right(predictions[name], questions[name])) for name in names}
    scores = scores_of(
        values,
        questions,
        lambda name: questions[name].split,
        lambda name: str(rows[name].get("language", "")),
    )
    cells = count(questions.values(), scores)
    metrics: dict[str, Any] = {}
    for suffix, missing_wrong in (("", False), ("_missing_wrong", True)):
        splits = {key: split_scores(cells, split, missing_wrong) for split, key in UNSEEN.items()}
        final = harmonic_mean([scores["score"] for scores in splits.values()])
        metrics[f"final_score{suffix}"] = round(final, 2)
        metrics |= {key + suffix: scores for key, scores in splits.items()}
        metrics[f"accuracy{suffix}"] = sum(cells.values(), Cell()).percent(missing_wrong)
    metrics |= {"answered": sum(cell.answered for cell in cells.values()), "total": len(questions)}
    metrics["by_split"] = table(cells, 0)
    metrics["by_type"] = table(cells, 1)
    metrics["notes"] = _notes(cells, references, types)
    return Report(benchmark, metrics, len(questions), {"accuracy": scores})


def _notes(cells: Cells, references: Sequence[Mapping[str, Any]], types: Mapping[str, str]) -> list[str]:
    """What a reader of the numbers must know."""
    notes = []
    splits = {split for split, _ in cells}
    for name in UNSEEN:
        if not any(counts_as(split) == name for split in splits):
            notes.append(f"no reference is in a {name} split: the official final score is 0, read accuracy")
    others = sorted(split for split in splits if not split.endswith(tuple(UNSEEN)))
    if others:
        notes.append(f"splits that count as unseen_entity, as officially: {', '.join(map(repr, others))}")
    untyped = [row for row in references if str(row["data_id"]) not in types and not row.get("question_type")]
    if untyped:
        notes.append(f"{len(untyped)} question types inferred: ranges Numerical, else String (as Time)")
    unanswered = sum(cell.total - cell.answered for cell in cells.values())
    if unanswered:
        notes.append(f"{unanswered} questions are unanswered: the official score leaves them out")
    return notes


def evaluate_files(files: ScoreFiles, benchmark: str = "infoseek") -> Report:
    """Score the official files as they stand (see `read_references`)."""
    references, types = read_references(files)
    predictions = read_predictions(files.path("predictions"), whole=files.whole)
    return evaluate(predictions, list(references.values()), types, benchmark)


def read_references(files: ScoreFiles) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The reference rows and the question types, by data_id.

    Raises:
        RecordError: a file is broken, an id comes twice, or a reference has no type in the types file.
    """
    references = files.reference_rows("data_id")
    types: dict[str, str] = {}
    if files.question_types is not None:
        rows = keyed(files.question_types, key="data_id")
        types = {name: str(row.get("question_type")) for name, row in rows.items()}
        untyped = [name for name in references if name not in types]
        if untyped:
            raise RecordError(
                f"{files.question_types}: {len(untyped)} references have no type, the first is {untyped[0]!r}"
            )
    return references, types
