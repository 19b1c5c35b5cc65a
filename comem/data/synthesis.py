"""Self-synthesis, the paper's section 3.3: the reader's own answers with knowledge, kept where right.

Questions of a training split are answered by plain RAG (`comem.eval.answering.answer`, into `run/`); what
the benchmark's scorer calls right becomes a training record, with the items that were shown. The paper kept
13.8 K answers to InfoSeek, EVQA and OK-VQA in this way, with 3 items a question.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from comem.benchmarks import Benchmark
from comem.benchmarks.text import extract_answer
from comem.config import option
from comem.data.records import kept_lines, write_records
from comem.eval.predict import (
    AskSettings,
    PredictSettings,
    Questions,
    Reader,
    answer_questions,
    load_questions,
    retrieve,
)
from comem.eval.run_folder import CONTEXTS, Processes
from comem.io.console import Progress, print_facts, quiet
from comem.io.files import write_atomic
from comem.training.data import parse_example
from comem.types import Example, ImageRef, RetrievedContext

RUN = "run"


@dataclass(frozen=True)
class Rules:
    """What is kept.

    Args:
        min_score: of the benchmark's scorer, above 0 and at most 1.
        min_items: questions with fewer items are dropped.
        target: at most so many records, drawn by the seed; None for all that are right.
        seed: of the drawing.
    """

    min_score: float = 1.0
    min_items: int = 1
    target: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.min_score <= 1:
            raise ValueError(f"min_score {self.min_score}: give a number above 0, at most 1")
        if self.min_items < 0 or (self.target is not None and self.target < 1):
            raise ValueError(f"min_items {self.min_items}, target {self.target}: give at least 0 and 1")


def candidates(examples: Sequence[Example], count: int | None, seed: int) -> list[Example]:
    """A seeded sample of the questions, in their order; the same for the same ids, whatever their order."""
    if count is None or count >= len(examples):
        return list(examples)
    if count < 1:
        raise ValueError(f"{count} candidates: give at least 1")
    drawn = _drawn([example.id for example in examples], count, seed)
    return [example for example in examples if example.id in drawn]


def keep_right(
    benchmark: Benchmark, examples: Sequence[Example], contexts: Mapping[str, RetrievedContext],
    answers: Mapping[str, str], folder: str | Path, rules: Rules, about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """From answers to `train.jsonl` and `manifest.json`; the same bytes for the same answers.

    Args:
        benchmark: the row that the examples come from.
        examples: the candidates.
        contexts: the items that each was shown.
        answers: what was said, by example id; questions that failed are not there.
        folder: the files are written there.
        rules: what is kept.
        about: what else the manifest shall say (model, prompts, decoding).

    Returns:
        The manifest.

    Raises:
        ValueError: there are no answers, or none is right.
    """
    folder = Path(folder)
    if any(example.choices for example in examples):
        raise ValueError(f"{benchmark.name} asks with choices, which training records have not; use another")
    answers = {name: extract_answer(text) for name, text in answers.items()}
    right = scores(benchmark, answers, examples)
    records, dropped = {}, Counter[str]()  # type: dict[str, dict[str, Any]], Counter[str]
    for example in examples:
        context = contexts.get(example.id, RetrievedContext(example.id))
        if reason := _reason(example, answers, right, context, rules):
            dropped[reason] += 1
            continue
        record = _record(example, answers[example.id], context, folder)
        try:
            parse_example(record, folder)
        except ValueError:  # chat markup in an answer, an item without text and image
            dropped["not a training record"] += 1
            continue
        records[example.id] = record
    if rules.target is not None and len(records) > rules.target:
        dropped["beyond the target"] = len(records) - rules.target
        drawn = _drawn(list(records), rules.target, rules.seed)
        records = {name: record for name, record in records.items() if name in drawn}
    if not records:
        raise ValueError(f"none of {len(examples)} answers is kept: {dict(dropped)}; see {folder / RUN}")
    return _write(folder, benchmark, examples, list(records.values()), dropped, rules, about or {})


def scores(benchmark: Benchmark, answers: Mapping[str, str], examples: Sequence[Example]) -> dict[str, float]:
    """What the benchmark's scorer gives each answered question, by its id."""
    answered = [example for example in examples if example.id in answers]
    if not answered:
        raise ValueError("none of the questions is answered; see errors.jsonl in the run folder")
    report = benchmark.score({example.id: answers[example.id] for example in answered}, answered)
    metric = next((name for name in benchmark.headline if name in report.scores), None)
    metric = metric or next(iter(report.scores), None)
    if metric is None:
        raise ValueError(f"the scorer of {benchmark.name} does not score single questions")
    return {score.example_id: score.value for score in report.scores[metric]}


def _reason(
    example: Example, answers: Mapping[str, str], right: Mapping[str, float], context: RetrievedContext,
    rules: Rules,
) -> str | None:  # fmt: skip
    """Why a candidate is dropped, if it is."""
    if len(context.items) < rules.min_items:
        return "too few items"
    if example.id not in answers:
        return "not answered"
    if not answers[example.id].strip():
        return "empty answer"
    return "wrong" if right.get(example.id, 0.0) < rules.min_score else None


def _record(example: Example, answer: str, context: RetrievedContext, folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = {"id": example.id, "language": example.language, "source": example.group}
    if example.image is not None:
        record["image"] = _path(example.image, folder)
    record |= {"question": example.question, "answer": answer, "answers": list(example.answers)}
    record["knowledge"] = [
        {"id": item.id, "text": item.text, "language": item.language, "source": item.source}
        | ({"image": _path(item.image, folder)} if item.image else {})
        for item in context.items
    ]
    return record


def _path(image: ImageRef, folder: Path) -> str:
    """An image's path relative to the folder; encoded ones are written there, under their checksum."""
    if image.path is not None:
        return os.path.relpath(image.path, folder)
    data = image.data or b""
    path = folder / "images" / (hashlib.sha256(data).hexdigest()[:24] + ".img")
    if not path.exists():
        write_atomic(path, data)
    return os.path.relpath(path, folder)


def _write(
    folder: Path, benchmark: Benchmark, examples: Sequence[Example], records: Sequence[Mapping[str, Any]],
    dropped: Counter[str], rules: Rules, about: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    mixture = {
        "benchmark": {benchmark.name: len(records)},
        "language": dict(Counter(str(row["language"]) for row in records).most_common()),
        "items": dict(Counter(str(len(row["knowledge"])) for row in records).most_common()),
    }
    facts = {
        "candidates": len(examples), "kept": len(records), "dropped": dict(sorted(dropped.items())),
        "mixture": mixture, "rules": asdict(rules), **about,
    }  # fmt: skip
    return write_records(folder, records, facts)


def _drawn(names: Sequence[str], count: int, seed: int) -> set[str]:
    """`count` of the names, the same for the same set of names."""
    return set(random.Random(seed).sample(sorted(names), count))


@dataclass(frozen=True, kw_only=True)
class SynthesiseSettings(AskSettings):
    """A model's own right answers by plain RAG, as training records; the seed draws the candidates, too.

    Attributes:
        candidates: questions to try (default: all).
        target: at most so many records (default: all that are right).
        min_score: of an answer, to be right.
        min_items: items a record needs (default: k).
    """

    candidates: int | None = option(None, group="synthesis")
    target: int | None = option(None, group="synthesis")
    min_score: float = option(1.0, group="synthesis")
    min_items: int | None = option(None, group="synthesis")

    @property
    def rules(self) -> Rules:
        """What is kept."""
        items = self.k if self.min_items is None else self.min_items
        return Rules(self.min_score, items, self.target, self.seed)


def synthesise(settings: SynthesiseSettings, progress: Progress = quiet) -> dict[str, Any]:
    """Draw, retrieve, answer, keep what is right; run again, it goes on.

    Returns:
        The manifest.

    Raises:
        ValueError: no question, no right answer, or a folder of other settings.
    """
    rules, output = settings.rules, settings.output
    asked = load_questions(settings)
    examples = candidates(asked.examples, settings.candidates, settings.seed)
    if not examples:
        where = f" of the split {settings.split!r}" if settings.split else ""
        raise ValueError(f"{asked.data} holds no question{where}")
    if Processes.of().count > 1:
        raise ValueError("synthesise runs in one process, not under accelerate launch")
    benchmark = asked.benchmark
    shared = {each.name: getattr(settings, each.name) for each in fields(AskSettings)}
    plain = PredictSettings(mode=("rag",), **shared)
    mode, config = Reader.open(plain).mode(plain, benchmark, "rag")
    if mode.opens_question_images:
        benchmark.require_images(examples)
    config |= {"candidates": settings.candidates, "seed": settings.seed}
    contexts = retrieve(settings, examples, output / RUN / CONTEXTS, progress)
    questions = Questions(benchmark, asked.data, examples)
    run = answer_questions(settings, questions, mode, contexts, output / RUN, config, progress=progress)
    answers = {name: answer.text for name, answer in run.answers.items()}
    about = {
        "config": config, "decoding": asdict(settings.generation),
        "prompt": {"style": config["prompt"], "first": benchmark.ask(examples[0], True, config["prompt"])},
    }  # fmt: skip
    return keep_right(benchmark, examples, contexts, answers, output, rules, about)


def show_synthesised(manifest: dict[str, Any], settings: SynthesiseSettings) -> None:
    """Print what was kept."""
    print_facts(kept_lines(manifest, settings.output))
