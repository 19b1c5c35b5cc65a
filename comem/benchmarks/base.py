"""What a row of the benchmark table is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from comem.benchmarks.files import HubFiles
from comem.benchmarks.prompts import PROMPTS, ask
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
    """One row of the table: where a benchmark comes from, how it is read, asked, grouped and scored.

    Args:
        name: its name in the table.
        source: where the data is published (hub id or address), with the exact split.
        licence: its terms.
        paper: where it is described.
        languages: the languages of its questions.
        style: how its questions are asked by default (a row of `PROMPTS`); the styles say without and with
            knowledge, and the required form of the answer.
        loader: from files to examples.
        scorer: the official definition over answers and examples.
        groups: what an example's `group` is.
        headline: the metrics that a table shows, the most important first.
        splits: the published splits, the one that is evaluated first; empty where the rows name their split.
        hub: its files on the hub, or None where it is published elsewhere.
        files: the file or files to fetch, and from where, in a sentence.
        images: where the pictures are, when they are not in the files.
        fallback_language: whose prompts serve languages that a style lacks.
        evaluation: the row of `comem evaluate` that scores its files, where that has another name.
    """

    name: str
    source: str
    licence: str
    paper: str
    languages: tuple[str, ...]
    style: str
    loader: Loader = dataclasses.field(repr=False)
    scorer: ExampleScorer = dataclasses.field(repr=False)
    groups: str = "split"
    headline: tuple[str, ...] = ("accuracy",)
    splits: tuple[str, ...] = ()
    hub: HubFiles | None = None
    files: str = ""
    images: str = ""
    fallback_language: str | None = None
    evaluation: str = ""

    def __post_init__(self) -> None:
        if not self.evaluation:
            object.__setattr__(self, "evaluation", self.name)

    def load(
        self,
        path: str | Path | None = None,
        *,
        image_folder: str | Path | None = None,
        split: str | None = None,
        question_types: str | Path | None = None,
    ) -> Iterator[Example]:
        """The benchmark's examples, in the order of the file.

        Args:
            path: the published file, or the folder that holds it under its published name; without it the
                hub's copy is read, and fetched when it is not in the cache.
            image_folder: where images lie that the file names by id; without it such examples have none.
            split: only this split.
            question_types: a file of question types, where the benchmark has one.

        Raises:
            ValueError: a broken file (with its line), an id twice, a split that is not there, or data that
                cannot be fetched (with what to fetch, and from where).
        """
        if self.splits and split is not None and split.partition(":")[0] not in self.splits:
            raise ValueError(f"{self.name} has no split {split!r}; it has {', '.join(self.splits)}")
        where = self.fetch(split) if path is None else path
        return self.loader(where, image_folder=image_folder, split=split, question_types=question_types)

    def fetch(self, split: str | None = None) -> Path:
        """The folder with the hub's files of a split.

        Raises:
            ValueError: it is not on the hub, or the hub cannot be reached; says what to fetch instead.
        """
        if self.hub is None:
            raise ValueError(f"{self.name} is not on the hub. Give --data PATH: {self.files or self.source}")
        try:
            return self.hub.fetch((split or self.splits[0]).partition(":")[0])
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error

    def require_pictures(self, examples: Sequence[Example]) -> None:
        """A model that sees pictures must not be asked without them unnoticed.

        Raises:
            ValueError: an example comes without a picture; says where the pictures are.
        """
        without = [example.id for example in examples if example.image is None]
        if without:
            where = f": {self.images}" if self.images else ""
            raise ValueError(
                f"{len(without)} of {len(examples)} questions of {self.name} have no picture, the first is "
                f"{without[0]!r}; give --images DIR, the folder of its pictures{where}"
            )

    def ask(self, example: Example, grounded: bool, style: str | None = None) -> str:
        """The text of the question turn, without or with knowledge."""
        style, language = style or self.style, example.language
        if self.fallback_language is not None and language not in PROMPTS[style]:
            language = self.fallback_language
        return ask(example.question, language, grounded, style, example.choices)

    def score(self, predictions: Mapping[str, str], examples: Sequence[Example]) -> Report:
        """Score short answers (see `comem.benchmarks.text.extract_answer`) by example id."""
        return self.scorer(predictions, examples)
