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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from comem.benchmarks.base import Benchmark, Scorer, authors_scorer
from comem.benchmarks.files import DataFiles, HubFiles, locate, named_image, parquet_rows, question_text
from comem.benchmarks.scoring import Answers, Row, Rows, ScoreFiles, checked_text, keyed, match, scores_of
from comem.benchmarks.text import ONE_SIDED, authors_answer, extract_answer, marked_answer, normalize
from comem.benchmarks.viquae import report_of
from comem.io.files import RecordError, read_json, unique
from comem.types import Example, ImageRef, Report, Score

TASKS = ("direct_answer", "multiple_choice")


def evaluate(answers: Answers, rows: Rows, benchmark: str = "aokvqa") -> Report:
    """Both official scores; a task that was not asked is left out.

    Args:
        answers: by question and task, `question_id:multiple_choice`.
        rows: the records, likewise; each task's own.
        benchmark: the name in the report.
    """
    questions, answered = ({split_id(key)[0]: key for key in keys} for keys in (rows, answers))
    match(answered, questions)
    metrics: dict[str, Any] = {}
    scores: dict[str, list[Score]] = {}
    for task in (task for task in TASKS if any(split_id(key)[1] == task for key in rows)):
        counted = {key: row for key, row in rows.items() if split_id(key)[1] == task and _counts(row, task)}
        values = {key: earned(answers[key], row, task) for key, row in counted.items() if key in answers}
        scores[task] = scores_of(values, counted)
        every = [score.value for score in scores[task]]
        metrics[task] = sum(every) / len(every) * 100 if every else 0.0
        metrics[f"{task}_missing_wrong"] = metrics[task]  # the official score is this already
        metrics[f"{task}_answered_only"] = sum(every) / len(values) * 100 if values else 0.0
        metrics |= {f"{task}_answered": len(values), f"{task}_total": len(counted)}
    metrics["answered"] = len(questions.keys() & answered)
    metrics["total"] = len(questions)
    return Report(benchmark, metrics, len(questions), scores)


def _counts(row: Row, task: str) -> bool:
    """Whether a question counts in a task.

    Raises:
        RecordError: it has no answers, as in the test set.
    """
    if row.get("correct_choice_idx") is None or row.get("direct_answers") is None:
        raise RecordError(
            f"reference {row.get('question_id')!r} has no answers; is this the test set? Send it to the "
            "leaderboard"
        )
    return task == "multiple_choice" or not row.get("difficult_direct_answer")


def earned(answer: str, row: Row, task: str) -> float:
    """What an answer earns in a task, between 0 and 1."""
    if task == "multiple_choice":
        return float(answer == row["choices"][row["correct_choice_idx"]])
    return min(1.0, sum(bool(answer == human) for human in row["direct_answers"]) / 3.0)


def evaluate_as_authors(outputs: Answers, rows: Rows, benchmark: str = "aokvqa") -> Report:
    """As coded: any of the direct answers as they stand, difficult ones too, no multiple choice."""
    direct = {key: row for key, row in rows.items() if split_id(key)[1] == "direct_answer"}
    answers = {key: [str(each).strip() for each in row["direct_answers"]] for key, row in direct.items()}
    values = {
        key: float(authors_answer(outputs[key]) in filter(None, answers[key]))
        for key in match({k: v for k, v in outputs.items() if split_id(k)[1] == "direct_answer"}, answers)
    }
    return report_of({"direct_answer": values}, answers, benchmark)


def read(files: ScoreFiles) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Answers and reference rows by question and task.

    Predictions have the official form, `{question_id: {direct_answer: …, multiple_choice: …}}`; or are rows
    with an id: with these two fields; or with a `prediction`, which is then a direct answer, or what the
    id's end says, `question_id:multiple_choice` (the rows of `comem predict`). The official form is compared
    as it stands, but for answers that a box or a final-answer line marks; others name choices (`short`).

    Raises:
        RecordError: another form, an answer that is not text, or references without answers.
    """
    path, rows = files.path("predictions"), files.reference_rows("question_id")
    for name, row in rows.items():
        missing = [key for key in ("choices", "correct_choice_idx", "direct_answers") if row.get(key) is None]
        if missing:
            path = files.path("references")
            raise RecordError(f"{path}: {name!r} has no {', '.join(missing)}; the test set has no answers")
    by_task = {f"{name}:{task}": row for name, row in rows.items() for task in TASKS}
    official = str(path).removesuffix(".gz").endswith(".json")
    outputs: dict[str, str] = {}
    for name, tasks in _tasks_by_id(path, official).items():
        if not isinstance(tasks, Mapping) or not set(tasks) & set(TASKS):
            raise RecordError(f"{path}: {name!r} is {tasks!r:.60}; expected {' and '.join(TASKS)}")
        given = {task: checked_text(tasks[task], str(name), path) for task in TASKS if task in tasks}
        outputs |= {f"{name}:{task}": text for task, text in given.items()}
    if not files.whole:
        marked = {key: marked_answer(text) for key, text in outputs.items()}
        outputs |= {key: said for key, said in marked.items() if said is not None}
    if not official:  # what a model said
        outputs |= {
            key: to_choice(text, by_task[key]["choices"])
            for key, text in outputs.items()
            if split_id(key)[1] == "multiple_choice" and key in by_task
        }
    return outputs, by_task


def _tasks_by_id(path: Path, official: bool) -> Mapping[str, Any]:
    if official:
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


def short(text: str, row: Row) -> str:
    """The short answer in an output; of multiple choice, the choice that it names."""
    said = extract_answer(text)
    return to_choice(said, row["choices"]) if row.get("task") == "multiple_choice" else said


_COLUMNS = ("question_id", "question", "choices")
_ANSWERS = ("correct_choice_idx", "direct_answers", "difficult_direct_answer")
#: The names of the splits in the original files.
_ORIGINAL = {"validation": "val", "train": "train", "test": "test"}


def load(files: DataFiles) -> Iterator[Example]:
    """Examples of either format; the group is the task."""
    split, _, task = (files.split or "validation").partition(":")
    if task and task not in TASKS:
        raise ValueError(f"aokvqa has no task {task!r}; it has {', '.join(TASKS)}")
    for row, image, place in _records(files.path, split, files.images):
        yield from (_example(row, image, place, each) for each in ((task,) if task else TASKS))


def _records(
    path: Path, split: str, images: Path | None
) -> Iterator[tuple[dict[str, Any], ImageRef | None, Path]]:
    original = f"aokvqa_v1p0_{_ORIGINAL[split]}.json"
    if path.name.endswith((".json", ".json.gz")) or any(path.glob(f"{original}*")):
        file = locate(path, (original,))
        for row in unique(_list(file), "question_id", file):
            yield row, _coco_image(row, split, images), file
        return
    for row, _, image, place in parquet_rows(path, split, "question_id", _COLUMNS, _ANSWERS):
        yield row, image, place


def _list(file: Path) -> Iterable[dict[str, Any]]:
    rows = read_json(file)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RecordError(f"{file}: expected a list of questions, as aokvqa_v1p0_val.json has")
    return rows


def _coco_image(row: Row, split: str, folder: Path | None) -> ImageRef | None:
    """COCO's picture, in the folder itself or in its `val2017`."""
    if folder is None or row.get("image_id") is None:
        return None
    name = f"{int(row['image_id']):012d}.jpg"
    inside = folder / f"{_ORIGINAL[split]}2017" / name
    return ImageRef(path=str(inside)) if inside.is_file() else named_image(folder, name, folder)


def _example(row: Row, image: ImageRef | None, place: Path, task: str) -> Example:
    name = str(row["question_id"])
    choices = [str(choice) for choice in row.get("choices") or ()]
    if len(choices) < 2:
        raise RecordError(f"{place}: {name!r} has no choices")
    direct, index = _answers(row, name, place), row.get("correct_choice_idx")
    if index is not None and not 0 <= int(index) < len(choices):
        raise RecordError(f"{place}: {name!r} has correct_choice_idx {index} of {len(choices)} choices")
    right = (choices[int(index)],) if index is not None else ()
    return Example(
        id=f"{name}:{task}",
        question=question_text(row, "question", name, place),
        image=image,
        answers=right if task == "multiple_choice" else tuple(dict.fromkeys(direct or ())),
        choices=tuple(choices) if task == "multiple_choice" else (),
        group=task,
        meta={**row, "question_id": name, "task": task, "choices": choices, "direct_answers": direct},
    )


def _answers(row: Row, name: str, place: Path) -> list[str] | None:
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


ROW = Benchmark(
    name="aokvqa",
    loader=load,
    scorer=Scorer(
        evaluate,
        "allenai/aokvqa: direct answer min(count/3, 1), multiple choice accuracy; missing ones earn 0",
        missing_wrong=True,
    ),
    authors=authors_scorer(
        evaluate_as_authors,
        "exact match with any direct answer, difficult ones too, not min(count/3, 1); no multiple choice",
        ONE_SIDED,
    ),
    reader=read,
    short=short,
    source="https://huggingface.co/datasets/HuggingFaceM4/A-OKVQA, validation (1,145 questions); "
    "original: https://allenai.org/project/a-okvqa",
    licence="Apache-2.0 (annotations); pictures: Flickr's terms, as COCO",
    paper="Schwenk et al. 2022, arXiv 2206.01718",
    style="concise",
    groups="task: direct_answer, multiple_choice",
    headline=TASKS,
    splits=("validation", "train", "test"),
    hub=HubFiles("HuggingFaceM4/A-OKVQA"),
    files="data/validation-*.parquet of https://huggingface.co/datasets/HuggingFaceM4/A-OKVQA, or "
    "aokvqa_v1p0_val.json of https://prior-datasets.s3.us-east-2.amazonaws.com/aokvqa/aokvqa_v1p0.tar.gz",
    images="embedded in the parquet files; with the JSON file COCO's 2017 pictures",
)
