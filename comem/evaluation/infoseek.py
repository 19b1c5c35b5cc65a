"""InfoSeek's score, equal to the official scorer's (edchengg/infoseek_eval, Apache-2.0, commit c8ef023).

The definition: *String* and *Time* answers match one of the accepted ones exactly after normalisation.
*Numerical* answers are right when the number lies in the accepted range, or when the range given lies in
it or overlaps it by at least half (intersection over union). A split's score is the accuracy over the
questions that were *answered*; the final score is the harmonic mean of the two unseen splits' scores.
Because leaving questions out raises that number, the report also counts missing answers as wrong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from comem.evaluation.files import ScoreFiles, keyed, match, read_predictions
from comem.evaluation.numbers import matches, read_number
from comem.evaluation.statistics import scores_of
from comem.evaluation.text import normalize
from comem.records import RecordError
from comem.types import Report, Score

if TYPE_CHECKING:
    from comem.evaluation.statistics import Array

_TINY = 1e-12
UNSEEN = {"unseen_question": "unseen_question_score", "unseen_entity": "unseen_entity_score"}
TYPES = {"time": "score_time", "numerical": "score_num", "string": "score_string"}


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
    cells = _count(questions.values(), scores)
    metrics: dict[str, Any] = {}
    for suffix, missing_wrong in (("", False), ("_missing_wrong", True)):
        splits = {key: _split_scores(cells, split, missing_wrong) for split, key in UNSEEN.items()}
        final = harmonic_mean([scores["score"] for scores in splits.values()])
        metrics[f"final_score{suffix}"] = round(final, 2)
        metrics |= {key + suffix: scores for key, scores in splits.items()}
        metrics[f"accuracy{suffix}"] = sum(cells.values(), _Cell()).percent(missing_wrong)
    metrics |= {"answered": sum(cell.answered for cell in cells.values()), "total": len(questions)}
    metrics["by_split"] = _table(cells, 0)
    metrics["by_type"] = _table(cells, 1)
    metrics["notes"] = _notes(cells, references, types)
    return Report(benchmark, metrics, len(questions), {"accuracy": scores})


def split_of(drawn: Mapping[str, Array], split: str) -> Array | None:
    """The drawn means of a split (see `comem.evaluation.statistics`); None where nothing was answered."""
    return next((means for name, means in drawn.items() if name.endswith(split)), None)


def final_of(drawn: Mapping[str, Array]) -> Array | None:
    """The final score over drawn means by split."""
    parts = [means for split in UNSEEN if (means := split_of(drawn, split)) is not None]
    return harmonic_means(parts) if len(parts) == len(UNSEEN) else None


#: The numbers that are made of the splits' means.
COMBINED = {"final_score": final_of} | {key: partial(split_of, split=split) for split, key in UNSEEN.items()}


def harmonic_means(parts: Sequence[Array]) -> Array:
    """`harmonic_mean` of arrays, element by element."""
    import numpy as np

    inverse = sum((1.0 / np.where(part == 0, _TINY, part) for part in parts), np.zeros_like(parts[0]))
    return np.asarray(len(parts) / inverse)


def harmonic_mean(values: Sequence[float]) -> float:
    """The harmonic mean; a zero counts as 1e-12, as officially."""
    return len(values) / sum(1.0 / (value or _TINY) for value in values)


@dataclass(frozen=True)
class _Cell:
    """How many questions of one split and type there are, were answered, were answered rightly."""

    total: int = 0
    answered: int = 0
    correct: int = 0

    def __add__(self, other: _Cell) -> _Cell:
        return _Cell(self.total + other.total, self.answered + other.answered, self.correct + other.correct)

    def percent(self, missing_wrong: bool = False) -> float:
        """Right answers in percent of those given (or of all), 0 when there are none."""
        count = self.total if missing_wrong else self.answered
        return round((self.correct / count if count else 0) * 100, 2)


_Cells = Mapping[tuple[str, str], _Cell]


def _count(questions: Iterable[Question], scores: Iterable[Score]) -> dict[tuple[str, str], _Cell]:
    """Counts by split and type."""
    values = {score.example_id: score.value for score in scores if score.answered}
    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for asked in questions:
        count = counts[asked.split, asked.kind]
        count[0] += 1
        if asked.id in values:
            count[1] += 1
            count[2] += values[asked.id] == 1
    return {key: _Cell(*count) for key, count in counts.items()}


def _split_scores(cells: _Cells, split: str, missing_wrong: bool) -> dict[str, float]:
    """The official four numbers of a split."""
    chosen = {key: cell for key, cell in cells.items() if key[0].endswith(split)}
    scores = {"score": sum(chosen.values(), _Cell()).percent(missing_wrong)}
    for kind, name in TYPES.items():
        scores[name] = sum((c for key, c in chosen.items() if key[1] == kind), _Cell()).percent(missing_wrong)
    return scores


def _table(cells: _Cells, part: int) -> dict[str, dict[str, float]]:
    """Counts and both accuracies by split (part 0) or type (part 1)."""
    rows: dict[str, _Cell] = defaultdict(_Cell)
    for key, cell in cells.items():
        rows[key[part]] += cell
    return {
        name: {
            "total": cell.total,
            "answered": cell.answered,
            "correct": cell.correct,
            "accuracy": cell.percent(),
            "accuracy_missing_wrong": cell.percent(missing_wrong=True),
        }
        for name, cell in sorted(rows.items())
    }


def _notes(cells: _Cells, references: Sequence[Mapping[str, Any]], types: Mapping[str, str]) -> list[str]:
    """What a reader of the numbers must know."""
    notes = []
    splits = {split for split, _ in cells}
    for name in UNSEEN:
        if not any(split.endswith(name) for split in splits):
            notes.append(f"no reference is in a {name} split: the official final score is 0, read accuracy")
    others = sorted(split for split in splits if not split.endswith(tuple(UNSEEN)))
    if others:
        notes.append(f"splits outside the final score: {', '.join(map(repr, others))}")
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
