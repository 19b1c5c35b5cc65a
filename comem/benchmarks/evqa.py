"""Encyclopedic-VQA (EVQA): detailed properties of species and landmarks.

The paper synthesises from its training split and does not evaluate on it.

`train.csv`, `val.csv`, `test.csv`, a row a question: question, answer (alternatives separated by "|", the
parts of a list by "&&"), question_type (templated, automatic, multi_answer, 2_hop), dataset_name
("inaturalist", "landmarks"), dataset_image_ids (up to five, separated by "|"), wikipedia_url, evidence, ….
Each question goes with its first picture. The image folder holds:

- `landmarks/train/0/1/2/012….jpg` (or without `landmarks/` or `train/`), as Google Landmarks v2 unpacks;
- `inaturalist/train.json`, `val.json` … beside the folders that they name, as iNaturalist 2021 unpacks;
- or simply `ID.jpg`.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from comem.benchmarks import bem
from comem.benchmarks.base import Benchmark, Scorer
from comem.benchmarks.files import DataFiles, image_by_id, locate, of_split, question_text
from comem.benchmarks.scoring import Answers, Row, Rows, ScoreFiles, match, mean_report, means_by
from comem.io.files import RecordError, read_json
from comem.io.files import read_csv as csv_records
from comem.types import Example, ImageRef, Report

NOTE = (
    "exact match only: the official score also asks BEM (a BERT model) about answers that do not match "
    "(--scorer bem --judge DIR)"
)
COLUMNS = ("question", "answer", "question_type", "dataset_name", "dataset_image_ids")
TYPES = ("templated", "automatic", "multi_answer", "2_hop")
#: A list is right from this intersection over union on.
IOU = 0.5

_DELETED = str.maketrans("", "", string.punctuation + "‘’´`_")
_PREFIX = re.compile(r"\b(the answer is|a|an|the)\b")
_SPAN = "<extra_id_0> "
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_WORDS = {word: str(number) for number, word in enumerate(_NUMBERS)}
_WORDS |= {"none": "0", "entailment": "yes", "true": "yes", "contradiction": "no", "false": "no"}


@lru_cache(maxsize=100_000)  # accepted answers repeat
def process(text: str) -> str:
    """Lower case, without punctuation and articles, numerals as digits, single spaces."""
    text = text.lower().replace("\n", " ").replace("\t", " ").strip()
    if text.startswith(_SPAN):  # some language models begin so
        text = text.replace(_SPAN, "")
    text = text.translate(_DELETED)
    return " ".join(_WORDS.get(word, word) for word in _PREFIX.sub(" ", text).split())


def accepted(row: Row, name: str) -> list[str]:
    """The accepted answers of a row, several where several people answered; a list's parts lie between "&&".

    Raises:
        RecordError: it has none.
    """
    found = [text for one in str(row.get("answer") or "").split("|") if (text := one.strip(" &"))]
    if not found:
        raise RecordError(f"question {name!r} has no answer")
    return found


def is_right(prediction: str, answers: Sequence[str], listed: bool) -> bool:
    """Whether a short answer matches one of the accepted ones; `listed`: they are lists of things."""
    if not listed:
        said = process(prediction)
        return bool(said) and any(process(answer) == said for answer in answers)
    given = _parts(prediction.replace(" and ", ",").replace(" & ", ",").split(","))
    wanted = [_parts(answer.split("&&")) for answer in answers]
    return any(each and len(each & given) / len(each | given) >= IOU for each in wanted)


def _parts(texts: Iterable[str]) -> set[str]:
    return {found for text in texts if (found := process(text))}


def evaluate(answers: Answers, rows: Rows, benchmark: str = "evqa") -> Report:
    """Exact match of short answers by id with the CSV's rows by id: the official score without BEM."""
    kinds, values = _kinds(rows), _exact(answers, rows)
    more: dict[str, Any] = {"by_question_type": means_by(values, kinds.__getitem__), "notes": [NOTE]}
    return mean_report(benchmark, "exact_match", values, rows, kinds.__getitem__, **more)


def _kinds(rows: Rows) -> dict[str, str]:
    return {name: str(row.get("question_type", "")) for name, row in rows.items()}


def _exact(answers: Answers, rows: Rows) -> dict[str, float]:
    """What exact match earns, by id."""
    kinds = _kinds(rows)
    return {
        name: float(is_right(answers[name], accepted(rows[name], name), kinds[name] == "multi_answer"))
        for name in match(answers, rows)
    }


def evaluate_with_bem(
    answers: Answers, rows: Rows, benchmark: str = "evqa", judge: Path | None = None
) -> Report:
    """The official score: exact match, and BEM about answers that do not match, the best over the references.

    Raises:
        ValueError: no weights; says where they come from.
    """
    if judge is None:
        raise ValueError(f"{benchmark}: the scorer bem asks BEM, a BERT that judges answers; {bem.REMEDY}")
    kinds, exact = _kinds(rows), _exact(answers, rows)
    asked = [
        (name, each) for name in exact if not exact[name] for each in compared(rows[name], answers[name])
    ]
    scores = bem.Bem(judge).scores([each for _, each in asked])
    found = {name for (name, _), score in zip(asked, scores, strict=True) if score >= bem.THRESHOLD}
    values = {name: max(value, float(name in found)) for name, value in exact.items()}
    more: dict[str, Any] = {
        "exact_match": 100 * sum(exact.values()) / len(exact),
        "judged": len({name for name, _ in asked}),
        "by_question_type": means_by(values, kinds.__getitem__),
        "notes": [f"BEM's weights: {judge}"],
    }
    return mean_report(benchmark, "score", values, rows, kinds.__getitem__, **more)


def compared(row: Mapping[str, Any], said: str) -> list[bem.Compared]:
    """What BEM is asked about an answer, once for each reference; a list's parts are joined by commas."""
    listed = row.get("question_type") == "multi_answer"
    references = [each for each in str(row.get("answer") or "").split("|") if each.strip(" &")]
    return [
        bem.Compared(str(row.get("question", "")), each.replace("&&", ",") if listed else each, said)
        for each in references
    ]


def read_csv(path: str | Path) -> Iterator[dict[str, Any]]:
    """The rows of a published file, each with a `data_id` of its split and its place: the file has no ids.

    `exchanged_id` is what EchoSight and OMGM call them, who leave out two hops before they count.

    Raises:
        RecordError: another file, or a damaged one; names file and line.
    """
    path = Path(path)
    counted = 0
    for number, row in enumerate(csv_records(path, COLUMNS)):
        split = row.get("encyclopedic_vqa_split") or path.stem
        hops = row["question_type"] == "2_hop"
        exchanged = {} if hops else {"exchanged_id": f"E-VQA_{counted}"}
        counted += not hops
        yield {**row, "data_id": f"evqa_{split}_{number:07d}", "split": split, **exchanged}


def read(files: ScoreFiles) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Answers and rows by id."""
    path = files.path("references")
    rows = files.reference_rows("data_id", rows=read_csv(path) if path.suffix == ".csv" else None)
    return files.answers(), rows


SPLITS = ("test", "val", "train")
_LANDMARK_FOLDERS = (
    "landmarks/train", "landmarks/index", "landmarks/test", "landmarks", "train", "index", "",
)  # fmt: skip
_SPECIES_FOLDERS = ("inaturalist", "")
_SPECIES_LISTS = ("train.json", "val.json", "train_mini.json", "public_test.json")


def load(files: DataFiles) -> Iterator[Example]:
    """Examples of a CSV file; the group is the question type."""
    file = locate(files.path, (f"{files.split or SPLITS[0]}.csv",))
    for row in of_split(read_csv(file), file, files.split, "split", str.__eq__):
        yield _example(row, file, files.images)


def _example(row: Row, file: Path, folder: Path | None) -> Example:
    name = str(row["data_id"])
    kind = row["question_type"]
    if kind not in TYPES:
        raise RecordError(f"{file}: {name!r} is of the type {kind!r}; known: {', '.join(TYPES)}")
    image_id = str(row["dataset_image_ids"]).partition("|")[0].strip()
    return Example(
        id=name,
        question=question_text(row, "question", name, file),
        image=picture(folder, str(row["dataset_name"]), image_id) if folder and image_id else None,
        answers=tuple(dict.fromkeys(_readable(answer) for answer in accepted(row, name))),
        group=kind,
        meta=row,
    )


def _readable(answer: str) -> str:
    return ", ".join(part.strip() for part in answer.split("&&") if part.strip())


def picture(folder: Path, dataset: str, image_id: str) -> ImageRef:
    """Where a picture lies; a missing one is found out when it is opened.

    Args:
        folder: the image folder.
        dataset: "inaturalist" or "landmarks".
        image_id: a number, or sixteen hexadecimal digits.
    """
    flat = image_by_id(folder, image_id)
    if Path(str(flat.path)).is_file():
        return flat
    if dataset == "landmarks":
        places = [folder / place / "/".join(image_id[:3]) / f"{image_id}.jpg" for place in _LANDMARK_FOLDERS]
        return ImageRef(path=str(next((place for place in places if place.is_file()), places[0])))
    listed = _species(folder).get(image_id)
    return ImageRef(path=listed) if listed else flat


@lru_cache(maxsize=2)
def _species(folder: Path) -> dict[str, str]:
    """iNaturalist's pictures by id, from its lists (`{"images": [{"id", "file_name"}]}`)."""
    found: dict[str, str] = {}
    for place in _SPECIES_FOLDERS:
        for name in _SPECIES_LISTS:
            if (file := folder / place / name).is_file():
                images = read_json(file)["images"]
                found |= {str(row["id"]): str(folder / place / row["file_name"]) for row in images}
    return found


ROW = Benchmark(
    name="evqa",
    loader=load,
    scorer=Scorer(
        evaluate,
        "google-research/encyclopedic_vqa without BEM: exact match; lists from an IoU of 0.5 on",
    ),
    others={
        "bem": Scorer(
            evaluate_with_bem,
            "google-research/encyclopedic_vqa: exact match, lists from an IoU of 0.5 on; else BEM >= 0.5",
            judge="BEM",
            headline=("score",),
        )
    },
    reader=read,
    source="https://github.com/google-research/google-research/tree/master/encyclopedic_vqa, test.csv",
    licence="not stated beside the files; pictures: each data set's own",
    paper="Mensink et al. 2023, ICCV, arXiv 2306.09224",
    style="concise",
    groups="question_type",
    headline=("exact_match",),
    splits=SPLITS,
    files="train.csv, val.csv or test.csv of https://storage.googleapis.com/encyclopedic-vqa/",
    images="iNaturalist 2021 (archives, JSON lists) in inaturalist/, Google Landmarks v2 in landmarks/",
)
