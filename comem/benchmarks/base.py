"""What a row of the benchmark table is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from comem.benchmarks.prompts import ask
from comem.types import Example, Report


class Loader(Protocol):
    """From a benchmark's published files to examples."""

    def __call__(
        self,
        path: str | Path,
        *,
        image_folder: str | Path | None,
        split: str | None,
        question_types: str | Path | None,
    ) -> Iterator[Example]: ...


class ExampleScorer(Protocol):
    """From short answers by example id, and the examples, to the benchmark's report."""

    def __call__(self, predictions: Mapping[str, str], examples: Sequence[Example]) -> Report: ...


@dataclass(frozen=True)
class Benchmark:
    """One row of the table: where a benchmark comes from, how it is read, asked and scored.

    Args:
        name: its name in the table.
        source: where the data is published (hub id or address).
        licence: its terms.
        paper: where it is described.
        languages: the languages of its questions.
        style: how its questions are asked by default (a row of `PROMPTS`).
        loader: from files to examples.
        scorer: the official definition over answers and examples.
    """

    name: str
    source: str
    licence: str
    paper: str
    languages: tuple[str, ...]
    style: str
    loader: Loader = dataclasses.field(repr=False)
    scorer: ExampleScorer = dataclasses.field(repr=False)

    def load(
        self,
        path: str | Path,
        *,
        image_folder: str | Path | None = None,
        split: str | None = None,
        question_types: str | Path | None = None,
    ) -> Iterator[Example]:
        """The benchmark's examples, in the order of the file.

        Args:
            path: the published file, or the folder that holds it under its published name.
            image_folder: where images lie that the file names by id; without it such examples have none.
            split: only this split.
            question_types: a file of question types, where the benchmark has one.

        Raises:
            ValueError: a broken file (with its line), an id twice, or a split that is not there.
        """
        return self.loader(path, image_folder=image_folder, split=split, question_types=question_types)

    def ask(self, example: Example, grounded: bool, style: str | None = None) -> str:
        """The text of the question turn, without or with knowledge."""
        return ask(example.question, example.language, grounded, style or self.style)

    def score(self, predictions: Mapping[str, str], examples: Sequence[Example]) -> Report:
        """Score short answers (see `comem.evaluation.text.extract_answer`) by example id."""
        return self.scorer(predictions, examples)
