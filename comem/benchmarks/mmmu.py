"""MMMU: college questions of 30 subjects, by choice or open (900 in validation).

A record (parquet): id (validation_Accounting_1), question with `<image 1>` … in it, options (a list as text),
image_1 … image_7, answer (a letter; open ones a text, or several as a list in text), question_type
(multiple-choice, open), subfield, topic_difficulty, …. Published in a folder for each subject (MMMU/MMMU), or
in one file a split (lmms-lab/MMMU). Several pictures of a question are put side by side, numbered.

The official script draws a letter where an answer names none. Here that is wrong, and counted; what drawing
earns in the mean is `overall_guessed`.
"""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from comem.benchmarks.base import Benchmark, Scorer
from comem.benchmarks.files import (
    DataFiles,
    HubFiles,
    embedded_image,
    find_parquet,
    question_text,
    read_parquet,
)
from comem.benchmarks.scoring import (
    Answers,
    Row,
    Rows,
    ScoreFiles,
    checked_text,
    in_split,
    keyed,
    match,
    mean_report,
    read_predictions,
)
from comem.benchmarks.text import extract_answer
from comem.io.files import RecordError, read_json, unique
from comem.types import Example, ImageRef, Report

CHOICE = "multiple-choice"
_MARKS = (",", ".", "!", "?", ";", ":", "'")
#: An open answer stands behind one of these; in the last sentence behind an equals sign, too.
_KEYS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_TRIVIAL = {":", ",", ".", "!", "?", ";", "'"}
_SENTENCES = re.compile(r"\.\s(?=[A-Z])|\n")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)


def letters(options: Sequence[str]) -> str:
    """The options' letters."""
    return "".join(chr(ord("A") + number) for number in range(len(options)))


def parse_choice(response: str, options: Sequence[str]) -> str:
    """The letter that a response chooses by the official rules; "" where those would draw one.

    The first form that is there: "(A)", "A " (also behind other letters), "A.", an option's text in more
    than five words; of several the last one.
    """
    for mark in _MARKS:
        response = response.strip(mark)
    text = f" {response} "
    known = letters(options)
    for form, place in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        if found := [letter for letter in known if form.format(letter) in text]:
            return max(found, key=lambda letter: text.rfind(place.format(letter)))
    if len(text.split()) <= 5:
        return ""
    lower = text.lower()
    found = [at for at, option in zip(known, options, strict=True) if option.lower() in lower]
    by_letter = dict(zip(known, options, strict=True))
    return max(found, key=lambda letter: lower.rfind(by_letter[letter].lower()), default="")


def parse_open(response: str) -> list[str | float]:
    """What an open response may have answered: the ends of its telling sentences, and the numbers in them."""
    # Sentences are split before capitals, of which lower case leaves none: officially so, too.
    sentences = _SENTENCES.split(response.strip().strip(".").lower())
    told = []
    for number, sentence in enumerate(sentences, start=1):
        keys = (*_KEYS, "=") if number == len(sentences) else _KEYS
        ends = [sentence.split(key)[-1].strip() for key in keys if key in sentence]
        shortest = _shortest(ends)
        if shortest and shortest not in _TRIVIAL:
            told.append(shortest)
    told = told or [response.strip().strip(".").lower()]
    numbers = [hit for text in told for pattern in _NUMBERS for hit in pattern.findall(text)]
    return list(dict.fromkeys(form for text in (*told, *numbers) for form in forms(text)))


def _shortest(ends: Sequence[str]) -> str:
    """The shortest of the texts, the first of equals; an empty one gives way to the next, as officially."""
    found = ""
    for end in ends:
        if not found or len(end) < len(found):
            found = end
    return found


def forms(text: str) -> list[str | float]:
    """A text as it is compared: a number of two decimals, or lower case; one letter alone needs a blank."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        lower = text.lower()
        return [f" {lower}", f"{lower} "] if len(lower) == 1 else [lower]


def is_right(said: Sequence[str | float], answers: Sequence[str]) -> bool:
    """Whether one of the answers is in what was said: numbers are equal, texts contained."""
    wanted = [form for answer in answers for form in forms(answer)]
    texts = [form for form in wanted if isinstance(form, str)]
    return any(
        any(text in each for text in texts) if isinstance(each, str) else each in wanted for each in said
    )


def subject_of(name: str) -> str:
    """The subject in an id, `validation_Art_Theory_12`."""
    return "_".join(name.split("_")[1:-1])


def gold(row: Row, name: str) -> list[str]:
    """The accepted answers of a row of either form.

    Raises:
        RecordError: it has none, as in the test split.
    """
    value = row.get("ground_truth", row.get("answer"))
    if isinstance(value, str) and value.startswith("["):
        try:
            value = ast.literal_eval(value)  # only literals: nothing in the text is run
        except (ValueError, SyntaxError):
            value = [value]
    found = [str(each) for each in (value if isinstance(value, list) else [value]) if each is not None]
    if not found or found == ["?"]:
        raise RecordError(f"question {name!r} has no answer; the test split is scored on EvalAI only")
    return found


def evaluate(answers: Answers, rows: Rows, benchmark: str = "mmmu") -> Report:
    """The official micro accuracy, over all and by subject."""
    values, guessed, unparsed = {}, 0.0, 0
    for name in match(answers, rows):
        row, right = rows[name], gold(rows[name], name)
        if row.get("question_type") != CHOICE:
            values[name] = float(is_right(parse_open(answers[name]), right))
            continue
        options = listed(row, name)
        letter = parse_choice(answers[name], options) if options else answers[name].strip()
        values[name] = float(letter in right)
        if not letter:
            unparsed += 1
            guessed += 1 / len(options)
    report = mean_report(benchmark, "overall", values, rows, subject_of)
    by_subject: dict[str, list[float]] = {}
    for name, value in values.items():
        by_subject.setdefault(subject_of(name), []).append(value)
    more: dict[str, Any] = {
        "overall_guessed": 100 * (sum(values.values()) + guessed) / len(values),
        "by_pair": {name: 100 * sum(each) / len(each) for name, each in sorted(by_subject.items())},
        "unparsable": unparsed,
    }
    return Report(benchmark, {**report.metrics, **more}, report.count, report.scores)


def listed(row: Row, name: str) -> list[str]:
    """The options; none in the official file of answers.

    Raises:
        RecordError: the text is no list.
    """
    value = row.get("options")
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)  # only literals: nothing in the text is run
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise RecordError(f"question {name!r}: its options are no list: {value!r:.60}") from error
    return [str(each) for each in value or ()]


def read(files: ScoreFiles) -> tuple[dict[str, str], dict[str, Any]]:
    """Outputs and rows by id.

    Predictions: the official `{id: answer}`, or rows with an id. References: the official
    `answer_dict_val.json` (letters only: it has no options), or the parquet files.
    """
    predictions, path = files.path("predictions"), files.path("references")
    outputs = _by_id(predictions, files.whole)
    if path.suffix != ".json":
        examples = load(DataFiles(path, split=files.split))
        return outputs, {example.id: example.meta for example in examples}
    rows = read_json(path)
    if not isinstance(rows, Mapping) or not all(isinstance(row, Mapping) for row in rows.values()):
        raise RecordError(
            f"{path}: expected {{id: {{question_type, ground_truth}}}}, as answer_dict_val.json"
        )
    return outputs, in_split({name: dict(row) for name, row in rows.items()}, files.split, path)


def _by_id(path: Path, whole: bool) -> dict[str, str]:
    if not str(path).removesuffix(".gz").endswith(".json"):
        return read_predictions(path, whole=whole)
    content = read_json(path)
    if isinstance(content, Mapping):
        return {name: checked_text(text, name, path) for name, text in content.items()}
    outputs = {name: checked_text(row.get("prediction"), name, path) for name, row in keyed(path).items()}
    return outputs if whole else {name: extract_answer(text) for name, text in outputs.items()}


SPLITS = ("validation", "dev", "test")
_COLUMNS = ("id", "question", "options", "answer", "question_type")
_PICTURES = tuple(f"image_{number}" for number in range(1, 8))


def load(files: DataFiles) -> Iterator[Example]:
    """Examples of all subjects below a folder, or of one file; the group is the subject."""
    split = files.split or SPLITS[0]
    for part in _subjects(files.path, split):
        parts = find_parquet(part, split)
        for row in unique(read_parquet(parts, _COLUMNS, _PICTURES), "id", part):
            yield _example(row, parts[0])


def _subjects(path: Path, split: str) -> list[Path]:
    """The file or folder itself, or each subject's folder in it."""
    inside = sorted(path.iterdir()) if path.is_dir() else []
    subjects = [each for each in inside if each.is_dir() and any(each.glob(f"{split}-*.parquet"))]
    return subjects if subjects and not (path / "data").is_dir() else [path]


def _example(row: dict[str, Any], file: Path) -> Example:
    name = str(row["id"])
    pictures = [row.pop(key) for key in _PICTURES if key in row]
    images = [embedded_image(cell, file, name) for cell in pictures if cell]
    options = listed(row, name) if row["question_type"] == CHOICE else []
    if row["question_type"] == CHOICE and len(options) < 2:
        raise RecordError(f"{file}: {name!r} has no options")
    known = row["answer"] not in (None, "", "?")
    right = gold(row, name) if known else []
    if options and known:
        right = [options[letters(options).index(each)] for each in right if each in letters(options)]
    return Example(
        id=name,
        question=question_text(row, "question", name, file),
        image=side_by_side(images) if images else None,
        answers=tuple(dict.fromkeys(right)),
        choices=tuple(options),
        group=subject_of(name),
        meta={**row, "data_split": name.partition("_")[0]},
    )


def side_by_side(images: Sequence[ImageRef]) -> ImageRef:
    """One picture of several, each under its number."""
    if len(images) == 1:
        return images[0]
    from PIL import Image, ImageDraw

    from comem.io.images import open_image

    opened = [open_image(each) for each in images]
    band, gap = 24, 8
    width = sum(each.width for each in opened) + gap * (len(opened) - 1)
    canvas = Image.new("RGB", (width, max(each.height for each in opened) + band), "white")
    drawing, left = ImageDraw.Draw(canvas), 0
    for number, each in enumerate(opened, start=1):
        drawing.text((left + 2, 4), f"image {number}", fill="black")
        canvas.paste(each, (left, band))
        left += each.width + gap
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return ImageRef(data=buffer.getvalue())


ROW = Benchmark(
    name="mmmu",
    loader=load,
    scorer=Scorer(
        evaluate,
        "MMMU-Benchmark/MMMU, eval_utils.py: letters by its rules, open answers contained or equal as "
        "numbers; what names no letter is wrong (officially: drawn)",
    ),
    reader=read,
    short=lambda text, row: extract_answer(text),
    source="https://huggingface.co/datasets/MMMU/MMMU, validation (900 questions); answers: "
    "eval/answer_dict_val.json of https://github.com/MMMU-Benchmark/MMMU",
    licence="Apache-2.0 (annotations); pictures: of textbooks and quizzes, their own",
    paper="Yue et al. 2024, CVPR, arXiv 2311.16502",
    style="exam",
    groups="subject",
    headline=("overall", "overall_guessed"),
    splits=SPLITS,
    hub=HubFiles("MMMU/MMMU", pattern="*/{split}-*.parquet"),
    files="*/validation-*.parquet of https://huggingface.co/datasets/MMMU/MMMU",
    images="embedded in the parquet files",
)
