"""MRAG-Bench's score: the rule-based multiple-choice parser of MRAG-Bench (it comes from MMMU).

In this order: a letter in brackets, a letter standing alone, or (in answers of more than five words) the
text of a choice; of several the last one counts. What it cannot parse is wrong: no language model judges.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comem.evaluation.files import ScoreFiles, checked_text, in_split, keyed, match
from comem.evaluation.statistics import scores_of
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
    values = {name: float(chosen[name] == references[name]["gt_choice"]) for name in names}
    return report_of(values, references, benchmark, sum(choice is None for choice in chosen.values()))


def report_of(
    values: Mapping[str, float], references: Mapping[str, Mapping[str, Any]], benchmark: str, unparsable: int
) -> Report:
    """The report over what each answered question earned."""
    scores = scores_of(values, references, lambda name: str(references[name].get("scenario", "")))
    groups: dict[str, list[float]] = {}
    for score in scores:
        if score.answered:
            groups.setdefault(score.group, []).append(score.value)
    metrics: dict[str, Any] = {
        "overall": 100 * sum(values.values()) / len(values),
        "by_scenario": {name: 100 * sum(part) / len(part) for name, part in sorted(groups.items())},
        "overall_missing_wrong": 100 * sum(values.values()) / len(references),
        "answered": len(values),
        "total": len(references),
        "unparsable": unparsable,
    }
    return Report(benchmark, metrics, len(references), {"overall": scores})


def read_outputs(files: ScoreFiles) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Outputs as they stand and references by id; official result files carry their references.

    Raises:
        RecordError: an output that is not text, or a reference without choices or right choice.
    """
    path = files.path("predictions")
    rows = keyed(path, torn_tail=True)
    outputs = {
        name: checked_text(row.get("output", row.get("prediction")), name, path) for name, row in rows.items()
    }
    apart = "" in files.references
    references = files.reference_rows() if apart else in_split(rows, files.split, path)
    source = files.path("references") if apart else path
    for name, row in references.items():
        if not isinstance(row.get("choices"), Mapping) or row.get("gt_choice") not in _LETTERS:
            remedy = "expected choices {A: …} and gt_choice" if apart else "give --references FILE"
            raise RecordError(f"{source}: {name!r} has no choices or no gt_choice; {remedy}")
    return outputs, references


def evaluate_files(files: ScoreFiles) -> Report:
    """Score official result files, in which each row carries its reference, or outputs beside references."""
    outputs, references = read_outputs(files)
    if not files.whole:
        outputs = {name: extract_answer(text) for name, text in outputs.items()}
    return evaluate(outputs, references)
