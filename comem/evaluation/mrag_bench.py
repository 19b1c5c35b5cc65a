"""MRAG-Bench's score: the rule-based multiple-choice parser of MRAG-Bench (it comes from MMMU).

In this order: a letter in brackets, a letter standing alone, or (in answers of more than five words) the
text of a choice; of several the last one counts. What it cannot parse is wrong: no language model judges.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comem.evaluation.files import ScoreFiles, checked_text, keyed, match
from comem.evaluation.text import extract_answer
from comem.records import RecordError
from comem.types import Report

_LETTERS = ("A", "B", "C", "D")
_STRIPPED = ",.!?;:'"


def parse_choice(output: str, choices: Mapping[str, str]) -> str | None:
    """The letter that an output chooses, or None.

    Args:
        output: what the model said.
        choices: text by letter.
    """
    text = output.strip()
    for mark in _STRIPPED:
        text = text.strip(mark)
    text = f" {text} "
    for pattern in ("({})", " {} "):
        found = {letter: text.rfind(pattern.format(letter)) for letter in _LETTERS}
        if max(found.values()) >= 0:
            return max(found, key=lambda letter: found[letter])
    if len(text.split()) <= 5:
        return None
    lower = text.lower()
    found = {letter: lower.rfind(choice.lower()) for letter, choice in choices.items()}
    best = max(found, key=lambda letter: found[letter], default=None)
    return best if best is not None and found[best] >= 0 else None


def evaluate(
    outputs: Mapping[str, str], references: Mapping[str, Mapping[str, Any]], benchmark: str = "mrag_bench"
) -> Report:
    """Score outputs by id against rows with gt_choice, choices and scenario."""
    names = match(outputs, references)
    chosen = {name: parse_choice(outputs[name], references[name]["choices"]) for name in names}
    right = {name: chosen[name] == references[name]["gt_choice"] for name in names}
    groups: dict[str, list[bool]] = {}
    for name in names:
        groups.setdefault(str(references[name].get("scenario", "")), []).append(right[name])
    metrics: dict[str, Any] = {
        "overall": 100 * sum(right.values()) / len(names),
        "by_scenario": {name: 100 * sum(values) / len(values) for name, values in sorted(groups.items())},
        "overall_missing_wrong": 100 * sum(right.values()) / len(references),
        "answered": len(names),
        "total": len(references),
        "unparsable": sum(choice is None for choice in chosen.values()),
    }
    return Report(benchmark, metrics, len(references))


def evaluate_files(files: ScoreFiles) -> Report:
    """Score official result files, in which each row carries its reference, or outputs beside references."""
    path = files.path("predictions")
    rows = keyed(path, torn_tail=True)
    outputs = {}
    for name, row in rows.items():
        text = checked_text(row.get("output", row.get("prediction")), name, path)
        outputs[name] = text if files.whole else extract_answer(text)
    references = rows if "" not in files.references else keyed(files.path("references"))
    for name, row in references.items():
        if not isinstance(row.get("choices"), Mapping) or row.get("gt_choice") not in _LETTERS:
            raise RecordError(f"{path}: {name!r} has no choices or no gt_choice; give --references FILE")
    return evaluate(outputs, references)
