"""InfoSeek, its translations, and the collections in the same format (flags, the embedded world).

A record: data_id, image_id, question, answer, answer_eval, data_split; optionally question_type and
image_path (relative to the file). Questions: 73,620 in the validation set; the paper uses 4,708 of them,
which its authors translated into five languages with GPT-4o-mini.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comem.benchmarks.base import Benchmark, Scorer, authors_scorer
from comem.benchmarks.files import DataFiles, locate, of_split, question_text, row_image, tar_rows
from comem.benchmarks.scoring import (
    Answers,
    Row,
    Rows,
    ScoreFiles,
    harmonic_mean,
    harmonic_means,
    keyed,
    match,
    scores_of,
)
from comem.benchmarks.text import CUTS, after_colon, authors_answer, normalize
from comem.io.files import RecordError, read_csv, read_jsonl, unique
from comem.types import Example, Report

if TYPE_CHECKING:
    from comem.benchmarks.scoring import Array

_NUMBER = re.compile(r"[-+]?\.?\d+(?:,\d\d\d)*\.?\d*(?:[eE][-+]?\d+)?")
_TINY = 1e-12


def read_number(text: str) -> tuple[float, float] | float:
    """The number or range that a text states; (0, 0) when it states none, as officially.

    Of more than two numbers the first two count; two falling ones are no range, so the first counts.
    A hyphen after a digit separates ("9-10"); otherwise it is a sign.
    """
    found: list[float] = []
    for hit in _NUMBER.finditer(_spaced_hyphens(text)):
        found.append(_float(hit.group()))
        if len(found) == 2:
            return (found[0], found[1]) if found[0] <= found[1] else found[0]
    return found[0] if found else (0.0, 0.0)


def _spaced_hyphens(text: str) -> str:
    first, *rest = text.split("-")
    parts, previous = [first], first
    for part in rest:
        parts += [" - " if previous[-1:].isdigit() else "-", part]
        previous = part
    return "".join(parts)


def _float(text: str) -> float:
    """Officially a leading point is cut off (".5" is 5) while a signed one stays ("-.5" is -0.5)."""
    text = text.replace(",", "").strip(".")
    if text.count(".") > 1:  # "-.5.3"; the official scorer stops with an error here
        text = text[: text.index(".", text.index(".") + 1)]
    return float(text)


def matches(number: tuple[float, float] | float, accepted: tuple[float, float]) -> bool:
    """Whether a number lies in the accepted range, or a range lies in it or overlaps it by half.

    The overlap is intersection over union.
    """
    low, high = accepted
    if not isinstance(number, tuple):
        return low <= number <= high
    if low <= number[0] <= high and low <= number[1] <= high:
        return True
    low, high = sorted(accepted)
    overlap = max(0.0, min(number[1], high) - max(number[0], low))
    union = (number[1] - number[0] + _TINY) + (high - low + _TINY) - overlap
    return union != 0 and overlap / union >= 0.5 - _TINY


UNSEEN = {"unseen_question": "unseen_question_score", "unseen_entity": "unseen_entity_score"}
TYPES = {"time": "score_time", "numerical": "score_num", "string": "score_string"}


def counts_as(name: str) -> str:
    """The unseen split that a data_split counts as; officially, all but unseen_question are unseen_entity."""
    return "unseen_question" if name.endswith("unseen_question") else "unseen_entity"


@dataclass(frozen=True)
class Cell:
    """How many questions of one split and type there are, were answered, were answered rightly."""

    total: int = 0
    answered: int = 0
    correct: int = 0

    def __add__(self, other: Cell) -> Cell:
        return Cell(self.total + other.total, self.answered + other.answered, self.correct + other.correct)

    def percent(self, missing_wrong: bool = False) -> float:
        """Right answers in percent of those given (or of all), 0 when there are none."""
        count = self.total if missing_wrong else self.answered
        return round((self.correct / count if count else 0) * 100, 2)


Cells = Mapping[tuple[str, str], Cell]


def count(questions: Iterable[Question], values: Mapping[str, float]) -> dict[tuple[str, str], Cell]:
    """Counts by split and type; `values` has what each answered question earned."""
    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for asked in questions:
        count = counts[asked.split, asked.kind]
        count[0] += 1
        if asked.id in values:
            count[1] += 1
            count[2] += values[asked.id] == 1
    return {key: Cell(*count) for key, count in counts.items()}


def split_scores(cells: Cells, split: str, missing_wrong: bool) -> dict[str, float]:
    """The official four numbers of a split."""
    chosen = {key: cell for key, cell in cells.items() if counts_as(key[0]) == split}
    scores = {"score": sum(chosen.values(), Cell()).percent(missing_wrong)}
    for kind, name in TYPES.items():
        scores[name] = sum((c for key, c in chosen.items() if key[1] == kind), Cell()).percent(missing_wrong)
    return scores


def table(cells: Cells, part: int) -> dict[str, dict[str, float]]:
    """Counts and both accuracies by split (part 0) or type (part 1)."""
    rows: dict[str, Cell] = defaultdict(Cell)
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


def split_of(drawn: Mapping[str, Array], split: str) -> Array | None:
    """The drawn means of a split (see `comem.benchmarks.scoring`).

    None where nothing was answered, or where several data_splits make it up: means alone do not add up.
    """
    parts = [means for name, means in drawn.items() if counts_as(name) == split]
    return parts[0] if len(parts) == 1 else None


def final_of(drawn: Mapping[str, Array]) -> Array | None:
    """The final score over drawn means by split."""
    parts = [means for split in UNSEEN if (means := split_of(drawn, split)) is not None]
    return harmonic_means(parts) if len(parts) == len(UNSEEN) else None


#: The numbers that are made of the splits' means.
COMBINED = {"final_score": final_of} | {key: partial(split_of, split=split) for split, key in UNSEEN.items()}


@dataclass(frozen=True)
class Question:
    """What the scorer needs of a reference."""

    id: str
    split: str
    kind: str  # string, time or numerical
    answers: tuple[str, ...] = ()  # normalised
    range: tuple[float, float] = (0.0, 0.0)


def question(row: Row, normal: Callable[[str], str] = normalize) -> Question:
    """A reference row as the scorer needs it.

    Args:
        row: data_id, answer_eval, data_split and perhaps question_type, as published; without a type, the
            form of answer_eval says it.
        normal: how accepted answers are normalised.

    Raises:
        RecordError: no accepted answers, an unknown type, or a range that is none; names the question.
    """
    name, accepted = str(row.get("data_id")), row.get("answer_eval")
    if accepted is None or accepted == []:
        raise RecordError(f"reference {name!r} has no answer_eval; is this the test set, without answers?")
    kind = (row.get("question_type") or infer_kind(accepted)).lower()
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


def is_correct_for_authors(answer: str, asked: Question) -> bool:
    """Whether an answer is right as the authors coded it.

    It is cut behind its last colon before its box is looked for. Times are right when one text lies in
    the other.
    """
    cut = after_colon(answer)
    if asked.kind == "numerical":
        return matches(read_number(cut), asked.range)
    said = authors_answer(cut)
    if asked.kind == "time":
        return any(said and text and (said in text or text in said) for text in asked.answers)
    return said in asked.answers


def evaluate(
    answers: Answers,
    rows: Rows,
    benchmark: str = "infoseek",
    normal: Callable[[str], str] = normalize,
    right: Callable[[str, Question], bool] = is_correct,
) -> Report:
    """Score answers by the official definition.

    Args:
        answers: short answers by data_id.
        rows: as published, by data_id.
        benchmark: the name in the report.
        normal: what is done to accepted answers.
        right: when an answer is right.

    Returns:
        The official keys (final_score, unseen_question_score, unseen_entity_score, in percent, rounded
        to two digits on the way as officially), answered and total, the same with missing answers
        counted as wrong (`…_missing_wrong`), accuracy over all splits, per split and per type.
    """
    questions = {name: question(row, normal) for name, row in rows.items()}
    values = {name: float(right(answers[name], questions[name])) for name in match(answers, questions)}
    scores = scores_of(
        values,
        questions,
        lambda name: questions[name].split,
        lambda name: str(rows[name].get("language", "")),
    )
    cells = count(questions.values(), values)
    metrics: dict[str, Any] = {}
    for suffix, missing_wrong in (("", False), ("_missing_wrong", True)):
        splits = {key: split_scores(cells, split, missing_wrong) for split, key in UNSEEN.items()}
        final = harmonic_mean([scores["score"] for scores in splits.values()])
        metrics[f"final_score{suffix}"] = round(final, 2)
        metrics |= {key + suffix: scores for key, scores in splits.items()}
        metrics[f"accuracy{suffix}"] = sum(cells.values(), Cell()).percent(missing_wrong)
    metrics |= {"answered": len(values), "total": len(questions)}
    metrics |= {"by_split": table(cells, 0), "by_type": table(cells, 1)}
    metrics["notes"] = _notes(cells, rows.values())
    return Report(benchmark, metrics, len(questions), {"accuracy": scores})


def _notes(cells: Cells, rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """What a reader of the numbers must know."""
    notes = []
    splits = {split for split, _ in cells}
    for name in UNSEEN:
        if not any(counts_as(split) == name for split in splits):
            notes.append(f"no reference is in a {name} split: the official final score is 0, read accuracy")
    others = sorted(split for split in splits if not split.endswith(tuple(UNSEEN)))
    if others:
        notes.append(f"splits that count as unseen_entity, as officially: {', '.join(map(repr, others))}")
    untyped = sum(not row.get("question_type") for row in rows)
    if untyped:
        notes.append(f"{untyped} question types inferred: ranges Numerical, else String (as Time)")
    unanswered = sum(cell.total - cell.answered for cell in cells.values())
    if unanswered:
        notes.append(f"{unanswered} questions are unanswered: the official score leaves them out")
    return notes


def read(files: ScoreFiles) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Answers and reference rows by data_id; the rows with the types of the types file.

    Raises:
        RecordError: a file is broken, an id comes twice, or a reference has no type in the types file.
    """
    path = files.path("references")
    rows = files.reference_rows("data_id", rows=_csv_rows(path) if path.suffix == ".csv" else None)
    if files.question_types is not None:
        types = keyed(files.question_types, key="data_id")
        untyped = [name for name in rows if name not in types]
        if untyped:
            raise RecordError(
                f"{files.question_types}: {len(untyped)} references have no type, the first is {untyped[0]!r}"
            )
        for name, row in rows.items():
            row["question_type"] = str(types[name].get("question_type"))
    return files.answers(), rows


_LANGUAGES = {
    "en": "", "bg": "_bulgarian", "zh": "_chinese", "pt": "_portuguese", "ru": "_russian", "es": "_spanish",
}  # fmt: skip


def load(files: DataFiles, names: Sequence[str], language: str = "en") -> Iterator[Example]:
    """Examples from a file in InfoSeek's format, in a folder of the first of these names.

    The forms that EchoSight (`infoseek_test_filtered.csv`) and ReflectiVA (`val-0000.tar` …) exchange are
    read, too; they name no splits, so that accuracy is what their scores tell, but where the published file
    lies beside a CSV (`_csv_rows`).
    """
    if names[0].endswith(".csv"):
        files = replace(files, path=locate(files.path, names))
    if other := _exchanged(files):
        yield from (_example(row, files.path, files.images, language) for row in other)
        return
    file, split = _choose(files, names)
    types = keyed(files.question_types, "data_id") if files.question_types is not None else {}
    for row in of_split(unique(read_jsonl(file), "data_id", file), file, split):
        kind = types.get(str(row["data_id"]), {}).get("question_type")
        yield _example({**row, "question_type": kind} if kind else row, file, files.images, language)


def _exchanged(files: DataFiles) -> Iterator[dict[str, Any]] | None:
    """The rows of a file that groups exchange; None for a file as published."""
    path = files.path
    if path.suffix == ".csv":
        return _csv_rows(path)
    if path.suffix == ".tar" or (path.is_dir() and any(path.glob("*.tar"))):
        return unique(tar_rows(path, files.images), "data_id", path)
    return None


PUBLISHED, PUBLISHED_TYPES = "infoseek_val.jsonl", "infoseek_val_qtype.jsonl"


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a CSV file; with answers, split and type of the published file where that lies beside.

    Raises:
        RecordError: an id twice, or one that the published file lacks.
    """
    rows = unique(map(_of_csv, read_csv(path, ("data_id", "question", "answer"))), "data_id", path)
    beside = [path.with_name(PUBLISHED), path.with_name(f"{PUBLISHED}.gz")]
    published = next((file for file in beside if file.is_file()), None)
    if published is None:
        yield from rows
        return
    own, types = keyed(published, "data_id"), path.with_name(PUBLISHED_TYPES)
    kinds = keyed(types, "data_id") if types.is_file() else {}
    for row in rows:
        name = row["data_id"]
        if name not in own:
            raise RecordError(f"{path}: {name!r} is not in {published}; is that file of another split?")
        taken: dict[str, Any] = {
            key: own[name][key] for key in ("answer", "answer_eval", "data_split") if key in own[name]
        }
        yield {**row, **taken, "question_type": kinds.get(name, {}).get("question_type")}


def _of_csv(row: Mapping[str, str]) -> dict[str, Any]:
    answers = [text for part in row["answer"].split("|") if (text := part.strip())]
    image = row.get("dataset_image_ids", "").partition("|")[0].strip()
    return {**row, "answer": answers, "answer_eval": answers, "image_id": image, "question_type": None}


def _choose(files: DataFiles, names: Sequence[str]) -> tuple[Path, str | None]:
    """The file, and the split that is still to be picked among its rows.

    In a folder with a file for each split, the split names the file.
    """
    split = files.split
    if files.path.is_dir() and any("{split}" in name for name in names):
        by_split = [name.replace("{split}", (split or "val").split("_")[0]) for name in names]
        return locate(files.path, by_split), split if "_" in (split or "") else None
    return locate(files.path, names), split


def _example(row: Row, file: Path, images: Path | None, language: str) -> Example:
    name = str(row["data_id"])
    answers = row.get("answer") or ()
    return Example(
        id=name,
        question=question_text(row, "question", name, file),
        image=row_image(row, file, images),
        answers=tuple(map(str, answers)) if isinstance(answers, (list, tuple)) else (str(answers),),
        language=str(row.get("language") or language),
        group=str(row.get("data_split", "")),
        meta=row,
    )


_OFFICIAL = Scorer(
    evaluate,
    "edchengg/infoseek_eval: exact match, or number in range (IoU >= 0.5); harmonic mean of the unseen "
    "splits",
    combined=COMBINED,
)
_AUTHORS = authors_scorer(
    partial(evaluate, normal=authors_answer, right=is_correct_for_authors),
    f"{CUTS}, in predictions and accepted answers alike, so that different answers become equal: always "
    'answering "Paris" scores 3.59 % of the textual questions where 0.21 % is right; times match by '
    'substring ("19" is 1990); text before the last colon is dropped',
    combined=COMBINED,
)


def _row(
    name: str, names: Sequence[str], language: str = "en", style: str = "paper", **facts: Any
) -> Benchmark:
    return Benchmark(
        name=name,
        loader=partial(load, names=names, language=language),
        scorer=_OFFICIAL,
        authors=_AUTHORS,
        reader=read,
        style=style,
        **{"languages": (language,), **facts},
    )


_INFOSEEK: dict[str, Any] = {
    "source": "https://github.com/open-vision-language/infoseek, validation; the paper's 4,708 of its 73,620 "
    "questions and their translations: https://github.com/WenyiWU0111/CoMEM",
    "groups": "data_split: val_unseen_question, val_unseen_entity",
    "headline": ("final_score", "unseen_question_score", "unseen_entity_score"),
    "files": "infoseek_val.jsonl (or infoseek_val_spanish.jsonl … for the translations) from "
    "https://github.com/WenyiWU0111/CoMEM, or the whole set from "
    "http://storage.googleapis.com/gresearch/open-vision-language/infoseek/infoseek_val.jsonl",
    "images": "OVEN's, named by image_id: see https://github.com/edchengg/oven_eval",
    "licence": "Apache-2.0 (annotations)",
    "paper": "Chen et al. 2023, arXiv 2302.11713; translations: CoMEM, arXiv 2505.17670",
}

INFOSEEK, INFOSEEK_BG, INFOSEEK_ZH, INFOSEEK_PT, INFOSEEK_RU, INFOSEEK_ES = (
    _row(
        "infoseek" if language == "en" else f"infoseek_{language}",
        (f"infoseek_{{split}}{suffix}.jsonl",),
        language,
        **_INFOSEEK,
    )
    for language, suffix in _LANGUAGES.items()
)
INFOSEEK_FILTERED = _row(
    "infoseek_filtered",
    ("infoseek_test_filtered.csv",),
    **{
        **_INFOSEEK,
        "source": "the questions of InfoSeek's validation set whose articles EchoSight's knowledge base has: "
        "infoseek_test_filtered.csv of https://github.com/Go2Heart/EchoSight",
        "files": "infoseek_test_filtered.csv, with infoseek_val.jsonl and infoseek_val_qtype.jsonl beside it "
        "for the official score (without them accuracy alone)",
        "paper": "Yan and Xie 2024, EchoSight, arXiv 2407.12735; Chen et al. 2023, arXiv 2302.11713",
    },
)
FLAGS = _row(
    "flags",
    ("questions.jsonl",),
    style="short",
    files="a folder with questions.jsonl and images/",
    source="245 flags with facts as WIT rows and InfoSeek-style questions (facts: mledoze/countries)",
    licence="flags: public domain; facts: ODbL 1.0",
    paper="none",
)
TOY = _row(
    "toy",
    ("{split}.jsonl",),
    style="short",
    files="the folder that comem toy build makes",
    source="generated: comem toy build OUT",
    licence="Apache-2.0",
    paper="none",
    languages=tuple(_LANGUAGES),
)
