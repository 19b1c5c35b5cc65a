"""InfoSeek, its translations, and the collections in the same format (flags, the embedded world).

A record: data_id, image_id, question, answer, answer_eval, data_split; optionally question_type and
image_path (relative to the file). Questions: 73,620 in the validation set; the paper uses 4,708 of them,
which its authors translated into five languages with GPT-4o-mini.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from comem.benchmarks.base import Benchmark
from comem.benchmarks.files import image_by_id, locate, nothing_asked, question_text
from comem.evaluation import infoseek
from comem.evaluation.files import keyed
from comem.records import read_jsonl, unique
from comem.types import Example, ImageRef, Report

_LANGUAGES = {
    "en": "",
    "bg": "_bulgarian",
    "zh": "_chinese",
    "pt": "_portuguese",
    "ru": "_russian",
    "es": "_spanish",
}


def load(
    path: str | Path,
    *,
    image_folder: str | Path | None,
    split: str | None,
    question_types: str | Path | None,
    names: Sequence[str],
    language: str = "en",
) -> Iterator[Example]:
    """Examples from a file in InfoSeek's format (see `Benchmark.load`)."""
    file, by_rows = _choose(path, names, split)
    types = keyed(question_types, "data_id") if question_types is not None else {}
    seen: dict[str, None] = {}
    wanted = 0
    for row in unique(read_jsonl(file), "data_id", file):
        found = str(row.get("data_split", ""))
        seen[found] = None
        if by_rows and split is not None and not _in_split(found, split):
            continue
        wanted += 1
        kind = types.get(str(row["data_id"]), {}).get("question_type")
        yield _example({**row, "question_type": kind} if kind else row, file, image_folder, language)
    if not wanted:
        raise nothing_asked(file, split, list(seen))


def _choose(path: str | Path, names: Sequence[str], split: str | None) -> tuple[Path, bool]:
    """The file, and whether the split is still to be picked among its rows.

    In a folder with a file for each split, the split names the file.
    """
    if Path(path).is_dir() and any("{split}" in name for name in names):
        by_split = [name.replace("{split}", (split or "val").split("_")[0]) for name in names]
        return locate(path, by_split), "_" in (split or "")
    return locate(path, names), True


def _in_split(found: str, split: str) -> bool:
    """`val_unseen_entity` is in the splits val_unseen_entity, unseen_entity and val."""
    return found == split or found.startswith(f"{split}_") or found.endswith(f"_{split}")


def _example(row: Mapping[str, Any], file: Path, image_folder: str | Path | None, language: str) -> Example:
    name = str(row["data_id"])
    answers = row.get("answer") or ()
    return Example(
        id=name,
        question=question_text(row, "question", name, file),
        image=_image(row, file, image_folder),
        answers=tuple(map(str, answers)) if isinstance(answers, (list, tuple)) else (str(answers),),
        language=str(row.get("language") or language),
        group=str(row.get("data_split", "")),
        meta=row,
    )


def _image(row: Mapping[str, Any], file: Path, image_folder: str | Path | None) -> ImageRef | None:
    """The image: by its path beside the file (or in the folder), else by its id in the folder."""
    if row.get("image_path"):
        base = Path(image_folder) if image_folder is not None else file.parent
        return ImageRef(path=str(base / str(row["image_path"])))
    if image_folder is not None and row.get("image_id"):
        return image_by_id(image_folder, str(row["image_id"]))
    return None


def score(predictions: Mapping[str, str], examples: Sequence[Example], *, benchmark: str) -> Report:
    """The official score; the published fields are in the examples' `meta`."""
    return infoseek.evaluate(predictions, [example.meta for example in examples], benchmark=benchmark)


def _row(
    name: str, names: Sequence[str], language: str = "en", style: str = "paper", **facts: Any
) -> Benchmark:
    return Benchmark(
        name=name,
        style=style,
        loader=partial(load, names=names, language=language),
        scorer=partial(score, benchmark=name),
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

ROWS = {
    ("infoseek" if language == "en" else f"infoseek_{language}"): _row(
        "infoseek" if language == "en" else f"infoseek_{language}",
        (f"infoseek_{{split}}{suffix}.jsonl",),
        language,
        **_INFOSEEK,
    )
    for language, suffix in _LANGUAGES.items()
}

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
