"""OK-VQA: questions about COCO pictures that need knowledge; ten human answers each (5,046 in val2014).

Two published formats:

- parquet (lmms-lab/OK-VQA): question_id, image, question, answers (a list of ten), question_type,
  answer_type; pictures are embedded;
- the original JSON pair `OpenEnded_mscoco_val2014_questions.json` (`questions`: image_id, question,
  question_id) and `mscoco_val2014_annotations.json` (`annotations`: question_id, question_type,
  answer_type, answers), with COCO's val2014 pictures in the image folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from comem.benchmarks.base import Benchmark
from comem.benchmarks.files import locate, named_image, question_text
from comem.benchmarks.hub import HubFiles
from comem.benchmarks.parquet import embedded_image, find_parquet, read_parquet
from comem.evaluation import vqa
from comem.records import RecordError, read_json, unique
from comem.types import Example, ImageRef, Report

_COLUMNS = ("question_id", "image", "question", "answers")
_TYPES = ("question_type", "answer_type")


def load(
    path: str | Path, *, image_folder: str | Path | None, split: str | None, question_types: str | Path | None
) -> Iterator[Example]:
    """Examples of either format (see `Benchmark.load`); the group is the question type."""
    split = split or "val2014"
    if _is_original(Path(path), split):
        yield from _load_original(Path(path), split, image_folder)
        return
    files = find_parquet(path, split)
    place = files[0].parent
    for row in unique(read_parquet(files, _COLUMNS, _TYPES), "question_id", place):
        name = str(row["question_id"])
        yield _example(row, row["answers"], embedded_image(row["image"], place, name), place)


def _is_original(path: Path, split: str) -> bool:
    if path.suffix == ".json" or path.name.endswith(".json.gz"):
        return True
    return path.is_dir() and any(path.glob(f"OpenEnded_mscoco_{split}_questions.json*"))


def _load_original(path: Path, split: str, image_folder: str | Path | None) -> Iterator[Example]:
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
        image = named_image(image_folder, number, asked) if image_folder is not None else None
        yield _example({**annotations[name], **row}, annotations[name].get("answers"), image, asked)


def _list(file: Path, key: str) -> Iterator[dict[str, Any]]:
    content = read_json(file)
    rows = content.get(key) if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RecordError(f'{file}: expected {{"{key}": [{{…}}, …]}}')
    return unique(rows, "question_id", file)


def _example(row: Mapping[str, Any], answers: Any, image: ImageRef | None, place: Path) -> Example:
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


def score(predictions: Mapping[str, str], examples: Sequence[Example]) -> Report:
    """VQA soft accuracy (see `comem.evaluation.vqa`)."""
    return vqa.evaluate(predictions, {example.id: example.meta for example in examples})


ROWS = {
    "okvqa": Benchmark(
        name="okvqa",
        source="https://huggingface.co/datasets/lmms-lab/OK-VQA, val2014 (5,046 questions); "
        "original: https://okvqa.allenai.org",
        licence="CC BY 4.0 (annotations); pictures: Flickr's terms, as COCO",
        paper="Marino et al. 2019, arXiv 1906.00067",
        languages=("en",),
        style="concise",
        loader=load,
        scorer=score,
        groups="question_type",
        headline=("overall",),
        splits=("val2014", "train2014"),
        hub=HubFiles("lmms-lab/OK-VQA"),
        files="data/val2014-*.parquet of https://huggingface.co/datasets/lmms-lab/OK-VQA, or the two JSON "
        "files of https://okvqa.allenai.org/download.html",
        images="embedded in the parquet files; with the JSON files COCO's val2014",
    )
}
