"""`comem toy`: the embedded world as files, and a text-only reader made of its model."""

from __future__ import annotations

import argparse
import logging
from dataclasses import fields
from pathlib import Path
from typing import Any

from comem.toy.benchmark_files import FilesSettings
from comem.toy.dataset import DataSettings, build
from comem.toy.dialogues import DialogueSettings, build_dialogues
from comem.toy.lexicon import LANGUAGES

logger = logging.getLogger(__name__)


def add_toy_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `comem toy`."""
    jobs = parser.add_subparsers(dest="job", required=True, metavar="JOB")
    job = jobs.add_parser(
        "build",
        help="write pictures, a WIT table and InfoSeek-style questions",
        description="Write a procedural encyclopedia: images/, wit.tsv.gz, {train,val,test}.jsonl.",
        epilog="example: comem toy build data/toy --size 500 --languages en es",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    defaults = DataSettings()
    job.add_argument("output", type=Path, metavar="DIR")
    for field in fields(DataSettings):
        if field.name != "languages":
            flag = "--" + field.name.replace("_", "-")
            job.add_argument(flag, type=int, default=getattr(defaults, field.name), metavar="N", help=" ")
    job.add_argument("--languages", nargs="+", choices=LANGUAGES, default=list(defaults.languages), help=" ")
    _add_dialogues(jobs)
    _add_benchmarks(jobs)
    _add_text_reader(jobs)


def _add_dialogues(jobs: Any) -> None:
    job = jobs.add_parser(
        "dialogues",
        help="write dialogues to train a memory encoder on",
        description="Write dialogues.jsonl (the record that comem train reads) and its pictures.",
        epilog="example: comem toy dialogues data/dialogues --items 1 2 3 --count 4000",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    defaults = DialogueSettings()
    job.add_argument("output", type=Path, metavar="DIR")
    for name in ("count", "easy", "turns", "entities", "views", "seed"):
        job.add_argument(f"--{name}", type=int, default=getattr(defaults, name), metavar="N", help=" ")
    job.add_argument("--items", type=int, nargs="+", default=list(defaults.items), metavar="K", help=" ")
    job.add_argument("--languages", nargs="+", choices=LANGUAGES, default=list(defaults.languages), help=" ")


def _add_benchmarks(jobs: Any) -> None:
    job = jobs.add_parser(
        "benchmarks",
        help="write questions in the published format of every benchmark",
        description="Write a folder for each benchmark, and images/, references/, wit.tsv.gz.",
        epilog="example: comem toy benchmarks data/benchmarks --questions 50",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    job.add_argument("output", type=Path, metavar="DIR")
    for field in fields(FilesSettings):
        flag = "--" + field.name.replace("_", "-")
        job.add_argument(flag, type=int, default=field.default, metavar="N", help=" ")


def _add_text_reader(jobs: Any) -> None:
    job = jobs.add_parser(
        "text-reader",
        help="write a model's language part as a text-only reader",
        description="Write a Qwen-VL's language model as an ordinary Qwen2 folder: it sees no pictures.",
        epilog="example: comem toy text-reader models/toy-text",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    job.add_argument("output", type=Path, metavar="DIR")
    job.add_argument("--model", default="toy", help="Qwen2-VL or Qwen2.5-VL, named as for comem predict")


def run_toy(args: argparse.Namespace) -> int:
    """Write the files and say what they hold."""
    jobs = {"build": _build, "dialogues": _dialogues, "benchmarks": _benchmarks, "text-reader": _text_reader}
    return jobs[args.job](args)


def _text_reader(args: argparse.Namespace) -> int:
    from comem.backbones.hf import load_backbone
    from comem.backbones.text_reader import text_reader_of

    text_reader_of(load_backbone(args.model, device="cpu"), args.output)
    return 0


def _benchmarks(args: argparse.Namespace) -> int:
    from comem.toy.benchmark_files import build_files

    values = {field.name: getattr(args, field.name) for field in fields(FilesSettings)}
    counts = build_files(args.output, FilesSettings(**values))
    logger.info("%s: %s", args.output, ", ".join(f"{count} {name}" for name, count in counts.items()))
    return 0


def _build(args: argparse.Namespace) -> int:
    names = [field.name for field in fields(DataSettings)]
    values = {name: getattr(args, name) for name in names} | {"languages": tuple(args.languages)}
    counts = build(args.output, DataSettings(**values))
    logger.info("%s: %s", args.output, ", ".join(f"{count} {name}" for name, count in counts.items()))
    return 0


def _dialogues(args: argparse.Namespace) -> int:
    names = ("count", "easy", "turns", "entities", "views", "seed")
    values = {name: getattr(args, name) for name in names}
    settings = DialogueSettings(items=tuple(args.items), languages=tuple(args.languages), **values)
    build_dialogues(args.output, settings)
    return 0
