"""OK-VQA: questions about COCO pictures that need knowledge; ten human answers each (5,046 in val2014).

Two published formats:

- parquet (lmms-lab/OK-VQA): question_id, image, question, answers (a list of ten), question_type,
  answer_type; pictures are embedded;
- the original JSON pair `OpenEnded_mscoco_val2014_questions.json` (`questions`: image_id, question,
  question_id) and `mscoco_val2014_annotations.json` (`annotations`: question_id, question_type,
  answer_type, answers), with COCO's val2014 pictures in the image folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from comem.benchmarks.base import Benchmark, Scorer, authors_scorer
from comem.benchmarks.files import DataFiles, HubFiles, locate, named_image, parquet_rows, question_text
from comem.benchmarks.scoring import Answers, Row, Rows, ScoreFiles, match, mean_report, means_by
from comem.benchmarks.text import ONE_SIDED, authors_answer
from comem.io.files import RecordError, read_json, unique
from comem.types import Example, ImageRef, Report

_PUNCTUATION = tuple(';/[]"{}()=+\\_-><@`,?!')
_PERIOD = re.compile(r"\.(?!\d)")
#: The official call passes a flag where the number of replacements belongs: it stops after so many.
_PERIODS_REMOVED = 32
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_CACHED_LENGTH = 200
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMERALS = {"none": "0"} | {word: str(number) for number, word in enumerate(_NUMBER_WORDS)}
_ARTICLES = {"a", "an", "the"}
#: Written without one of their apostrophes, these words get it back ("lets" and "shes" do not).
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
    he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't
    must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've
    somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd
    something'd've something'll that's there'd there'd've there're there's they'd they'd've they'll they're
    they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've
    who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll
    y'all'd've you'd you'd've you'll you're you've
"""
_CONTRACTIONS = {
    word[:i] + word[i + 1 :]: word for word in _CONTRACTED.split() for i, c in enumerate(word) if c == "'"
} | {"somebody'd": "somebodyd"}


def process_punctuation(text: str) -> str:
    """Punctuation deleted, or replaced by a space where it stands between letters; full stops deleted."""
    result = text
    commas = _COMMA_IN_NUMBER.search(text) is not None
    for mark in _PUNCTUATION:
        if mark in text:
            delete = commas or f"{mark} " in text or f" {mark}" in text
            result = result.replace(mark, "" if delete else " ")
    return _PERIOD.sub("", result, count=_PERIODS_REMOVED)


def process_words(text: str) -> str:
    """Lower case, numerals as digits, no articles, contractions with their apostrophes."""
    words = (_NUMERALS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def soft_accuracy(prediction: str, answers: Sequence[Mapping[str, Any]]) -> float:
    """What a prediction earns, between 0 and 1.

    Args:
        prediction: the short answer.
        answers: the human answers as the annotation file has them, `{"answer": …}`.
    """
    said, texts = _one_line(prediction), [_one_line(answer["answer"]) for answer in answers]
    if len(set(texts)) > 1:
        said, texts = _process(said), [_process(text) for text in texts]
    agreeing = texts.count(said)
    if not agreeing:
        return 0.0
    earned = 0.0
    for text in texts:  # one by one: Python 3.12's sum() rounds otherwise than the official script's did
        earned += min(1.0, (agreeing - (text == said)) / 3)  # this human left out
    return earned / len(texts)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()  # as officially: no other white space


@lru_cache(maxsize=100_000)  # human answers repeat
def _cached(text: str) -> str:
    return process_words(process_punctuation(text))


def _process(text: str) -> str:
    return _cached(text) if len(text) <= _CACHED_LENGTH else process_words(process_punctuation(text))


def evaluate(answers: Answers, rows: Rows, benchmark: str = "okvqa") -> Report:
    """Score short answers by question_id against the annotations by question_id."""
    names = match(answers, rows)
    values = {name: soft_accuracy(answers[name], human_answers(rows[name], name)) for name in names}
    return report_of(values, rows, benchmark)


def evaluate_as_authors(outputs: Answers, rows: Rows, benchmark: str = "okvqa") -> Report:
    """As coded: the normalised output against accepted answers as they stand."""
    values = {}
    for name in match(outputs, rows):
        accepted = numpy_answers([str(each["answer"]) for each in human_answers(rows[name], name)])
        values[name] = float(authors_answer(outputs[name]) in accepted)
    return report_of(values, rows, benchmark)


def numpy_answers(answers: Sequence[str]) -> list[str]:
    """The accepted answers as the authors' scorer reads them: printed by numpy, split at "'".

    An answer with an apostrophe falls apart: "don't know" gives `"don` and `t know"`.
    """
    printed = " ".join(map(repr, answers)).replace("[", "").replace("]", "")
    return [part.strip() for part in printed.split("'") if part.strip()]


def report_of(values: Mapping[str, float], rows: Rows, benchmark: str) -> Report:
    """The report over what each answered question earned, rounded as officially."""

    def kind(name: str, key: str = "question_type") -> str:
        return str(rows[name].get(key, ""))

    tables: dict[str, Any] = {
        metric: {group: round(mean, 2) for group, mean in means_by(values, partial(kind, key=key)).items()}
        for metric, key in (("perQuestionType", "question_type"), ("perAnswerType", "answer_type"))
    }
    report = mean_report(benchmark, "overall", values, rows, kind, **tables)
    rounded = {key: round(report.metrics[key], 2) for key in ("overall", "overall_missing_wrong")}
    return replace(report, metrics={**report.metrics, **rounded})


def human_answers(annotation: Mapping[str, Any], name: str) -> Sequence[Mapping[str, Any]]:
    """The human answers of an annotation.

    Raises:
        RecordError: it has none, as in a test set.
    """
    answers = annotation.get("answers")
    if not isinstance(answers, list) or not answers or not all("answer" in answer for answer in answers):
        raise RecordError(f'question {name!r} has no answers; expected {{"answers": [{{"answer": …}}, …]}}')
    return answers


def read(files: ScoreFiles) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Answers and annotations (`--references`) by question_id."""
    path = files.path("references")
    if str(path).removesuffix(".gz").endswith(".jsonl"):
        return files.answers(), files.reference_rows("question_id")
    content = read_json(path)
    rows = content.get("annotations") if isinstance(content, Mapping) else content
    if not isinstance(rows, list):
        raise RecordError(f'{path}: expected VQA annotations, {{"annotations": […]}}')
    return files.answers(), files.reference_rows("question_id", rows=rows)


_COLUMNS = ("question_id", "question", "answers")
_TYPES = ("question_type", "answer_type")


def load(files: DataFiles) -> Iterator[Example]:
    """Examples of either format; the group is the question type."""
    path, split = files.path, files.split or "val2014"
    if path.name.endswith((".json", ".json.gz")) or (
        path.is_dir() and any(path.glob(f"OpenEnded_mscoco_{split}_questions.json*"))
    ):
        yield from _load_original(path, split, files.images)
        return
    for row, _, image, place in parquet_rows(path, split, "question_id", _COLUMNS, _TYPES):
        yield _example(row, row["answers"], image, place)


def _load_original(path: Path, split: str, images: Path | None) -> Iterator[Example]:
    """The JSON pair; a path to one of the two stands for their folder."""
    folder = path if path.is_dir() else path.parent
    asked = locate(folder, (f"OpenEnded_mscoco_{split}_questions.json",))
    answered = locate(folder, (f"mscoco_{split}_annotations.json",))
    annotations = {str(row["question_id"]): row for row in _list(answered, "annotations")}
    for row in _list(asked, "questions"):
        name = str(row["question_id"])
        if name not in annotations:
            raise RecordError(f"{answered}: question {name!r} is not in it; fetch both files of {split}")
        number = f"COCO_{split}_{int(row.get('image_id', 0)):012d}.jpg"
        image = named_image(images, number, asked) if images is not None else None
        yield _example({**annotations[name], **row}, annotations[name].get("answers"), image, asked)


def _list(file: Path, key: str) -> Iterator[dict[str, Any]]:
    content = read_json(file)
    rows = content.get(key) if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RecordError(f'{file}: expected {{"{key}": [{{…}}, …]}}')
    return unique(rows, "question_id", file)


def _example(row: Row, answers: Any, image: ImageRef | None, place: Path) -> Example:
    """One question; its ten answers in `meta` as the official annotations have them."""
    name = str(row["question_id"])
    if not isinstance(answers, list) or not answers:
        raise RecordError(f"{place}: {name!r} has no answers; expected the ten human ones")
    annotated = [each if isinstance(each, Mapping) else {"answer": str(each)} for each in answers]
    texts = [str(each.get("answer", "")) for each in annotated]
    return Example(
        id=name,
        question=question_text(row, "question", name, place),
        image=image,
        answers=tuple(dict.fromkeys(texts)),
        group=str(row.get("question_type", "")),
        meta={"question_id": name, "answers": annotated} | {key: row.get(key, "") for key in _TYPES},
    )


ROW = Benchmark(
    name="okvqa",
    loader=load,
    scorer=Scorer(evaluate, "GT-Vision-Lab/VQA: soft accuracy with its answer processing"),
    authors=authors_scorer(
        evaluate_as_authors,
        "exact match with any of the ten answers, not VQA accuracy",
        ONE_SIDED,
        "accepted answers with an apostrophe fall apart",
    ),
    reader=read,
    source="https://huggingface.co/datasets/lmms-lab/OK-VQA, val2014 (5,046 questions); "
    "original: https://okvqa.allenai.org",
    licence="CC BY 4.0 (annotations); pictures: Flickr's terms, as COCO",
    paper="Marino et al. 2019, arXiv 1906.00067",
    style="concise",
    groups="question_type",
    headline=("overall",),
    splits=("val2014", "train2014"),
    hub=HubFiles("lmms-lab/OK-VQA"),
    files="data/val2014-*.parquet of https://huggingface.co/datasets/lmms-lab/OK-VQA, or the two JSON "
    "files of https://okvqa.allenai.org/download.html",
    images="embedded in the parquet files; with the JSON files COCO's val2014",
)
