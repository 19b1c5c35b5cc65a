"""`comem data build` and `comem data mix`: a whole training set from a plan, or from files that are there."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from comem.config import as_dict, load_config
from comem.console import out, print_facts
from comem.data.files import MANIFEST, TRAIN, settle
from comem.data.mix import Part, mix, parse_part
from comem.data.plan import TRANSLATED, DataPlan
from comem.data.synthesise import add_synthesise_arguments, run_synthesise
from comem.data.translate import add_translate_arguments, run_translate
from comem.records import read_json

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
    settle(args.output, {key: value for key, value in as_dict(plan).items() if key != "parts"}, _FREE)
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
    from comem.training.dataset import load_knowledge

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
