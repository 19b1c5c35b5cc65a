"""MRAG-Bench: 1,353 multiple-choice questions that a second view of the thing would help to answer.

A record (parquet, one split, `test`): id, aspect, scenario, image, gt_images, question, A, B, C, D,
answer_choice (a letter), answer (its text), image_type, source, retrieved_images. Pictures are embedded;
gt_images and retrieved_images (nine tenths of the 4.7 GB) are not read: knowledge comes from the retriever.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from comem.benchmarks.base import Benchmark
from comem.benchmarks.files import HubFiles, embedded_image, find_parquet, question_text, read_parquet
from comem.benchmarks.score_files import ScoreFiles, checked_text, in_split, keyed, match
from comem.benchmarks.statistics import scores_of
from comem.benchmarks.text import extract_answer, normalize
from comem.io.jsonl import RecordError, unique
from comem.types import Example, Report

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


LETTERS = ("A", "B", "C", "D")
_COLUMNS = ("id", "scenario", "image", "question", *LETTERS, "answer_choice")
_OPTIONAL = ("aspect", "answer", "image_type", "source")


def load(
    path: str | Path, *, image_folder: str | Path | None, split: str | None, question_types: str | Path | None
) -> Iterator[Example]:
    """Examples of the parquet files (see `Benchmark.load`); the group is the scenario."""
    files = find_parquet(path, split or "test")
    for row in unique(read_parquet(files, _COLUMNS, _OPTIONAL), "id", files[0].parent):
        yield _example(row, files[0].parent)


def _example(row: Mapping[str, Any], place: Path) -> Example:
    name = str(row["id"])
    letter = str(row["answer_choice"])
    if letter not in LETTERS:
        raise RecordError(f"{place}: {name!r} has answer_choice {letter!r}; expected {', '.join(LETTERS)}")
    choices = {each: str(row[each]) for each in LETTERS}
    facts = {key: value for key, value in row.items() if key not in ("image", *LETTERS)}
    return Example(
        id=name,
        question=question_text(row, "question", name, place),
        image=embedded_image(row["image"], place, name),
        answers=(choices[letter],),
        choices=tuple(choices.values()),
        group=str(row["scenario"]),
        meta={**facts, "choices": choices, "gt_choice": letter},
    )


def score(predictions: Mapping[str, str], examples: Sequence[Example]) -> Report:
    """The official rule-based score; beside it, the same when an option's very text counts, too.

    The official pipeline gives what the rules cannot parse to a language model, which would accept the
    text of an option: `overall_named` does so for texts that are equal after normalisation.
    """
    rows = {example.id: example.meta for example in examples}
    report = evaluate(predictions, rows)
    lettered = {
        name: _letter(text, rows[name]["choices"]) or text
        for name, text in predictions.items()
        if name in rows
    }
    named = evaluate(lettered, rows).metrics["overall"]
    note = "overall: MRAG-Bench's rules, a letter. overall_named: an option named by its text counts, too"
    metrics = {**report.metrics, "overall_named": named}
    return dataclasses.replace(report, metrics={**metrics, "notes": [*metrics.get("notes", ()), note]})


def _letter(text: str, choices: Mapping[str, str]) -> str | None:
    """The letter whose option is this text, when it is no letter itself."""
    if parse_choice(text, choices) is not None:
        return None
    said = normalize(text)
    return next((letter for letter, choice in choices.items() if said and normalize(choice) == said), None)


ROWS = {
    "mrag_bench": Benchmark(
        name="mrag_bench",
        source="https://huggingface.co/datasets/uclanlp/MRAG-Bench, test (1,353 questions)",
        licence="CC BY 4.0",
        paper="Hu et al. 2024, arXiv 2410.08182",
        languages=("en",),
        style="letter",
        loader=load,
        scorer=score,
        groups="scenario: nine, from Angle to Others",
        headline=("overall", "overall_named"),
        splits=("test",),
        hub=HubFiles("uclanlp/MRAG-Bench", "data/test-*"),
        files="data/test-*.parquet of https://huggingface.co/datasets/uclanlp/MRAG-Bench",
    )
}
