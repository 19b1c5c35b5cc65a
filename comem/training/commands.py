"""`comem train` and `comem merge`."""

from __future__ import annotations

import argparse
import logging

from comem.config import load_config
from comem.training.settings import TrainSettings

logger = logging.getLogger(__name__)

_TRAIN_HELP = """\
examples:
  comem train --config configs/train/toy.yaml data=data/toy-dialogues/dialogues.jsonl output=runs/toy
  comem train --config configs/train/paper.yaml data=train.jsonl micro_batch_size=1 --dry-run
Run the same command again to resume. Every KEY is listed in comem/training/settings.py;
nested ones have a dot: optim.lr=1e-4 lora.rank=32 qformer.num_queries=16.
"""

_MERGE_HELP = """\
examples:
  comem merge runs/toy models/toy-encoder
  comem merge runs/7b models/7b-adapter --adapter
"""


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `comem train`."""
    parser.epilog = _TRAIN_HELP
    parser.add_argument("--config", "-c", metavar="FILE", help="YAML file, see configs/train/")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings that replace the file's")
    parser.add_argument("--dry-run", action="store_true", help="print the plan: parameters, memory, hours")
    parser.add_argument(
        "--tflops", type=float, default=300.0, metavar="N",
        help="10¹² operations a second with which --dry-run reckons hours: an assumption (default: 300)",
    )  # fmt: skip


def run_train(args: argparse.Namespace) -> int:
    """Train, or print the plan; 130 after Ctrl-C."""
    settings = load_config(TrainSettings, args.config, args.overrides)
    if args.dry_run:
        from comem.training.plan import make_plan

        _table(make_plan(settings, args.tflops).lines())
        return 0
    from comem.training.interrupt import Interrupted
    from comem.training.ranks import state
    from comem.training.run import train

    try:
        result = train(settings)
    except Interrupted as stop:
        logger.warning("%s", stop)
        return stop.exit_code
    if not state().is_main_process:
        return 0
    rows = [("run folder", str(result.folder)), ("encoder", str(result.checkpoint))]
    rows += [("steps", f"{result.steps:,} in {result.seconds:,.0f} s")]
    rows += [(name, f"{value:.4f}") for name, value in result.metrics.items()]
    _table([*rows, ("next", f"comem merge {result.folder} {result.folder / 'merged'}")])
    return 0


def add_merge_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `comem merge`."""
    parser.epilog = _MERGE_HELP
    parser.add_argument("run", help="run folder of comem train, or one of its checkpoints")
    parser.add_argument("out", help="folder to write; new or empty")
    parser.add_argument("--adapter", action="store_true", help="keep a small adapter beside the base model")
    parser.add_argument(
        "--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"),
        help="of the merged weights (default: as the base is stored)",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print what would be merged, and stop")


def run_merge(args: argparse.Namespace) -> int:
    """Merge a run into an encoder folder."""
    from comem.training.merge import merge_plan, merge_run

    if args.dry_run:
        _table(merge_plan(args.run, args.out, args.adapter, args.dtype))
        return 0
    merge_run(args.run, args.out, args.adapter, args.dtype)
    _table([("encoder", str(args.out))])
    return 0


def _table(rows: list[tuple[str, str]]) -> None:
    """Rows of label and value on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for label, value in rows:
        table.add_row(label, value)
    Console(soft_wrap=True).print(table, markup=False, highlight=False)
