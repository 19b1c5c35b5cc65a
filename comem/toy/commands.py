"""`comem toy build`: the embedded world as files."""

from __future__ import annotations

import argparse
import logging
from dataclasses import fields
from pathlib import Path

from comem.toy.dataset import DataSettings, build
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


def run_toy(args: argparse.Namespace) -> int:
    """Build the folder and say what is in it."""
    names = [field.name for field in fields(DataSettings)]
    values = {name: getattr(args, name) for name in names} | {"languages": tuple(args.languages)}
    counts = build(args.output, DataSettings(**values))
    logger.info("%s: %s", args.output, ", ".join(f"{count} {name}" for name, count in counts.items()))
    return 0
