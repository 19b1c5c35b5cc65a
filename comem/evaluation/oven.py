"""OVEN's score: does the linked entity's Wikidata id equal the reference's (edchengg/oven_eval)?

Accuracy in percent over the answered questions of each split, rounded to two digits; a part's score
(query, entity) is the harmonic mean of its seen and unseen splits, the final score that of both parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comem.evaluation.files import ScoreFiles, keyed, match
from comem.evaluation.infoseek import harmonic_mean
from comem.records import RecordError
from comem.types import Report

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
    return Report("oven", metrics, total)


def evaluate_files(files: ScoreFiles) -> Report:
    """Score the official four files as they stand."""
    predicted, references = {}, {}
    for part in PARTS:
        path = files.path("predictions", part)
        rows = keyed(path, "data_id", torn_tail=True)
        for name, row in rows.items():
            if "pred_entity_id" not in row:
                raise RecordError(f"{path}: {name!r} has no pred_entity_id; link the answers first")
        predicted[part] = {name: str(row["pred_entity_id"]) for name, row in rows.items()}
        references[part] = keyed(files.path("references", part), "data_id")
    return evaluate(predicted, references)
