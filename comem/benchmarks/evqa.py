"""Encyclopedic-VQA (EVQA): detailed properties of species and landmarks; the paper synthesises from its
training split and does not evaluate on it.

`train.csv`, `val.csv`, `test.csv`, a row a question: question, answer (alternatives separated by "|", the
parts of a list by "&&"), question_type (templated, automatic, multi_answer, 2_hop), dataset_name
("inaturalist", "landmarks"), dataset_image_ids (up to five, separated by "|"), wikipedia_url, evidence, ….
Each question goes with its first picture. The image folder holds:

- `landmarks/train/0/1/2/012….jpg` (or without `landmarks/` or `train/`), as Google Landmarks v2 unpacks;
- `inaturalist/train.json`, `val.json` … beside the folders that they name, as iNaturalist 2021 unpacks;
- or simply `ID.jpg`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from comem.benchmarks.base import Benchmark
from comem.benchmarks.files import image_by_id, locate, nothing_asked, question_text
from comem.evaluation import evqa
from comem.records import RecordError, read_json
from comem.types import Example, ImageRef, Report

SPLITS = ("test", "val", "train")
_LANDMARK_FOLDERS = (
    "landmarks/train",
    "landmarks/index",
    "landmarks/test",
    "landmarks",
    "train",
    "index",
    "",
)
_SPECIES_FOLDERS = ("inaturalist", "")
_SPECIES_LISTS = ("train.json", "val.json", "train_mini.json", "public_test.json")


def load(
    path: str | Path, *, image_folder: str | Path | None, split: str | None, question_types: str | Path | None
) -> Iterator[Example]:
    """Examples of a CSV file (see `Benchmark.load`); the group is the question type."""
    file = locate(path, (f"{split or SPLITS[0]}.csv",))
    folder = Path(image_folder) if image_folder is not None else None
    found: set[str] = set()
    wanted = 0
    for row in evqa.read_csv(file):
        found.add(row["split"])
        if split is None or row["split"] == split:
            wanted += 1
            yield _example(row, file, folder)
    if not wanted:
        raise nothing_asked(file, split, sorted(found))


def _example(row: Mapping[str, Any], file: Path, folder: Path | None) -> Example:
    name = str(row["data_id"])
    kind = row["question_type"]
    if kind not in evqa.TYPES:
        raise RecordError(f"{file}: {name!r} is of the type {kind!r}; known: {', '.join(evqa.TYPES)}")
    image_id = str(row["dataset_image_ids"]).partition("|")[0].strip()
    return Example(
        id=name,
        question=question_text(row, "question", name, file),
        image=picture(folder, str(row["dataset_name"]), image_id) if folder and image_id else None,
        answers=tuple(dict.fromkeys(_readable(answer) for answer in evqa.accepted(row, name))),
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


def score(predictions: Mapping[str, str], examples: Sequence[Example]) -> Report:
    """Exact match, the official score without BEM (see `comem.evaluation.evqa`)."""
    return evqa.evaluate(predictions, {example.id: example.meta for example in examples})


ROWS = {
    "evqa": Benchmark(
        name="evqa",
        source="https://github.com/google-research/google-research/tree/master/encyclopedic_vqa, test.csv",
        licence="not stated beside the files; pictures: each data set's own",
        paper="Mensink et al. 2023, ICCV, arXiv 2306.09224",
        languages=("en",),
        style="concise",
        loader=load,
        scorer=score,
        groups="question_type",
        headline=("exact_match",),
        splits=SPLITS,
        files="train.csv, val.csv or test.csv of https://storage.googleapis.com/encyclopedic-vqa/",
        images="iNaturalist 2021 (archives, JSON lists) in inaturalist/, Google Landmarks v2 in landmarks/",
    )
}
