"""Training files as one: so many records of each, drawn by a seed, their paths still right."""

from __future__ import annotations

import argparse
import random
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comem.config import as_dict, from_values, load_config
from comem.data.records import MANIFEST, SETTINGS, TRAIN, read_records, rebased, write_records
from comem.data.synthesis import add_synthesise_arguments, run_synthesise
from comem.data.translate import add_translate_arguments, run_translate
from comem.data.translation import LANGUAGES
from comem.io.console import out, print_facts
from comem.io.jsonl import read_json, sha256_of
from comem.io.run_folder import settle
from comem.types import KnowledgeItem


@dataclass(frozen=True)
class Part:
    """A file, and how many of its records are wanted (None: all)."""

    file: Path
    target: int | None = None

    def __post_init__(self) -> None:
        if self.target is not None and self.target < 1:
            raise ValueError(f"{self.file}: {self.target} records: give at least 1, or none for all")


def parse_part(text: str) -> tuple[str, Part]:
    """Name and part of `NAME=FILE` or `NAME=FILE:TARGET`."""
    name, equals, rest = text.partition("=")
    file, colon, target = rest.rpartition(":")
    if not (colon and target.isdigit()):
        file, target = rest, ""
    if not (name and equals and file):
        raise ValueError(f"part {text!r}: write NAME=FILE, or NAME=FILE:TARGET")
    return name, Part(Path(file), int(target) if target else None)


def mix(
    parts: Mapping[str, Part], folder: str | Path, seed: int = 0,
    table: Mapping[str, KnowledgeItem] | None = None, about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write `train.jsonl` and `manifest.json` of a folder; each record gets the name of its part as `origin`.

    Args:
        parts: by name, in the order of the file.
        folder: the new folder.
        seed: of the drawing; the same records give the same sample, whatever their order.
        table: knowledge items by id, where the parts name them by `knowledge_ids`.
        about: what else the manifest shall say.

    Raises:
        ValueError: a part that cannot be read, an id in two parts, or a folder of another mixture.
    """
    folder = Path(folder)
    files = {
        name: {"file": str(part.file), "sha256": sha256_of(part.file), "target": part.target}
        for name, part in parts.items()
    }
    decisive = {"parts": {name: {**facts, "file": ""} for name, facts in files.items()}, "seed": seed}
    settle(folder / SETTINGS, decisive)
    records: list[dict[str, Any]] = []
    homes: dict[str, str] = {}
    counts: dict[str, dict[str, Any]] = {}
    for name, part in parts.items():
        found = read_records(part.file, table)
        for key in found:
            if key in homes:
                raise ValueError(f"the id {key!r} is in {homes[key]} and in {name}; rename those of one")
        homes |= dict.fromkeys(found, name)
        drawn = _drawn(list(found), part.target, f"{seed}/{name}")
        records += [
            {**rebased(row, part.file.parent, folder), "origin": name}
            for key, row in found.items() if key in drawn
        ]  # fmt: skip
        counts[name] = {**files[name], "records": len(found), "kept": len(drawn)}
    languages = Counter(str(row.get("language", "en")) for row in records)
    mixture = {
        "origin": {name: each["kept"] for name, each in counts.items()},
        "language": dict(languages.most_common()),
    }
    return write_records(
        folder,
        records,
        {"kept": len(records), "mixture": mixture, "parts": counts, "seed": seed, **(about or {})},
    )


def _drawn(names: list[str], target: int | None, seed: str) -> set[str]:
    if target is None or target >= len(names):
        return set(names)
    return set(random.Random(seed).sample(sorted(names), target))


TRANSLATED = "translated"


@dataclass(frozen=True)
class SourceSettings:
    """Questions of one benchmark's training split; what is empty or 0 is left to `comem data synthesise`.

    Attributes:
        benchmark: a row of BENCHMARKS.
        data, images, split, question_types, prompt: as the options of the same names.
        candidates: questions to try (0: all).
        target: records wanted (0: all that are right).
        min_score: of the benchmark's scorer, from which an answer is right.
    """

    benchmark: str
    data: str = ""
    images: str = ""
    split: str = ""
    question_types: str = ""
    prompt: str = ""
    candidates: int = 0
    target: int = 0
    min_score: float = 1.0

    def __post_init__(self) -> None:
        if self.candidates < 0 or self.target < 0:
            raise ValueError(f"candidates {self.candidates}, target {self.target}: give 0 (all) or more")


@dataclass(frozen=True)
class TranslateSettings:
    """The translated share, as the options of `comem data translate`."""

    model: str
    endpoint: str = ""
    api_key_env: str = ""
    languages: tuple[str, ...] = tuple(LANGUAGES)
    samples: int = 200
    concurrency: int = 8


@dataclass(frozen=True)
class DataPlan:
    """A training set, complete.

    Attributes:
        sources: by name, what `SourceSettings` has.
        model: the backbone that answers.
        index: the knowledge base.
        items: knowledge items a question.
        seed: of every drawing.
        translate: the translated share, or nothing.
        dtype, device, batch_size, max_new_tokens: of the answering.
    """

    sources: dict[str, Any]
    model: str = "toy"
    index: str = ""
    items: int = 3
    seed: int = 0
    translate: TranslateSettings | None = None
    dtype: str = "auto"
    device: str = ""
    batch_size: int = 8
    max_new_tokens: int = 64
    parts: dict[str, SourceSettings] = field(init=False)

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("a plan needs sources: NAME: {benchmark: …, target: …}")
        if TRANSLATED in self.sources or any("/" in name for name in self.sources):
            raise ValueError(
                f"sources {', '.join(self.sources)}: no '/' in a name, and none called {TRANSLATED!r}"
            )
        parts = {
            name: from_values(SourceSettings, values, f"sources.{name}")
            for name, values in self.sources.items()
        }
        object.__setattr__(self, "parts", parts)

    @property
    def translations(self) -> int:
        """Translated records wanted."""
        return len(self.translate.languages) * self.translate.samples if self.translate else 0

    @property
    def total(self) -> int | None:
        """Records wanted in all; None where a source gives all that are right."""
        targets = [part.target for part in self.parts.values()]
        return None if 0 in targets else sum(targets) + self.translations

    def synthesis(self, name: str, folder: Path) -> list[str]:
        """The options of `comem data synthesise` for a source."""
        part = self.parts[name]
        options = {
            "--benchmark": part.benchmark, "--data": part.data, "--images": part.images,
            "--split": part.split, "--question-types": part.question_types, "--prompt": part.prompt,
            "--index": self.index, "-k": self.items, "--model": self.model, "--dtype": self.dtype,
            "--device": self.device, "--batch-size": self.batch_size, "--seed": self.seed,
            "--max-new-tokens": self.max_new_tokens, "--candidates": part.candidates,
            "--target": part.target, "--min-score": part.min_score,
            "--output": folder / name,
        }  # fmt: skip
        return list(_words(options, always=("--seed",)))

    def translation(self, folder: Path) -> list[str]:
        """The file and options of `comem data translate`."""
        asked = self.translate
        assert asked is not None
        options = {
            "--endpoint": asked.endpoint, "--model": asked.model, "--api-key-env": asked.api_key_env,
            "--samples": asked.samples, "--concurrency": asked.concurrency, "--seed": self.seed,
            "--batch-size": self.batch_size, "--device": self.device, "--output": folder / TRANSLATED,
        }  # fmt: skip
        words = [str(folder / "english" / "train.jsonl"), *_words(options, always=("--seed",))]
        return [*words, "--languages", *asked.languages]


def _words(options: dict[str, Any], always: tuple[str, ...]) -> Iterator[str]:
    for name, value in options.items():
        if value or name in always:
            yield from (name, str(value))


_BUILD_HELP = """\
examples:
  comem data build configs/data/toy.yaml --output runs/data
  comem data build configs/data/paper.yaml --output runs/data --dry-run
  comem data build configs/data/paper.yaml index=my-index sources.okvqa.target=3000 --output runs/data
Interrupted, the same command goes on.
"""
_MIX_HELP = """\
example:
  comem data mix infoseek=runs/a/train.jsonl:5700 okvqa=runs/b/train.jsonl --output runs/data
"""
#: Settings that may change between two calls: none of them decides a record.
_FREE = ("device", "batch_size")


def add_build_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `comem data build`."""
    parser.epilog = _BUILD_HELP
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("plan", type=Path, metavar="PLAN", help="YAML file, see configs/data/")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as sources.okvqa.data=FILE")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="the training set's folder")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and targets, and stop")


def run_build(args: argparse.Namespace) -> int:
    """Synthesise from each source, translate, mix; what is done is kept."""
    plan = load_config(DataPlan, args.plan, args.overrides)
    if args.dry_run:
        _show(plan, args.output)
        return 0
    _check(plan)
    decisive = {key: value for key, value in as_dict(plan).items() if key != "parts"}
    settle(args.output / SETTINGS, decisive, free=_FREE)
    for name in plan.parts:
        _say(f"synthesising from {name}")
        _call(add_synthesise_arguments, run_synthesise, plan.synthesis(name, args.output))
    parts = {name: Part(args.output / name / TRAIN, part.target or None) for name, part in plan.parts.items()}
    if plan.translate is not None:
        mix(parts, args.output / "english", plan.seed)
        _say(f"translating into {', '.join(plan.translate.languages)}")
        _call(add_translate_arguments, run_translate, plan.translation(args.output))
        parts[TRANSLATED] = Part(args.output / TRANSLATED / TRAIN)
    manifest = mix(parts, args.output / "mixed", plan.seed, about=_about(plan, args.output, list(parts)))
    _show_mixture(manifest, args.output / "mixed", {name: part.target for name, part in plan.parts.items()})
    return 0


def _check(plan: DataPlan) -> None:
    """Names and files, before the first model is loaded."""
    from comem.benchmarks import BENCHMARKS

    for name, part in plan.parts.items():
        _ = BENCHMARKS[part.benchmark]
        for key in ("data", "images", "question_types"):
            if (path := getattr(part, key)) and not Path(path).exists():
                raise ValueError(
                    f"sources.{name}.{key} is {path!r}, which is not there; fetch it, or set another"
                )
    if not (Path(plan.index) / "index.json").is_file():
        raise ValueError(f"index is {plan.index!r}, which is no index; comem index build makes one")


def _call(
    add: Callable[[argparse.ArgumentParser], None], run: Callable[[argparse.Namespace], int], words: list[str]
) -> None:
    parser = argparse.ArgumentParser()
    add(parser)
    run(parser.parse_args(words))


def _about(plan: DataPlan, folder: Path, names: list[str]) -> dict[str, Any]:
    """The manifests of the parts, so that the last one says it all."""
    made = {name: read_json(folder / name / MANIFEST) for name in names}
    sums = {"candidates": sum(each["candidates"] for each in made.values()), "wanted": plan.total}
    return {**sums, "plan": {**as_dict(plan), "parts": None}, "made": made}


def _show(plan: DataPlan, folder: Path) -> None:
    """The plan: commands in their order, and how many records each gives."""
    for name, part in plan.parts.items():
        asked = f"{part.candidates:,} questions" if part.candidates else "all questions"
        print_facts([(name, f"{part.benchmark}: {asked}, {part.target or 'all right'} records")])
        out().print(f"  comem data synthesise {shlex.join(plan.synthesis(name, folder))}", markup=False)
    if plan.translate is not None:
        each = f"{len(plan.translate.languages)} languages × {plan.translate.samples} records"
        print_facts([(TRANSLATED, f"{each} = {plan.translations:,}")])
        out().print(f"  comem data translate {shlex.join(plan.translation(folder))}", markup=False)
    total = "all that are right" if plan.total is None else f"{plan.total:,}"
    print_facts([("records", total), ("written", str(folder / "mixed" / TRAIN))])


def add_mix_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `comem data mix`."""
    parser.epilog = _MIX_HELP
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("parts", nargs="+", metavar="NAME=FILE[:N]", help="files, and records wanted of each")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="the new folder")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the drawing (%(default)s)")
    parser.add_argument("--knowledge", type=Path, metavar="FILE", help="items for knowledge_ids: JSONL, TSV")


def run_mix(args: argparse.Namespace) -> int:
    """Mix files."""
    from comem.training.data import load_knowledge

    named = [parse_part(text) for text in args.parts]
    parts = dict(named)
    if len(parts) < len(named):
        raise ValueError(f"parts {', '.join(name for name, _ in named)}: every part needs a name of its own")
    table = load_knowledge(args.knowledge) if args.knowledge else None
    manifest = mix(parts, args.output, args.seed, table)
    _show_mixture(manifest, args.output, {name: part.target or 0 for name, part in parts.items()})
    return 0


def _show_mixture(manifest: dict[str, Any], folder: Path, targets: dict[str, int]) -> None:
    rows = []
    for name, count in manifest["mixture"]["origin"].items():
        short = f", {targets[name] - count:,} fewer than asked for" if count < targets.get(name, 0) else ""
        rows.append((name, f"{count:,} records{short}"))
    print_facts([*rows, ("in all", f"{manifest['kept']:,}"), ("records", str(folder / TRAIN)),
                 ("manifest", str(folder / MANIFEST))])  # fmt: skip


def _say(text: str) -> None:
    out().print(text, markup=False)
