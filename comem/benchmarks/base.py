"""What a row of the benchmark table is: where the data is, how to ask, how to score."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from comem.benchmarks.files import DataFiles, HubFiles
from comem.benchmarks.prompts import PROMPTS, ask
from comem.benchmarks.scoring import Bootstrap, Combine, ScoreFiles, match, mean_report, with_statistics
from comem.benchmarks.text import extract_answer
from comem.registry import Registry
from comem.types import Example, Report


@dataclass(frozen=True)
class Scorer:
    """One definition of a benchmark's score.

    Args:
        score: from answers by id, what is known of the questions by id (`Benchmark.rows`) and the
            benchmark's name to the report.
        definition: the definition, in a line, with its source.
        whole: it works on whole outputs; otherwise on the short answers in them.
        combined: numbers made of the groups' means, for their intervals.
        missing_wrong: the metrics count missing predictions as wrong, and so do their intervals.
        warning: what is wrong with the numbers.
        judge: the model that judges answers, by name; `score` takes its weights' folder as `judge` then.
        headline: metrics that are shown before the benchmark's.
    """

    score: Callable[..., Report]
    definition: str = ""
    whole: bool = False
    combined: Mapping[str, Combine] = dataclasses.field(default_factory=dict)
    missing_wrong: bool = False
    warning: str = ""
    judge: str = ""
    headline: tuple[str, ...] = ()

    def by(self, judge: Path | None) -> Scorer:
        """This scorer with its judge's weights.

        Raises:
            ValueError: weights for a scorer that no model judges for.
        """
        if self.judge:
            return dataclasses.replace(self, score=partial(self.score, judge=judge))
        if judge is not None:
            raise ValueError(f"{judge}: no model judges here ({self.definition}); leave out --judge")
        return self

    def finished(self, report: Report, name: str, bootstrap: Bootstrap | None = None) -> Report:
        """The report with its statistics, the scorer's name and definition, and what is wrong with it."""
        report = with_statistics(report, bootstrap or Bootstrap(), self.combined, self.missing_wrong)
        notes = list(report.metrics.get("notes", ()))
        if self.warning:
            notes.insert(0, f"the {name} scorer is not the benchmark's: {self.warning}")
        facts = {"scorer": name, "definition": self.definition, "notes": notes}
        return dataclasses.replace(report, metrics={**report.metrics, **facts})


def authors_scorer(score: Callable[[Any, Any, str], Report], *warnings: str, **facts: Any) -> Scorer:
    """What the code of CoMEM's authors computed, from whole outputs; `warnings` say what is wrong with it."""
    warning = "; ".join((*warnings, "missing predictions are left out"))
    definition = "as the authors' code (WenyiWU0111/CoMEM) computes it"
    return Scorer(score, definition, whole=True, warning=warning, **facts)


def per_example(value: Callable[[str, Example], float], definition: str = "mean of the answers") -> Scorer:
    """A scorer made of what one short answer earns, between 0 and 1; `accuracy` is the mean.

    Example:
        >>> per_example(lambda answer, example: float(answer.lower() in example.answers))

    Raises:
        ValueError: (when scoring) an answer earns less than 0 or more than 1.
    """

    def score(answers: Mapping[str, str], examples: Mapping[str, Example], benchmark: str) -> Report:
        values = {}
        for name in match(answers, examples):
            earned = value(answers[name], examples[name])
            if not isinstance(earned, (int, float)) or not 0 <= earned <= 1:
                told = f"{earned:g}" if isinstance(earned, float) else f"{earned!r:.80}"
                raise ValueError(f"{benchmark}: the answer to {name!r} earns {told}; give 0 to 1")
            values[name] = float(earned)
        group, language = (lambda name: examples[name].group), (lambda name: examples[name].language)
        return mean_report(benchmark, "accuracy", values, examples, group, language)

    return Scorer(score, definition)


@dataclass(frozen=True)
class Benchmark:
    """One row of the table: where a benchmark comes from, how it is read, asked, grouped and scored.

    Example:
        A benchmark of one's own needs a loader and what an answer earns:

        >>> def load(files):
        ...     for row in read_jsonl(files.path):
        ...         yield Example(row["id"], row["question"], ImageRef(row["image"]), (row["answer"],))
        >>> def earned(answer, example):
        ...     return float(answer.lower() == example.answers[0].lower())
        >>> BENCHMARKS.register("mine", Benchmark("mine", load, per_example(earned)))

    Args:
        name: its name in the table.
        loader: from files to examples.
        scorer: the official definition.
        authors: what the code of CoMEM's authors computed (`--scorer paper`); None where they did not.
        others: further scorers by name.
        reader: from published files to answers and reference rows by id; the rows are the examples' `meta`
            then. None: files are scored with the loader's examples.
        short: from an output and what is known of its question to the short answer.
        source: where the data is published (hub id or address), with the exact split.
        licence: its terms.
        paper: where it is described.
        languages: the languages of its questions.
        style: how its questions are asked by default (a row of `PROMPTS`); the styles say without and with
            knowledge, and the required form of the answer.
        groups: what an example's `group` is.
        headline: the metrics that a table shows, the most important first.
        splits: the published splits, the one that is evaluated first; empty where the rows name their split.
        hub: its files on the hub, or None where it is published elsewhere.
        files: the file or files to fetch, and from where, in a sentence.
        images: where the images are, when they are not in the files.
        fallback_language: whose prompts serve languages that a style lacks.
        needs_images: whether a question without an image is a fault, where the model sees images.

    Raises:
        ValueError: a scorer is no `Scorer`.
    """

    name: str
    loader: Callable[[DataFiles], Iterator[Example]] = dataclasses.field(repr=False)
    scorer: Scorer = dataclasses.field(repr=False)
    authors: Scorer | None = dataclasses.field(default=None, repr=False)
    others: Mapping[str, Scorer] = dataclasses.field(default_factory=dict, repr=False)
    reader: Callable[[ScoreFiles], tuple[Any, Any]] | None = dataclasses.field(default=None, repr=False)
    short: Callable[[str, Any], str] = dataclasses.field(
        default=lambda text, row: extract_answer(text), repr=False
    )
    source: str = ""
    licence: str = ""
    paper: str = ""
    languages: tuple[str, ...] = ("en",)
    style: str = "short"
    groups: str = "split"
    headline: tuple[str, ...] = ("accuracy",)
    splits: tuple[str, ...] = ()
    hub: HubFiles | None = None
    files: str = ""
    images: str = ""
    fallback_language: str | None = None
    needs_images: bool = True

    def __post_init__(self) -> None:
        for scorer in (self.scorer, self.authors, *self.others.values()):
            if scorer is not None and not isinstance(scorer, Scorer):
                raise ValueError(
                    f"benchmark {self.name}: its scorer is a {type(scorer).__name__}; give per_example(f) "
                    "or a Scorer"
                )

    @property
    def scorers(self) -> Registry[Scorer]:
        """Its scorers by name: official, paper where there is one, and others."""
        found = {"official": self.scorer, "paper": self.authors, **self.others}
        return Registry("scorer", {name: scorer for name, scorer in found.items() if scorer is not None})

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
        where = self.fetch(split) if path is None else Path(path)
        images, types = (None if each is None else Path(each) for each in (image_folder, question_types))
        return self.loader(DataFiles(where, images, split, types))

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

    def require_images(self, examples: Sequence[Example]) -> None:
        """A model that sees images must not be asked without them unnoticed.

        Raises:
            ValueError: an example comes without an image; says where the images are.
        """
        if not self.needs_images:
            return
        without = [example.id for example in examples if example.image is None]
        if without:
            where = f": {self.images}" if self.images else ""
            raise ValueError(
                f"{len(without)} of {len(examples)} questions of {self.name} have no picture, the first is "
                f"{without[0]!r}; give --images DIR, the folder of its pictures{where}"
            )

    def ask(self, example: Example, grounded: bool, style: str | None = None) -> str:
        """The text of the question turn, without or with knowledge.

        Raises:
            ValueError: no such style, or a question in a language without a prompt; names the question.
        """
        style, language = style or self.style, example.language
        if language not in PROMPTS[style]:
            if self.fallback_language is None:
                known = ", ".join(PROMPTS[style])
                raise ValueError(
                    f"{self.name}: question {example.id!r:.80} is in the language {language!r:.40}; the "
                    f"prompts {style!r} are in {known}"
                )
            language = self.fallback_language
        return ask(example.question, language, grounded, style, example.choices)

    def rows(self, examples: Sequence[Example]) -> dict[str, Any]:
        """What scorers know of the questions, by id: the published rows, or else the examples themselves."""
        return {each.id: each if self.reader is None else each.meta for each in examples}

    def score(
        self,
        outputs: Mapping[str, str],
        examples: Sequence[Example],
        scorer: str = "official",
        whole: bool = False,
        judge: Path | None = None,
    ) -> Report:
        """Score a model's outputs by example id.

        Args:
            outputs: by id; the short answers are taken out of them.
            examples: the questions.
            scorer: official, paper, or another of its own.
            whole: take no answer out of boxes and final-answer lines.
            judge: the weights of the model that judges, where the scorer asks one.

        Raises:
            ValueError: no such scorer, no output belongs to an example, or the answers are not known.
        """
        row, rows = self.scorers[scorer].by(judge), self.rows(examples)
        if not (whole or row.whole):
            outputs = {n: self.short(text, rows[n]) if n in rows else text for n, text in outputs.items()}
        report = row.score(outputs, rows, self.name)
        if not isinstance(report, Report):
            raise ValueError(
                f"benchmark {self.name}: the {scorer} scorer gives a {type(report).__name__}, not a Report; "
                "per_example(function) makes one"
            )
        return report

    def score_files(self, files: ScoreFiles, scorer: str = "official", judge: Path | None = None) -> Report:
        """Score files as they stand.

        Raises:
            ValueError: no such scorer, or files that cannot be scored.
        """
        try:
            return self._scored(files, scorer, judge)
        except ValueError as error:
            names = [str(path) for path in (*files.predictions.values(), *files.references.values())]
            types = [] if files.question_types is None else [str(files.question_types)]
            if any(name in str(error) for name in (*names, *types)):
                raise
            raise ValueError(f"{', '.join(names)}: {error}") from error

    def _scored(self, files: ScoreFiles, scorer: str, judge: Path | None) -> Report:
        row = self.scorers[scorer].by(judge)
        if self.reader is not None:
            files = dataclasses.replace(files, whole=files.whole or row.whole)
            return row.score(*self.reader(files), self.name)
        outputs = dataclasses.replace(files, whole=True).answers()
        references, types = files.path("references"), files.question_types
        examples = list(self.load(references, split=files.split, question_types=types))
        return self.score(outputs, examples, scorer, files.whole, judge)
