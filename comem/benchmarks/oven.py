"""OVEN: name the Wikipedia entity that a question about a picture asks for.

A record: data_id, image_id, question, entity_id (Wikidata), entity_text (its title), data_split
(`entity_val_seen`, `entity_val_unseen`, `query_val_seen`, …). Two sets, each a row of the table: *entity*
(what a picture shows, by templates; 108,455 in validation, of which the paper uses 3,000) and *query* (what
a person asked about; 3,291).

Answers are texts, the official score compares Wikidata ids: `comem oven link` finds them, `comem evaluate
oven` scores both sets together. Here, without the six million titles, a title that is named exactly counts
(`title_match`): a lower bound of what linking finds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comem.benchmarks.base import Benchmark
from comem.benchmarks.files import image_by_id, locate, named_image, nothing_asked, question_text
from comem.benchmarks.score_files import ScoreFiles, checked_text, keyed, match
from comem.benchmarks.statistics import harmonic_mean, harmonic_means
from comem.benchmarks.text import normalize
from comem.io.jsonl import RecordError, read_jsonl, unique
from comem.types import Example, ImageRef, Report, Score

if TYPE_CHECKING:
    from comem.benchmarks.statistics import Array

PARTS = ("query", "entity")
SPLITS = ("seen", "unseen")


def split_of(row: Mapping[str, Any], name: str) -> str:
    """`seen` or `unseen`, from a data_split such as entity_val_unseen.

    Raises:
        RecordError: it is neither.
    """
    split = str(row.get("data_split", ""))
    for known in SPLITS:
        if f"_{known}" in split:
            return known
    raise RecordError(f"reference {name!r} is in split {split!r}; expected one that ends in _seen or _unseen")


def score_part(
    predicted: Mapping[str, str], references: Mapping[str, Mapping[str, Any]], missing_wrong: bool = False
) -> dict[str, float]:
    """Accuracy in percent by split, over the answered references or over all."""
    names = list(references) if missing_wrong else match(predicted, references)
    right: dict[str, list[bool]] = {}
    for name in names:
        row = references[name]
        right.setdefault(split_of(row, name), []).append(predicted.get(name) == row.get("entity_id"))
    shares = {split: sum(values) / len(values) for split, values in right.items()}
    return {split: round(shares[split] * 100, 2) for split in SPLITS if split in shares}


def evaluate(
    predicted: Mapping[str, Mapping[str, str]],
    references: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> Report:
    """Score entity ids by part and data_id against reference rows by part and data_id."""
    metrics: dict[str, Any] = {}
    notes = []
    for suffix, missing_wrong in (("", False), ("_missing_wrong", True)):
        for part in PARTS:
            result = score_part(predicted[part], references[part], missing_wrong)
            for split in SPLITS:
                if split not in result and not missing_wrong:
                    notes.append(f"no {part} question of the {split} split was answered: it counts as 0")
            metrics[f"{part}_result{suffix}"] = result
            metrics[f"{part}_score{suffix}"] = harmonic_mean([result.get(split, 0.0) for split in SPLITS])
        metrics[f"final_score{suffix}"] = harmonic_mean([metrics[f"{part}_score{suffix}"] for part in PARTS])
    metrics = {key: round(value, 2) if isinstance(value, float) else value for key, value in metrics.items()}
    total = sum(len(references[part]) for part in PARTS)
    answered = sum(name in predicted[part] for part in PARTS for name in references[part])
    metrics |= {"answered": answered, "total": total, "notes": notes}
    return Report("oven", metrics, total, {"accuracy": scores(predicted, references)})


def scores(
    predicted: Mapping[str, Mapping[str, str]], references: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> list[Score]:
    """What every question earned; its group is part and split, "query_seen" to "entity_unseen"."""
    return [
        Score(
            name, float(predicted[part].get(name) == row.get("entity_id")), f"{part}_{split_of(row, name)}",
            answered=name in predicted[part],
        )
        for part in PARTS
        for name, row in references[part].items()
    ]  # fmt: skip


def part_of(drawn: Mapping[str, Array], part: str) -> Array | None:
    """A part's score over drawn means by part and split; None where a split is missing."""
    names = [f"{part}_{split}" for split in SPLITS]
    return harmonic_means([drawn[name] for name in names]) if set(names) <= set(drawn) else None


def final_of(drawn: Mapping[str, Array]) -> Array | None:
    """The final score, likewise."""
    parts = [means for part in PARTS if (means := part_of(drawn, part)) is not None]
    return harmonic_means(parts) if len(parts) == len(PARTS) else None


#: The numbers that are made of the splits' means.
COMBINED = {"final_score": final_of} | {f"{part}_score": partial(part_of, part=part) for part in PARTS}


def read_parts(
    files: ScoreFiles,
) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, dict[str, Any]]]]:
    """Predicted entity ids and reference rows, by part and data_id.

    Raises:
        RecordError: a prediction has no entity id, or one that is not text.
    """
    predicted, references = {}, {}
    for part in PARTS:
        path = files.path("predictions", part)
        rows = keyed(path, "data_id", torn_tail=True)
        for name, row in rows.items():
            if "pred_entity_id" not in row:
                raise RecordError(
                    f"{path}: {name!r} has no pred_entity_id; link the answers first (comem oven link)"
                )
        predicted[part] = {
            name: checked_text(row["pred_entity_id"], name, path) for name, row in rows.items()
        }
        references[part] = files.reference_rows("data_id", part)
        missing = [name for name, row in references[part].items() if not row.get("entity_id")]
        if missing:
            source = files.path("references", part)
            raise RecordError(f"{source}: {missing[0]!r} has no entity_id; is this the test set?")
    return predicted, references


def evaluate_files(files: ScoreFiles) -> Report:
    """Score the official four files as they stand."""
    return evaluate(*read_parts(files))


NOTE = (
    "title_match: answers that are the entity's title, word for word. The official score links answers to "
    "Wikidata ids: comem oven link, then comem evaluate oven"
)


def load(
    path: str | Path,
    *,
    image_folder: str | Path | None,
    split: str | None,
    question_types: str | Path | None,
    part: str,
) -> Iterator[Example]:
    """Examples of a part, "entity" or "query" (see `Benchmark.load`)."""
    first = (split or "val").removeprefix(f"{part}_").split("_")[0]
    stage = "val" if first in SPLITS else first
    file = locate(path, (f"oven_{part}_{stage}_3k.jsonl", f"oven_{part}_{stage}.jsonl"))
    seen: dict[str, None] = {}
    wanted = 0
    for row in unique(read_jsonl(file), "data_id", file):
        found = str(row.get("data_split", ""))
        seen[found] = None
        if split is None or split in (found, stage, f"{part}_{stage}") or found.endswith(f"_{split}"):
            wanted += 1
            yield _example(row, file, image_folder)
    if not wanted:
        raise nothing_asked(file, split, list(seen))


def _example(row: Mapping[str, Any], file: Path, image_folder: str | Path | None) -> Example:
    name = str(row["data_id"])
    return Example(
        id=name,
        question=question_text(row, "question", name, file),
        image=_image(row, file, image_folder),
        answers=(str(row["entity_text"]),) if row.get("entity_text") else (),
        group=str(row.get("data_split", "")),
        meta=row,
    )


def _image(row: Mapping[str, Any], file: Path, folder: str | Path | None) -> ImageRef | None:
    if row.get("image_path"):
        return named_image(folder, row["image_path"], file)
    return image_by_id(folder, str(row["image_id"])) if folder is not None and row.get("image_id") else None


def score(predictions: Mapping[str, str], examples: Sequence[Example], *, part: str) -> Report:
    """The share of titles named exactly, by split, and the harmonic mean of seen and unseen.

    Raises:
        ValueError: no prediction belongs to an example, or an example has no title (the test sets).
    """
    rows = {example.id: example.meta for example in examples}
    named = {name: _named(text, rows[name], name) for name, text in predictions.items() if name in rows}
    metrics: dict[str, Any] = {}
    for suffix, missing_wrong in (("", False), ("_missing_wrong", True)):
        result = score_part(named or predictions, rows, missing_wrong)
        mean = harmonic_mean([result[split] for split in SPLITS if split in result])
        metrics[f"title_match{suffix}"] = round(mean, 2)
        metrics[f"title_match_result{suffix}"] = result
    metrics |= {"answered": len(named), "total": len(rows), "notes": [NOTE]}
    return Report(f"oven_{part}", metrics, len(rows))


def _named(text: str, row: Mapping[str, Any], name: str) -> str:
    """The entity's id when the text is its title, else nothing."""
    if not row.get("entity_text") or not row.get("entity_id"):
        raise RecordError(f"reference {name!r} has no entity_text; is this the test set, without answers?")
    return str(row["entity_id"]) if normalize(text) == normalize(str(row["entity_text"])) else ""


def _row(part: str, size: str) -> Benchmark:
    address = "http://storage.googleapis.com/gresearch/open-vision-language/oven/"
    return Benchmark(
        name=f"oven_{part}",
        source=f"https://github.com/open-vision-language/oven, {part} set, validation ({size})",
        licence="Apache-2.0 (annotations)",
        paper="Hu et al. 2023, arXiv 2302.11154",
        languages=("en",),
        style="entity",
        loader=partial(load, part=part),
        scorer=partial(score, part=part),
        groups=f"data_split: {part}_val_seen, {part}_val_unseen",
        headline=("title_match",),
        evaluation="oven",
        files=f"oven_{part}_val.jsonl from {address}oven_{part}_val.jsonl"
        + (", or the paper's oven_entity_val_3k.jsonl" if part == "entity" else ""),
        images="OVEN's, named by image_id: see https://github.com/edchengg/oven_eval",
    )


ROWS = {
    "oven_entity": _row("entity", "the paper's 3,000 of 108,455 questions"),
    "oven_query": _row("query", "3,291 questions"),
}
