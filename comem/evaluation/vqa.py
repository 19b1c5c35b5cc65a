"""OK-VQA's score: VQA soft accuracy with its answer processing (GT-Vision-Lab/VQA).

An answer earns min(matches/3, 1) against nine of the ten human answers, averaged over which one is left
out. Where the humans differ, theirs and the model's are processed (punctuation, numerals, articles,
contractions); where all ten are the same, they are compared as they stand. So it is in the official
scorer, and so are the quirks below.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from comem.evaluation.files import ScoreFiles, match, read_predictions
from comem.evaluation.statistics import scores_of
from comem.records import RecordError, read_json
from comem.types import Report

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
    earned = sum(min(1.0, (agreeing - (text == said)) / 3) for text in texts)  # this human left out
    return earned / len(texts)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()  # as officially: no other white space


@lru_cache(maxsize=100_000)  # human answers repeat
def _cached(text: str) -> str:
    return process_words(process_punctuation(text))


def _process(text: str) -> str:
    return _cached(text) if len(text) <= _CACHED_LENGTH else process_words(process_punctuation(text))


def evaluate(
    predictions: Mapping[str, str], annotations: Mapping[str, Mapping[str, Any]], benchmark: str = "okvqa"
) -> Report:
    """Score short answers by question_id against the annotations by question_id."""
    names = match(predictions, annotations)
    earned = {
        name: soft_accuracy(predictions[name], human_answers(annotations[name], name)) for name in names
    }
    return report_of(earned, annotations, benchmark)


def report_of(
    earned: Mapping[str, float], annotations: Mapping[str, Mapping[str, Any]], benchmark: str
) -> Report:
    """The report over what each answered question earned."""
    metrics: dict[str, Any] = {"overall": _percent(list(earned.values()))}
    for key, field in (("perQuestionType", "question_type"), ("perAnswerType", "answer_type")):
        groups: dict[str, list[float]] = {}
        for name, value in earned.items():
            groups.setdefault(str(annotations[name].get(field, "")), []).append(value)
        metrics[key] = {group: _percent(values) for group, values in sorted(groups.items())}
    metrics["overall_missing_wrong"] = round(100 * sum(earned.values()) / len(annotations), 2)
    metrics |= {"answered": len(earned), "total": len(annotations)}
    scores = scores_of(earned, annotations, lambda name: str(annotations[name].get("question_type", "")))
    return Report(benchmark, metrics, len(annotations), {"overall": scores})


def _percent(values: Sequence[float]) -> float:
    return round(100 * sum(values) / len(values), 2)


def human_answers(annotation: Mapping[str, Any], name: str) -> Sequence[Mapping[str, Any]]:
    """The human answers of an annotation.

    Raises:
        RecordError: it has none, as in a test set.
    """
    answers = annotation.get("answers")
    if not isinstance(answers, list) or not answers or not all("answer" in answer for answer in answers):
        raise RecordError(f'question {name!r} has no answers; expected {{"answers": [{{"answer": …}}, …]}}')
    return answers


def read_annotations(files: ScoreFiles) -> dict[str, dict[str, Any]]:
    """The annotations (`--references`) by question_id."""
    path = files.path("references")
    if str(path).removesuffix(".gz").endswith(".jsonl"):
        return files.reference_rows("question_id")
    content = read_json(path)
    rows = content.get("annotations") if isinstance(content, Mapping) else content
    if not isinstance(rows, list):
        raise RecordError(f'{path}: expected VQA annotations, {{"annotations": […]}}')
    return files.reference_rows("question_id", rows=rows)


def evaluate_files(files: ScoreFiles) -> Report:
    """Score the official files as they stand."""
    annotations = read_annotations(files)
    return evaluate(read_predictions(files.path("predictions"), whole=files.whole), annotations)
