"""A-OKVQA: questions that need knowledge, answered freely and by choice (1,145 in validation).

Two published formats:

- parquet (HuggingFaceM4/A-OKVQA): image, question_id, question, choices, correct_choice_idx,
  direct_answers (the list as text: "['a', 'b', …]"), difficult_direct_answer, rationales;
- the original JSON `aokvqa_v1p0_val.json`, a list of the same with image_id and lists as lists; COCO's
  2017 pictures in the image folder.

Each record is asked twice, as `ID:direct_answer` and `ID:multiple_choice`; the split
`validation:multiple_choice` has one of the two. The test split has no answers: it can be predicted only.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from comem.benchmarks.base import Benchmark
from comem.benchmarks.files import (
    HubFiles,
    embedded_image,
    find_parquet,
    locate,
    named_image,
    question_text,
    read_parquet,
)
from comem.benchmarks.score_files import ScoreFiles, checked_text, keyed, match
from comem.benchmarks.statistics import scores_of
from comem.benchmarks.text import marked_answer, normalize
from comem.io.jsonl import RecordError, read_json, unique
from comem.types import Example, ImageRef, Report, Score

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


_COLUMNS = ("question_id", "image", "question", "choices")
_ANSWERS = ("correct_choice_idx", "direct_answers", "difficult_direct_answer")
#: The names of the splits in the original files.
_ORIGINAL = {"validation": "val", "train": "train", "test": "test"}


def load(
    path: str | Path, *, image_folder: str | Path | None, split: str | None, question_types: str | Path | None
) -> Iterator[Example]:
    """Examples of either format (see `Benchmark.load`); the group is the task."""
    split, _, task = (split or "validation").partition(":")
    if task and task not in TASKS:
        raise ValueError(f"aokvqa has no task {task!r}; it has {', '.join(TASKS)}")
    tasks = (task,) if task else TASKS
    for row, image, place in _records(Path(path), split, image_folder):
        yield from (_example(row, image, place, each) for each in tasks)


def _records(
    path: Path, split: str, image_folder: str | Path | None
) -> Iterator[tuple[dict[str, Any], ImageRef | None, Path]]:
    original = f"aokvqa_v1p0_{_ORIGINAL[split]}.json"
    if path.name.endswith((".json", ".json.gz")) or any(path.glob(f"{original}*")):
        file = locate(path, (original,))
        for row in unique(_list(file), "question_id", file):
            yield row, _coco_image(row, split, image_folder), file
        return
    files = find_parquet(path, split)
    for row in unique(read_parquet(files, _COLUMNS, _ANSWERS), "question_id", files[0].parent):
        image = embedded_image(row.pop("image"), files[0].parent, str(row["question_id"]))
        yield row, image, files[0].parent


def _list(file: Path) -> Iterable[dict[str, Any]]:
    rows = read_json(file)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RecordError(f"{file}: expected a list of questions, as aokvqa_v1p0_val.json has")
    return rows


def _coco_image(row: Mapping[str, Any], split: str, folder: str | Path | None) -> ImageRef | None:
    """COCO's picture, in the folder itself or in its `val2017`."""
    if folder is None or row.get("image_id") is None:
        return None
    name = f"{int(row['image_id']):012d}.jpg"
    inside = Path(folder) / f"{_ORIGINAL[split]}2017" / name
    return ImageRef(path=str(inside)) if inside.is_file() else named_image(folder, name, folder)


def _example(row: Mapping[str, Any], image: ImageRef | None, place: Path, task: str) -> Example:
    name = str(row["question_id"])
    choices = [str(choice) for choice in row.get("choices") or ()]
    if len(choices) < 2:
        raise RecordError(f"{place}: {name!r} has no choices")
    direct, index = _answers(row, name, place), row.get("correct_choice_idx")
    if index is not None and not 0 <= int(index) < len(choices):
        raise RecordError(f"{place}: {name!r} has correct_choice_idx {index} of {len(choices)} choices")
    right = (choices[int(index)],) if index is not None else ()
    meta = {key: value for key, value in row.items() if key != "image"}
    return Example(
        id=f"{name}:{task}",
        question=question_text(row, "question", name, place),
        image=image,
        answers=right if task == "multiple_choice" else tuple(dict.fromkeys(direct or ())),
        choices=tuple(choices) if task == "multiple_choice" else (),
        group=task,
        meta={**meta, "question_id": name, "choices": choices, "direct_answers": direct},
    )


def _answers(row: Mapping[str, Any], name: str, place: Path) -> list[str] | None:
    """The ten human answers; None in the test split."""
    value = row.get("direct_answers")
    if isinstance(value, str) and value.strip():
        try:
            value = ast.literal_eval(value)  # only literals: nothing in the text is run
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise RecordError(
                f"{place}: the direct_answers of {name!r} are no list: {value!r:.60}"
            ) from error
    return [str(each) for each in value] if isinstance(value, (list, tuple)) and value else None


def score(predictions: Mapping[str, str], examples: Sequence[Example]) -> Report:
    """Both official scores; a task that was not asked is left out.

    Raises:
        ValueError: the split has no answers, or no prediction belongs to it.
    """
    rows = {str(example.meta["question_id"]): example.meta for example in examples}
    for name, row in rows.items():
        if row.get("correct_choice_idx") is None or row.get("direct_answers") is None:
            raise RecordError(
                f"reference {name!r} has no answers; is this the test set? Send it to the leaderboard"
            )
    given: dict[str, dict[str, str]] = {}
    for key, text in predictions.items():
        name, task = split_id(key)
        given.setdefault(name, {})[task] = text
    report = evaluate(with_choices(given, rows), rows)
    absent = set(TASKS) - {example.group for example in examples}
    metrics, scores = (
        {key: value for key, value in found.items() if not key.startswith(tuple(absent))}
        for found in (report.metrics, report.scores)
    )
    named = {
        task: [dataclasses.replace(score, example_id=f"{score.example_id}:{task}") for score in found]
        for task, found in scores.items()
    }
    return dataclasses.replace(report, metrics=metrics, scores=named)


ROWS = {
    "aokvqa": Benchmark(
        name="aokvqa",
        source="https://huggingface.co/datasets/HuggingFaceM4/A-OKVQA, validation (1,145 questions); "
        "original: https://allenai.org/project/a-okvqa",
        licence="Apache-2.0 (annotations); pictures: Flickr's terms, as COCO",
        paper="Schwenk et al. 2022, arXiv 2206.01718",
        languages=("en",),
        style="concise",
        loader=load,
        scorer=score,
        groups="task: direct_answer, multiple_choice",
        headline=TASKS,
        splits=("validation", "train", "test"),
        hub=HubFiles("HuggingFaceM4/A-OKVQA"),
        files="data/validation-*.parquet of https://huggingface.co/datasets/HuggingFaceM4/A-OKVQA, or "
        "aokvqa_v1p0_val.json of https://prior-datasets.s3.us-east-2.amazonaws.com/aokvqa/aokvqa_v1p0.tar.gz",
        images="embedded in the parquet files; with the JSON file COCO's 2017 pictures",
    )
}
