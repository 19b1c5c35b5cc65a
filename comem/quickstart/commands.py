"""`comem quickstart`: the whole method, step by step."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

_HELP = """\
examples:
  comem quickstart --fast              two minutes: a small world, a few seconds of training
  comem quickstart                     ten minutes
  comem quickstart --all-benchmarks    every benchmark in every mode, in under fifteen minutes
  comem quickstart --flags ../shared/data/flags --output runs/with-flags
Everything is written to the run folder. Interrupted? The same command goes on; finished steps are kept.
"""


def add_quickstart_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `comem quickstart`."""
    parser.epilog = _HELP
    parser.add_argument("--fast", action="store_true", help="two minutes instead of ten")
    parser.add_argument(
        "--all-benchmarks", action="store_true", help="every benchmark in every mode, in its own format"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="run folder (runs/quickstart[-fast])")
    parser.add_argument("--seed", type=int, default=0, help="of the training (%(default)s)")
    flags = parser.add_mutually_exclusive_group()
    flags.add_argument("--flags", type=Path, metavar="DIR", help="real flags (default: ../shared/data/flags)")
    flags.add_argument("--no-flags", action="store_true", help="leave the real flags out")


def default_folder(fast: bool, kind: str = "quickstart") -> Path:
    """Where a run goes; the short one beside the long one, so that neither discards the other."""
    return Path("runs") / (f"{kind}-fast" if fast else kind)


def run_all_benchmarks(args: argparse.Namespace) -> int:
    """Every benchmark in every mode, and the report."""
    start = time.monotonic()
    from comem.io.console import out

    folder = args.output or default_folder(args.fast, "all-benchmarks")
    out().print(f"all benchmarks: loading the libraries; all outputs go to {folder}")
    from comem.modes import MODES
    from comem.quickstart.all_benchmarks import AllSettings, all_steps
    from comem.quickstart.all_report import show_all
    from comem.quickstart.steps import run_steps
    from comem.quickstart.work import Workbench
    from comem.training.interrupt import Interrupted

    settings = AllSettings(folder, args.fast, args.seed)
    try:
        run_steps(all_steps(settings, Workbench()), folder, out().print, start)
    except Interrupted as stop:
        out().print(f"all benchmarks: {stop}")
        return stop.exit_code
    show_all(folder, tuple(MODES))
    out().print(f"all benchmarks: done in {time.monotonic() - start:.0f} s")
    return 0


def run_quickstart(args: argparse.Namespace) -> int:
    """Run the steps and show what came out."""
    if args.all_benchmarks:
        return run_all_benchmarks(args)
    start = time.monotonic()
    from comem.io.console import out

    out().print("quickstart: loading the libraries")  # seconds, of silence otherwise
    from comem.quickstart.flags import flag_steps
    from comem.quickstart.report import show_results
    from comem.quickstart.settings import FLAGS, QuickSettings
    from comem.quickstart.steps import run_steps
    from comem.quickstart.towns import shipped_memory, town_steps
    from comem.quickstart.work import Workbench
    from comem.training.interrupt import Interrupted

    folder = args.output or default_folder(args.fast)
    flags = None if args.no_flags else args.flags or (FLAGS if FLAGS.is_dir() else None)
    if flags is not None and not (flags / "questions.jsonl").is_file():
        raise ValueError(f"{flags}: no questions.jsonl there; give another folder, or --no-flags")
    settings = QuickSettings(folder, args.fast, args.seed, flags)
    out().print(f"quickstart: all outputs go to {folder}")
    if flags is None:
        out().print("quickstart: no folder of real flags (--flags DIR): only the embedded world")
    if shipped_memory() is None:
        out().print("quickstart: no shipped memory in this package: only the one trained now")
    from transformers.utils import logging

    logging.disable_progress_bar()  # "Loading weights", over in a blink each time
    bench = Workbench()
    steps = [*town_steps(settings, bench), *flag_steps(settings, bench)]
    try:
        run_steps(steps, folder, out().print, start)
    except Interrupted as stop:  # the training's own way to stop, with a checkpoint
        out().print(f"quickstart: {stop}")
        return stop.exit_code
    show_results(settings)
    out().print(f"quickstart: done in {time.monotonic() - start:.0f} s")
    return 0
