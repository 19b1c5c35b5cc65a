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
from comem.benchmarks.files import question_text
from comem.benchmarks.hub import HubFiles
from comem.benchmarks.parquet import embedded_image, find_parquet, read_parquet
from comem.evaluation import mrag_bench
from comem.evaluation.text import normalize
from comem.records import RecordError, unique
from comem.types import Example, Report

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
    report = mrag_bench.evaluate(predictions, rows)
    lettered = {
        name: _letter(text, rows[name]["choices"]) or text
        for name, text in predictions.items()
        if name in rows
    }
    named = mrag_bench.evaluate(lettered, rows).metrics["overall"]
    note = "overall: MRAG-Bench's rules, a letter. overall_named: an option named by its text counts, too"
    metrics = {**report.metrics, "overall_named": named}
    return dataclasses.replace(report, metrics={**metrics, "notes": [*metrics.get("notes", ()), note]})


def _letter(text: str, choices: Mapping[str, str]) -> str | None:
    """The letter whose option is this text, when it is no letter itself."""
    if mrag_bench.parse_choice(text, choices) is not None:
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
