"""`comem data check | convert | synthesise | translate | mix | build`: options, and what is printed."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from comem.data.mix import add_build_arguments, add_mix_arguments, run_build, run_mix
from comem.data.synthesis import add_synthesise_arguments, run_synthesise
from comem.data.translate import add_translate_arguments, run_translate
from comem.io.console import bar, make_table, out, print_facts

if TYPE_CHECKING:
    from comem.data.check import Check

_HELP = """\
examples:
  comem data check data/toy/train.jsonl --model toy --html runs/samples.html
  comem data convert llava.json --images coco --output train.jsonl
  comem data convert authors_mds --output train.jsonl
  comem data synthesise --benchmark toy --data data/toy/train.jsonl --index data/toy/index -k 3 \\
      --candidates 200 --output runs/synthesis
  comem data translate runs/synthesis/train.jsonl --endpoint http://localhost:8000/v1 --model NAME \\
      --output runs/translation
  comem data mix english=runs/synthesis/train.jsonl more=runs/translation/train.jsonl --output runs/mixed
  comem data build configs/data/toy.yaml --output runs/data
The records, field by field: docs/training_data.md
"""
_SHOWN = 50


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `comem data`."""
    parser.epilog = _HELP
    jobs = parser.add_subparsers(title="jobs", metavar="JOB", required=True, dest="job")
    _add_check(jobs.add_parser("check", help="every fault, counts, lengths, samples; exit code 1 for faults"))
    _add_convert(jobs.add_parser("convert", help="LLaVA-style JSON or an MDS folder to our JSONL"))
    add_synthesise_arguments(jobs.add_parser("synthesise", help="a model's own right answers by plain RAG"))
    add_translate_arguments(jobs.add_parser("translate", help="a sample of the records in other languages"))
    add_mix_arguments(jobs.add_parser("mix", help="several files as one, so many records of each"))
    add_build_arguments(jobs.add_parser("build", help="a whole training set from a plan (configs/data/)"))


def run_data(args: argparse.Namespace) -> int:
    """Runs the job that was chosen."""
    jobs: dict[str, Callable[[argparse.Namespace], int]] = {
        "check": _check, "convert": _convert, "synthesise": run_synthesise,
        "translate": run_translate, "mix": run_mix, "build": run_build,
    }  # fmt: skip
    return jobs[args.job](args)


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="JSONL, or .jsonl.gz")
    parser.add_argument("--knowledge", type=Path, metavar="FILE", help="items for knowledge_ids: JSONL, TSV")
    parser.add_argument("--model", metavar="NAME", help="lengths in its tokens (default: in characters)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="a page with samples")
    parser.add_argument("--samples", type=int, default=20, metavar="N", help="on the page (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the samples (%(default)s)")
    parser.add_argument("--no-pictures", action="store_true", help="do not open the pictures")


def _check(args: argparse.Namespace) -> int:
    from comem.data.check import check_file, length_statistics, page
    from comem.io.files import write_atomic
    from comem.training.data import load_knowledge

    if args.samples < 0:
        raise ValueError(f"--samples {args.samples}: give 0 or more")
    length = _tokens_of(args.model) if args.model else len
    table = load_knowledge(args.knowledge) if args.knowledge else None
    with bar("checking", unit=" records") as progress:
        check = check_file(
            args.file, table, pictures=not args.no_pictures, progress=lambda: progress.update()
        )
    print_facts([(name.replace("_", " "), str(value)) for name, value in check.counts().items()])
    unit = "tokens" if args.model else "characters"
    rows = [
        (name, *(f"{number:,}" for number in summary.values()))
        for name, summary in length_statistics(check.examples, length).items()
    ]
    out().print(make_table((f"{unit} in", "count", "mean", "median", "95 %", "longest"), rows))
    _show_faults(check)
    if args.html:
        write_atomic(args.html, page(check, args.samples, args.seed))
        print_facts([("page", str(args.html))])
    return 1 if check.faults else 0


def _tokens_of(model: str) -> Callable[[str], int]:
    """How many tokens of a backbone a text has."""
    from transformers import AutoTokenizer

    from comem.backbones.specs import resolve_backbone

    tokenizer = AutoTokenizer.from_pretrained(resolve_backbone(model).source)
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _show_faults(check: Check) -> None:
    for fault in check.faults[:_SHOWN]:
        where = f"{check.path}:{fault.line}:" + (f" {fault.field}:" if fault.field else "")
        out().print(f"{where} {fault.problem}; {fault.remedy}", markup=False)
    if (more := len(check.faults) - _SHOWN) > 0:
        out().print(f"… and {more:,} more; --html FILE shows all", markup=False)


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="PATH", help="JSON, JSONL, or an MDS folder")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the JSONL file")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="where paths start (default: the source's)"
    )
    parser.add_argument("--skip-faults", action="store_true", help="leave out what cannot be converted")


def _convert(args: argparse.Namespace) -> int:
    from comem.data.convert import convert

    with bar("converting", unit=" records") as progress:
        count, faults = convert(
            args.source, args.output, images=args.images, skip_faults=args.skip_faults,
            progress=lambda: progress.update(),
        )  # fmt: skip
    print_facts([("written", f"{count:,}"), ("left out", f"{len(faults):,}"), ("file", str(args.output))])
    for name, fault in list(faults.items())[:_SHOWN]:
        out().print(f"{name}: {fault}", markup=False)
    return 0
