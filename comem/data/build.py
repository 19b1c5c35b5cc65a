"""A whole training set from a plan: synthesised from every source, a sample of it translated, and mixed."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from comem.benchmarks import BENCHMARKS
from comem.config import DryRun, as_dict, from_values, option, take_paths
from comem.data.mix import Part, mix_parts, mixture_lines
from comem.data.records import SETTINGS, TRAIN
from comem.data.synthesis import SynthesiseSettings, synthesise
from comem.data.translate import TranslateSettings, TranslatorSettings, translate
from comem.io.console import Progress, print_facts, print_line, quiet
from comem.io.run_folder import settle

logger = logging.getLogger(__name__)

TRANSLATED, ENGLISH, MIXED = "translated", "english", "mixed"
#: Settings that may change between two calls: none of them decides a record.
_FREE = ("device", "batch_size")


@dataclass(frozen=True, kw_only=True)
class DataPlan:
    """A training set, complete: a YAML file as in configs/data/, whose values may be set anew.

    Sources are set as sources.NAME.KEY=VALUE, the translated share as translate.KEY=VALUE. Interrupted, the
    same command goes on.

    Attributes:
        output: the training set's folder; mixed/train.jsonl is trained on.
        sources: by name, what `comem data synthesise` is told of a benchmark's questions; where a source says
            nothing, the plan's own settings hold (candidates, target: all).
        model: the backbone that answers.
        index: the knowledge base.
        items: knowledge items a question.
        seed: of every drawing.
        translate: the translated share, or nothing.
        dtype: of the answering model.
        device: of the answering model.
        batch_size: questions at a time.
        max_new_tokens: longest answer.
    """

    output: Path = option(Path("runs/data"), metavar="DIR")
    sources: dict[str, Any]
    model: str = "toy"
    index: str = ""
    items: int = 3
    seed: int = 0
    translate: TranslatorSettings | None = None
    dtype: str = "auto"
    device: str = ""
    batch_size: int = 8
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        take_paths(self)
        if not self.sources:
            raise ValueError("a plan needs sources: NAME: {benchmark: …, target: …}")
        if {TRANSLATED, ENGLISH, MIXED} & self.sources.keys() or any("/" in name for name in self.sources):
            raise ValueError(
                f"sources {', '.join(self.sources)}: no '/' in a name, and none called {TRANSLATED!r}, "
                f"{ENGLISH!r} or {MIXED!r}"
            )
        _ = self.jobs  # each source is checked with the plan

    @cached_property
    def jobs(self) -> dict[str, SynthesiseSettings]:
        """How the questions of each source are answered."""
        shared = {
            "index": self.index, "k": self.items, "model": self.model, "dtype": self.dtype,
            "device": self.device, "batch_size": self.batch_size, "max_new_tokens": self.max_new_tokens,
        }  # fmt: skip
        jobs = {}
        for name, source in self.sources.items():
            wanted: Any = source
            if isinstance(source, Mapping):  # 0 and nothing leave a setting as it is
                said = {key: value for key, value in {**shared, **source}.items() if value not in ("", 0)}
                wanted = {"seed": self.seed, **said, "output": self.output / name}
            jobs[name] = from_values(SynthesiseSettings, wanted, f"sources.{name}")
        return jobs

    @property
    def translations(self) -> int:
        """Translated records wanted."""
        return len(self.translate.languages) * self.translate.samples if self.translate else 0

    @property
    def total(self) -> int | None:
        """Records wanted in all; None where a source gives all that are right."""
        targets = [job.target or 0 for job in self.jobs.values()]
        return None if 0 in targets else sum(targets) + self.translations

    def translation(self) -> TranslateSettings | None:
        """How the share is translated that is to be."""
        if self.translate is None:
            return None
        return TranslateSettings(
            **{each.name: getattr(self.translate, each.name) for each in fields(TranslatorSettings)},
            file=self.output / ENGLISH / TRAIN, seed=self.seed, batch_size=self.batch_size,
            device=self.device or None, output=self.output / TRANSLATED,
        )  # fmt: skip


def build(plan: DataPlan, progress: Progress = quiet) -> dict[str, Any]:
    """Synthesise from each source, translate, mix; what is done is kept.

    Returns:
        The manifest of the mixture, with those of all its parts.

    Raises:
        ValueError: a name or file that is not there, or a folder of another plan.
    """
    _check(plan)
    decisive = {key: value for key, value in as_dict(plan).items() if key != "output"}
    settle(plan.output / SETTINGS, decisive, free=_FREE)
    made: dict[str, dict[str, Any]] = {}
    for name, job in plan.jobs.items():
        logger.info("synthesising from %s", name)
        made[name] = synthesise(job, progress)
    parts = {name: Part(plan.output / name / TRAIN, job.target) for name, job in plan.jobs.items()}
    if translation := plan.translation():
        mix_parts(parts, plan.output / ENGLISH, plan.seed, progress=progress)
        logger.info("translating into %s", ", ".join(translation.languages))
        made[TRANSLATED] = translate(translation, progress)
        parts[TRANSLATED] = Part(plan.output / TRANSLATED / TRAIN)
    about = {
        "candidates": sum(each["candidates"] for each in made.values()), "wanted": plan.total,
        "plan": as_dict(plan), "made": made,
    }  # fmt: skip
    return mix_parts(parts, plan.output / MIXED, plan.seed, about=about, progress=progress)


def _check(plan: DataPlan) -> None:
    """Names and files, before the first model is loaded."""
    for name, job in plan.jobs.items():
        BENCHMARKS.check(job.benchmark)
        for key, path in (("data", job.data), ("images", job.images), ("question_types", job.question_types)):
            if path and not path.exists():
                raise ValueError(
                    f"sources.{name}.{key} is {str(path)!r}, which is not there; fetch it, or set another"
                )
    if not (Path(plan.index) / "index.json").is_file():
        raise ValueError(f"index is {plan.index!r}, which is no index; comem index build makes one")


def build_plan(plan: DataPlan, options: DryRun = DryRun()) -> list[str]:  # noqa: B008 (frozen)
    """What `build` would do, as lines: commands in their order, and how many records each gives."""
    lines = []
    for name, job in plan.jobs.items():
        asked = f"{job.candidates:,} questions" if job.candidates else "all questions"
        lines.append(f"{name}: {job.benchmark}: {asked}, {job.target or 'all right'} records")
        lines.append(f"  comem data synthesise {shlex.join(_words(job))}")
    if translation := plan.translation():
        each = f"{len(translation.languages)} languages × {translation.samples} records"
        lines.append(f"{TRANSLATED}: {each} = {plan.translations:,}")
        lines.append(f"  comem data translate {translation.file} {shlex.join(_words(translation))}")
    total = "all that are right" if plan.total is None else f"{plan.total:,}"
    return [*lines, f"records: {total}", f"written: {plan.output / MIXED / TRAIN}"]


def _words(settings: Any) -> Iterator[str]:
    """Settings as options of their command, those that are not the defaults."""
    for each in fields(settings):
        value = getattr(settings, each.name)
        if value != each.default and not each.metadata.get("positional") and not isinstance(value, dict):
            yield f"--{each.name.replace('_', '-')}"
            yield from map(str, value if isinstance(value, tuple) else (value,))


def show_built(result: dict[str, Any] | list[str], plan: DataPlan) -> None:
    """Print how many records each part gave, or would."""
    if isinstance(result, dict):
        print_facts(mixture_lines(result, plan.output / MIXED))
    else:
        for line in result:
            print_line(line)
