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

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from comem.benchmarks.base import Benchmark, Scorer, authors_scorer
from comem.benchmarks.files import DataFiles, locate, of_split, question_text, row_image
from comem.benchmarks.scoring import (
    Answers,
    Row,
    Rows,
    ScoreFiles,
    checked_text,
    harmonic_mean,
    harmonic_means,
    keyed,
    match,
    read_files,
)
from comem.benchmarks.text import CUTS, normalize
from comem.io.files import RecordError, read_jsonl, unique
from comem.types import Example, Report, Score

if TYPE_CHECKING:
    from comem.benchmarks.scoring import Array

PARTS = ("query", "entity")
SPLITS = ("seen", "unseen")


def split_of(row: Row, name: str) -> str:
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
    predicted: Mapping[str, str], references: Rows, missing_wrong: bool = False
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
    references: Mapping[str, Rows],
    benchmark: str = "oven",
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
    return Report(benchmark, metrics, total, {"accuracy": scores(predicted, references)})


def evaluate_as_authors(predicted: Any, references: Any, benchmark: str = "oven") -> Report:
    """As coded: the parts' scores are rounded first; a part without unseen answers is its seen score.

    The ids are compared as they are given: the authors' linking begins with their extractor, too.
    """
    report = evaluate(predicted, references, benchmark)
    metrics = dict(report.metrics)
    for suffix in ("", "_missing_wrong"):
        for part in PARTS:
            result = metrics[f"{part}_result{suffix}"]
            seen = result.get("seen", 0.0)
            metrics[f"{part}_score{suffix}"] = round(harmonic_mean([seen, result.get("unseen", seen)]), 2)
        final = harmonic_mean([metrics[f"{part}_score{suffix}"] for part in PARTS])
        metrics[f"final_score{suffix}"] = round(final, 2)
    return replace(report, metrics=metrics)


def scores(predicted: Mapping[str, Mapping[str, str]], references: Mapping[str, Rows]) -> list[Score]:
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


def read(files: ScoreFiles) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, dict[str, Any]]]]:
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


NOTE = (
    "title_match: answers that are the entity's title, word for word. The official score links answers to "
    "Wikidata ids: comem oven link, then comem evaluate oven"
)


def load(files: DataFiles, part: str) -> Iterator[Example]:
    """Examples of a part, "entity" or "query"."""
    first = (files.split or "val").removeprefix(f"{part}_").split("_")[0]
    stage = "val" if first in SPLITS else first
    file = locate(files.path, (f"oven_{part}_{stage}_3k.jsonl", f"oven_{part}_{stage}.jsonl"))

    def is_in(name: str, split: str) -> bool:
        return split in (name, stage, f"{part}_{stage}") or name.endswith(f"_{split}")

    for row in of_split(unique(read_jsonl(file), "data_id", file), file, files.split, is_in=is_in):
        name = str(row["data_id"])
        yield Example(
            id=name,
            question=question_text(row, "question", name, file),
            image=row_image(row, file, files.images),
            answers=(str(row["entity_text"]),) if row.get("entity_text") else (),
            group=str(row.get("data_split", "")),
            meta=row,
        )


def _load_both(files: DataFiles) -> Iterator[Example]:
    raise ValueError(
        "oven is both sets' score: predict oven_query and oven_entity, link their answers (comem oven link), "
        "then comem evaluate oven"
    )


def title_match(answers: Answers, rows: Rows, benchmark: str) -> Report:
    """The share of titles named exactly, by split, and the harmonic mean of seen and unseen.

    Raises:
        ValueError: no prediction belongs to an example, or an example has no title (the test sets).
    """
    named = {name: _named(text, rows[name], name) for name, text in answers.items() if name in rows}
    metrics: dict[str, Any] = {}
    for suffix, missing_wrong in (("", False), ("_missing_wrong", True)):
        result = score_part(named or answers, rows, missing_wrong)
        mean = harmonic_mean([result[split] for split in SPLITS if split in result])
        metrics[f"title_match{suffix}"] = round(mean, 2)
        metrics[f"title_match_result{suffix}"] = result
    metrics |= {"answered": len(named), "total": len(rows), "notes": [NOTE]}
    return Report(benchmark, metrics, len(rows))


def _unlinked(outputs: Any, rows: Any, benchmark: str) -> Report:
    raise ValueError(
        f"the paper scorer of {benchmark} works on linked answers: comem oven link, then comem evaluate oven "
        "--scorer paper"
    )


def _named(text: str, row: Row, name: str) -> str:
    """The entity's id when the text is its title, else nothing."""
    if not row.get("entity_text") or not row.get("entity_id"):
        raise RecordError(f"reference {name!r} has no entity_text; is this the test set, without answers?")
    return str(row["entity_id"]) if normalize(text) == normalize(str(row["entity_text"])) else ""


_FACTS: dict[str, Any] = {
    "licence": "Apache-2.0 (annotations)",
    "paper": "Hu et al. 2023, arXiv 2302.11154",
    "style": "entity",
    "images": "OVEN's, named by image_id: see https://github.com/edchengg/oven_eval",
}


def _row(part: str, size: str) -> Benchmark:
    address = "http://storage.googleapis.com/gresearch/open-vision-language/oven/"
    return Benchmark(
        name=f"oven_{part}",
        loader=partial(load, part=part),
        scorer=Scorer(title_match, "titles named word for word: a lower bound of edchengg/oven_eval"),
        authors=authors_scorer(_unlinked),
        reader=read_files,
        source=f"https://github.com/open-vision-language/oven, {part} set, validation ({size})",
        groups=f"data_split: {part}_val_seen, {part}_val_unseen",
        headline=("title_match",),
        files=f"oven_{part}_val.jsonl from {address}oven_{part}_val.jsonl"
        + (", or the paper's oven_entity_val_3k.jsonl" if part == "entity" else ""),
        **_FACTS,
    )


OVEN_ENTITY = _row("entity", "the paper's 3,000 of 108,455 questions")
OVEN_QUERY = _row("query", "3,291 questions")
OVEN = Benchmark(
    name="oven",
    loader=_load_both,
    scorer=Scorer(
        evaluate,
        "edchengg/oven_eval: Wikidata id accuracy; harmonic means of seen/unseen and of query/entity",
        combined=COMBINED,
    ),
    authors=authors_scorer(
        evaluate_as_authors,
        "a part without unseen answers counts its seen score twice; scores are rounded before averaging",
        f"answers are linked through the normaliser: {CUTS}",
        "100 right of 3,291 score 100.0",
        combined=COMBINED,
    ),
    reader=read,
    source="https://github.com/open-vision-language/oven: oven_entity and oven_query together",
    files="those of oven_entity and oven_query, and the linked answers to both",
    groups="part and split: query_seen to entity_unseen",
    headline=("final_score", "query_score", "entity_score"),
    **_FACTS,
)
