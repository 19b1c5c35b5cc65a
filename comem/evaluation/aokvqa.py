"""A-OKVQA's scores (allenai/aokvqa): direct answer and multiple choice; a missing prediction earns 0.

A direct answer earns min(matches/3, 1) against the ten human answers, compared as they stand; questions
marked `difficult_direct_answer` are left out of it. A choice is right when it is the correct choice's text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comem.evaluation.files import ScoreFiles, checked_text, keyed, match
from comem.evaluation.text import extract_answer
from comem.records import RecordError, read_json
from comem.types import Report

TASKS = ("direct_answer", "multiple_choice")


def earned(answer: str, row: Mapping[str, Any], task: str) -> float:
    """What an answer earns in a task, between 0 and 1."""
    if task == "multiple_choice":
        return float(answer == row["choices"][row["correct_choice_idx"]])
    return min(1.0, sum(answer == human for human in row["direct_answers"]) / 3.0)


def evaluate(
    predictions: Mapping[str, Mapping[str, str]], references: Mapping[str, Mapping[str, Any]]
) -> Report:
    """Score `{question_id: {direct_answer, multiple_choice}}` (either may be missing) against the rows."""
    match(predictions, references)
    metrics: dict[str, Any] = {}
    answered: dict[str, int] = {}
    for task in TASKS:
        rows = {
            name: row
            for name, row in references.items()
            if task == "multiple_choice" or not row.get("difficult_direct_answer")
        }
        given = {name: predictions[name][task] for name in rows if task in predictions.get(name, {})}
        answered[task] = len(given)
        values = [earned(given[name], row, task) if name in given else 0.0 for name, row in rows.items()]
        metrics[task] = sum(values) / len(values) * 100 if values else 0.0
        metrics[f"{task}_answered_only"] = sum(values) / len(given) * 100 if given else 0.0
        metrics[f"{task}_total"] = len(rows)
    metrics["answered"] = sum(name in predictions for name in references)
    metrics["total"] = len(references)
    metrics["answered_by_task"] = answered
    return Report("aokvqa", metrics, len(references))


def read_task_predictions(path: Any, whole: bool = False) -> dict[str, dict[str, str]]:
    """Predictions in the official form, `{question_id: {direct_answer: …, multiple_choice: …}}`.

    Raises:
        RecordError: another form, or an answer that is not text.
    """
    content = read_json(path)
    if not isinstance(content, Mapping):
        raise RecordError(f"{path}: expected {{question_id: {{direct_answer, multiple_choice}}}}")
    result: dict[str, dict[str, str]] = {}
    for name, tasks in content.items():
        if not isinstance(tasks, Mapping) or not set(tasks) & set(TASKS):
            raise RecordError(f"{path}: {name!r} is {tasks!r:.60}; expected {' and '.join(TASKS)}")
        texts = {task: checked_text(tasks[task], str(name), path) for task in TASKS if task in tasks}
        result[str(name)] = texts if whole else {task: extract_answer(text) for task, text in texts.items()}
    return result


def evaluate_files(files: ScoreFiles) -> Report:
    """Score the official files as they stand."""
    path = files.path("references")
    references = keyed(path, "question_id")
    for name, row in references.items():
        missing = [key for key in ("choices", "correct_choice_idx", "direct_answers") if row.get(key) is None]
        if missing:
            raise RecordError(f"{path}: {name!r} has no {', '.join(missing)}; the test set has no answers")
    return evaluate(read_task_predictions(files.path("predictions"), files.whole), references)
