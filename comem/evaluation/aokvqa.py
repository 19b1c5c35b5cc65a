"""A-OKVQA's scores (allenai/aokvqa): direct answer and multiple choice; a missing prediction earns 0.

A direct answer earns min(matches/3, 1) against the ten human answers, compared as they stand; questions
marked `difficult_direct_answer` are left out of it. A choice is right when it is the correct choice's text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from comem.evaluation.files import ScoreFiles, checked_text, keyed, match
from comem.evaluation.statistics import scores_of
from comem.evaluation.text import marked_answer, normalize
from comem.records import RecordError, read_json
from comem.types import Report, Score

TASKS = ("direct_answer", "multiple_choice")


def earned(answer: str, row: Mapping[str, Any], task: str) -> float:
    """What an answer earns in a task, between 0 and 1."""
    if task == "multiple_choice":
        return float(answer == row["choices"][row["correct_choice_idx"]])
    return min(1.0, sum(answer == human for human in row["direct_answers"]) / 3.0)


def evaluate(
    predictions: Mapping[str, Mapping[str, str]],
    references: Mapping[str, Mapping[str, Any]],
    benchmark: str = "aokvqa",
) -> Report:
    """Score `{question_id: {direct_answer, multiple_choice}}` (either may be missing) against the rows."""
    match(predictions, references)
    metrics: dict[str, Any] = {}
    scores: dict[str, list[Score]] = {}
    for task in TASKS:
        rows = {name: row for name, row in references.items() if _asked(row, task)}
        given = {name: predictions[name][task] for name in rows if task in predictions.get(name, {})}
        values = {name: earned(answer, rows[name], task) for name, answer in given.items()}
        scores[task] = scores_of(values, rows)
        every = [score.value for score in scores[task]]
        metrics[task] = sum(every) / len(every) * 100 if every else 0.0
        metrics[f"{task}_missing_wrong"] = metrics[task]  # the official score is this already
        metrics[f"{task}_answered_only"] = sum(every) / len(given) * 100 if given else 0.0
        metrics |= {f"{task}_answered": len(given), f"{task}_total": len(rows)}
    metrics["answered"] = sum(name in predictions for name in references)
    metrics["total"] = len(references)
    return Report(benchmark, metrics, len(references), scores)


def _asked(row: Mapping[str, Any], task: str) -> bool:
    """Whether a question counts in a task."""
    return task == "multiple_choice" or not row.get("difficult_direct_answer")


def read_task_predictions(path: str | Path, whole: bool = False) -> dict[str, dict[str, str]]:
    """Predictions in the official form, `{question_id: {direct_answer: …, multiple_choice: …}}`.

    Or as rows with an id: with these two fields; or with a `prediction`, which is then a direct answer, or
    what the id's end says, `question_id:multiple_choice` (the rows of `comem predict`).
    Answers are compared as they stand, but for those that a box or a final-answer line marks.

    Raises:
        RecordError: another form, or an answer that is not text.
    """
    content = _tasks_by_id(path)
    result: dict[str, dict[str, str]] = {}
    for name, tasks in content.items():
        if not isinstance(tasks, Mapping) or not set(tasks) & set(TASKS):
            raise RecordError(f"{path}: {name!r} is {tasks!r:.60}; expected {' and '.join(TASKS)}")
        texts = {task: checked_text(tasks[task], str(name), path) for task in TASKS if task in tasks}
        result[str(name)] = texts if whole else {task: _answer(text) for task, text in texts.items()}
    return result


def _tasks_by_id(path: str | Path) -> Mapping[str, Any]:
    if str(path).removesuffix(".gz").endswith(".json"):
        content = read_json(path)
        if isinstance(content, Mapping):
            return content
        if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
            raise RecordError(f"{path}: expected {{question_id: {{direct_answer, multiple_choice}}}}")
    tasks: dict[str, Any] = {}
    for key, row in keyed(path, torn_tail=True).items():
        if "prediction" in row and not set(row) & set(TASKS):
            name, task = split_id(key)
            tasks.setdefault(name, {})[task] = row["prediction"]
        else:
            tasks[key] = row
    return tasks


def split_id(key: str) -> tuple[str, str]:
    """Question and task of an example's id, `question_id:multiple_choice`; without a task the first one."""
    name, _, task = key.rpartition(":")
    return (name, task) if task in TASKS else (key, TASKS[0])


def to_choice(text: str, choices: Sequence[str]) -> str:
    """The choice that an answer names, by its text or its letter; else the answer as it is.

    The official scorer compares texts as they stand, after a mapping to the nearest choice that is left to
    the model (allenai/aokvqa, map_to_choices); this is the part of that which needs no judgement.
    """
    by_text = {normalize(choice): choice for choice in reversed(choices)}
    by_letter = {chr(ord("a") + index): choice for index, choice in enumerate(choices)}
    return by_text.get(normalize(text)) or by_letter.get(text.strip(" ().:").lower(), text)


def with_choices(
    predictions: Mapping[str, Mapping[str, str]], references: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, str]]:
    """The same predictions, multiple-choice answers as the choices that they name (see `to_choice`)."""
    return {
        name: {
            task: to_choice(text, references[name]["choices"])
            if task == "multiple_choice" and name in references
            else text
            for task, text in tasks.items()
        }
        for name, tasks in predictions.items()
    }


def _answer(text: str) -> str:
    marked = marked_answer(text)
    return text if marked is None else marked


def read_references(files: ScoreFiles) -> dict[str, dict[str, Any]]:
    """The reference rows by question_id.

    Raises:
        RecordError: a row has no answers, as in the test set.
    """
    references = files.reference_rows("question_id")
    for name, row in references.items():
        missing = [key for key in ("choices", "correct_choice_idx", "direct_answers") if row.get(key) is None]
        if missing:
            path = files.path("references")
            raise RecordError(f"{path}: {name!r} has no {', '.join(missing)}; the test set has no answers")
    return references


def evaluate_files(files: ScoreFiles) -> Report:
    """Score the official files as they stand."""
    references = read_references(files)
    path = files.path("predictions")
    predictions = read_task_predictions(path, files.whole)
    if not str(path).removesuffix(".gz").endswith(".json"):  # no official file: what a model said
        predictions = with_choices(predictions, references)
    return evaluate(predictions, references)
