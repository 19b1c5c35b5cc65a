"""OVEN's score: does the linked entity's Wikidata id equal the reference's (edchengg/oven_eval)?

Accuracy in percent over the answered questions of each split, rounded to two digits; a part's score
(query, entity) is the harmonic mean of its seen and unseen splits, the final score that of both parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from comem.evaluation.files import ScoreFiles, checked_text, keyed, match
from comem.evaluation.harmonic import harmonic_mean, harmonic_means
from comem.records import RecordError
from comem.types import Report, Score

if TYPE_CHECKING:
    from comem.evaluation.statistics import Array

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
