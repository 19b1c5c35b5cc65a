"""Elastic memory, distillation and items that do not help, against training without, on the embedded world.

    python -m benchmarks.ablation_past run --out runs/past --jobs 24 --device cuda --minutes 5
    python -m benchmarks.ablation_past table runs/past/results.json

`run` draws dialogues, trains every arm with every seed in processes side by side, all for the same number
of steps, asks each about towns that no model has seen, and writes out/results.json after each. Started
again, it goes on. `table` prints means, 95 % intervals over questions, the seeds' spread, and differences.
"""

from __future__ import annotations

import argparse
import logging
import signal
from pathlib import Path

from benchmarks.ablation_past.arms import ARMS


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    _add_run(commands.add_parser("run", help="train and measure"))
    table = commands.add_parser("table", help="print what a results.json says")
    table.add_argument("results", type=Path)
    table.set_defaults(job=_table)
    work = commands.add_parser("work", help="one process's part of `run`")
    work.add_argument("out", type=Path)
    work.add_argument("what", choices=("prepare", "reference", "arm"))
    work.add_argument("rest", nargs="*")
    work.set_defaults(job=_work)
    args = parser.parse_args()
    args.job(args)


def _add_run(run: argparse.ArgumentParser) -> None:
    run.add_argument("--out", type=Path, required=True, help="folder for everything")
    run.add_argument("--keep", type=Path, help="folder that gets a copy of results.json and the adapters")
    run.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="default: all")
    run.add_argument("--seeds", type=int, default=3, help="of each arm (%(default)s)")
    run.add_argument("--jobs", type=int, default=2, help="arms side by side (%(default)s)")
    run.add_argument("--steps", type=int, default=0, help="of each arm; 0: what --train-seconds allow")
    run.add_argument("--train-seconds", type=float, default=120, help="of training (%(default)s)")
    run.add_argument("--minutes", type=float, default=5, help="then all is stopped (%(default)s)")
    run.add_argument(
        "--measure-seconds", type=float, default=60, help="of them left for measuring (%(default)s)"
    )
    run.add_argument("--batch", type=int, default=32, help="dialogues a step (%(default)s)")
    run.add_argument("--questions", type=int, default=600, help="asked of each (%(default)s)")
    run.add_argument("--reader", default="toy", help="backbone (%(default)s)")
    run.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings for every arm")
    run.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    run.set_defaults(job=_run)


def _run(args: argparse.Namespace) -> None:
    from benchmarks.ablation_past.driver import Plan, keep, run

    plan = Plan(
        args.out, tuple(args.arms), args.seeds, args.jobs, args.steps, args.train_seconds,
        60 * args.minutes, args.measure_seconds, args.batch, args.questions, args.device, args.reader, tuple(args.set),
    )  # fmt: skip
    try:
        run(plan)
    finally:
        if args.keep:
            keep(args.out, args.keep)


def _table(args: argparse.Namespace) -> None:
    from benchmarks.ablation_past.table import lines
    from comem.records import read_json

    print("\n".join(lines(read_json(args.results)["results"])))


def _work(args: argparse.Namespace) -> None:
    from benchmarks.ablation_past import work
    from benchmarks.ablation_past.arms import Run

    rest = args.rest
    if args.what == "prepare":
        work.prepare(args.out, rest[0], *map(int, rest[1:]))
    elif args.what == "reference":
        work.reference(args.out, rest[0])
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the trainer heeds it, what comes after does not
        work.train_and_measure(args.out, Run(*rest[:2], *map(int, rest[2:5]), tuple(rest[5:])))


if __name__ == "__main__":
    main()
