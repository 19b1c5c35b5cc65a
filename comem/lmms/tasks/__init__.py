"""Our benchmarks as tasks of lmms-eval: our readers, prompts and scorers behind its YAML files.

A task's `dataset_name` is a row of BENCHMARKS. Where its files lie: `Place`.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from comem.benchmarks import BENCHMARKS, Benchmark
from comem.config import from_values
from comem.io.files import read_json
from comem.io.images import open_image
from comem.types import Example, ImageRef, Report

logger = logging.getLogger(__name__)

#: A folder with one for each benchmark, or a JSON file with a `Place` for each.
VARIABLE = "COMEM_DATA"


@dataclass(frozen=True)
class Place:
    """Where a task's questions are, how they are asked and scored; a task of one's own names a file of it.

    Attributes:
        data: the published file or folder; without it COMEM_DATA says it, else it comes from the hub.
        images: the folder of its images; "none" where questions may go without.
        split: only this split.
        question_types: a file of question types.
        prompt: a row of PROMPTS.
        scorer: of the benchmark's; bem for E-VQA, else official.
        judge: the folder of the model that judges answers, where the scorer asks one.
    """

    data: str = ""
    images: str = ""
    split: str = ""
    question_types: str = ""
    prompt: str = ""
    scorer: str = ""
    judge: str = ""

    @classmethod
    def of(cls, name: str, given: Mapping[str, Any]) -> Place:
        """What the task's file says of a benchmark; what it leaves open as COMEM_DATA has it."""
        place = from_values(cls, {key: text for key, text in given.items() if text}, f"the place of {name}")
        home = os.environ.get(VARIABLE, "")
        if place.data or not home:
            return place
        if Path(home).is_file():
            told = read_json(Path(home))
            there = from_values(cls, told.get(name, {}), f"{home}: {name}")
        else:
            there = cls._in(Path(home), name)
        own = {key: text for key, text in vars(place).items() if text}
        return replace(there, **own)

    @classmethod
    def _in(cls, home: Path, name: str) -> Place:
        """In a folder: `infoseek_es`, else `infoseek`; images in its `images`, else in that of all."""
        names = (name, name.rpartition("_")[0] or name)
        folder = next((home / each for each in names if (home / each).exists()), None)
        if folder is None:
            raise ValueError(
                f"{VARIABLE}={home} has no {' or '.join(dict.fromkeys(names))}: put its files there"
            )
        images = next((place for place in (folder / "images", home / "images") if place.is_dir()), "")
        types = next(iter(sorted(folder.glob("*_qtype.jsonl"))), "") if name.startswith("infoseek") else ""
        judge = folder / "bem"
        return cls(
            str(folder), str(images), question_types=str(types), judge=str(judge) if judge.is_dir() else ""
        )


@dataclass
class Asked:
    """The questions of a task, without their images, and the report on the answers to them."""

    benchmark: Benchmark
    scorer: str
    judge: Path | None = None
    examples: dict[str, Example] = field(default_factory=dict)
    _last: tuple[Mapping[str, str], Report] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def metrics(self) -> tuple[str, ...]:
        """What a task's results show, the most important first."""
        return (*self.benchmark.scorers[self.scorer].headline, *self.benchmark.headline)

    def report(self, outputs: Mapping[str, str]) -> Report:
        """The score of whole outputs by id; of the last ones it is kept: each metric asks for it."""
        with self._lock:
            if self._last is None or self._last[0] != outputs:
                asked = [self.examples[name] for name in outputs]
                self._last = (
                    dict(outputs),
                    self.benchmark.score(outputs, asked, self.scorer, judge=self.judge),
                )
                for note in self._last[1].metrics.get("notes", ()):
                    logger.info("%s: %s", self.benchmark.name, note)
            return self._last[1]


#: By the `source` of a task's documents.
_ASKED: dict[str, Asked] = {}
#: Documents are written here, to be read as they are needed; gone with the process.
_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def docs(given: Any) -> Any:
    """The benchmark's questions as documents.

    Args:
        given: a data set with one row, a `Place`; its name is that of the benchmark.

    Raises:
        ValueError: what the benchmark's reader cannot read, images that are missing, or a judge's weights.
    """
    from datasets import Dataset, Features, Image, Value

    name = given.config_name
    benchmark, place = BENCHMARKS[name], Place.of(name, given[0] if len(given) else {})
    source = json.dumps({"benchmark": name, **vars(place)})
    scorer = place.scorer or ("bem" if "bem" in benchmark.scorers else "official")
    judge = Path(place.judge) if place.judge else None
    asked = _ASKED[source] = Asked(benchmark, benchmark.scorers.check(scorer), judge)
    text, texts = Value("string"), [Value("string")]
    features = Features(
        {
            "id": text, "question": text, "image": Image(decode=False), "choices": texts, "answers": texts,
            "language": text, "group": text, "prompt": text, "prompt_grounded": text, "source": text,
        }
    )  # fmt: skip
    home = tempfile.TemporaryDirectory(prefix="comem-lmms-", ignore_cleanup_errors=True)
    _KEPT.append(home)
    made = Dataset.from_generator(
        functools.partial(_rows, asked, place, source), features=features, cache_dir=home.name,
        fingerprint=Path(home.name).name,
    )  # fmt: skip
    if place.images != "none":
        benchmark.require_images(list(asked.examples.values()))
    if benchmark.scorers[scorer].judge:  # before hours of answers: its weights are there
        asked.report({next(iter(asked.examples)): ""})
    return made


def _rows(asked: Asked, place: Place, source: str) -> Iterator[dict[str, Any]]:
    loaded = asked.benchmark.load(
        place.data or None, image_folder=None if place.images in ("", "none") else place.images,
        split=place.split or None, question_types=place.question_types or None,
    )  # fmt: skip
    for example in loaded:
        image, style = example.image, place.prompt or None
        held = ImageRef(data=b"") if image is not None and image.data is not None else image
        asked.examples[example.id] = replace(example, image=held)
        yield {
            "id": example.id, "question": example.question,
            "image": None if image is None else {"path": image.path, "bytes": image.data},
            "choices": list(example.choices), "answers": list(example.answers),
            "language": example.language, "group": example.group,
            "prompt": asked.benchmark.ask(example, False, style),
            "prompt_grounded": asked.benchmark.ask(example, True, style), "source": source,
        }  # fmt: skip


def example_of(doc: Mapping[str, Any]) -> Example | None:
    """The question of a document of ours with its image; None for another task's document."""
    asked = _ASKED.get(str(doc.get("source")))
    if asked is None:
        return None
    example = asked.examples[doc["id"]]
    held = example.image is not None and example.image.data is not None
    return replace(example, image=ImageRef(data=doc["image"]["bytes"])) if held else example


def visual(doc: Mapping[str, Any]) -> list[Any]:
    """The document's image, opened; none where it has none.

    Raises:
        ImageError: it cannot be opened; names it.
    """
    example = example_of(doc)
    return [] if example is None or example.image is None else [open_image(example.image)]


def results(doc: Mapping[str, Any], said: Sequence[str | None]) -> dict[str, dict[str, Any]]:
    """An answer for each of the benchmark's metrics, with what it earns alone under the first one's name.

    That is the task's `score_key`: of these values are lmms-eval's own intervals and paired comparisons made.
    """
    name, text, asked = doc["id"], said[0] or "", _ASKED[doc["source"]]
    first = asked.metrics[0]
    earned: dict[str, float] = {}
    if not asked.benchmark.scorers[asked.scorer].judge:  # which is asked about all answers together
        alone = asked.benchmark.score({name: text}, [asked.examples[name]], asked.scorer)
        earned = {metric: scores[0].value for metric, scores in alone.scores.items()}
        earned.setdefault(first, next(iter(earned.values()), _number(alone, first) / 100))
    return {
        metric: {"id": name, "text": text, "source": doc["source"]}
        | ({first: earned[metric]} if metric in earned else {})
        for metric in asked.metrics
    }


def _number(report: Report, metric: str) -> float:
    value = report.metrics.get(metric)
    return float(value["score"] if isinstance(value, Mapping) else float("nan") if value is None else value)


def _aggregate(answers: Sequence[Mapping[str, Any]], metric: str) -> float:
    """The benchmark's metric over all answers, in percent, as `comem evaluate` has it."""
    asked = _ASKED[answers[0]["source"]]
    return _number(asked.report({answer["id"]: answer["text"] for answer in answers}), metric)


def __getattr__(name: str) -> Callable[[Sequence[Mapping[str, Any]]], float]:
    """The aggregation of a metric, as the YAML files name it."""
    if name.startswith("_"):
        raise AttributeError(name)
    return functools.partial(_aggregate, metric=name)
