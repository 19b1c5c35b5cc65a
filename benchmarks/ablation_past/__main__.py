"""Elastic memory and items that do not help, against training without, on the embedded world.

    python -m benchmarks.ablation_past run --out runs/past --seeds 2 --steps 200
    python -m benchmarks.ablation_past table runs/past/results.json

`run` draws dialogues, trains every arm with every seed from the memory that is shipped, asks each about
towns that no model has seen, and writes out/results.json after each. Started again, it goes on. `table`
prints means, 95 % intervals over questions, the seeds' spread, and differences.
"""

from __future__ import annotations

import argparse
import logging
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
    work.add_argument("what", choices=("prepare", "arm"))
    work.add_argument("rest", nargs="*")
    work.set_defaults(job=_work)
    args = parser.parse_args()
    args.job(args)


def _add_run(run: argparse.ArgumentParser) -> None:
    add = run.add_argument
    add("--out", type=Path, required=True, help="folder for everything")
    add("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="default: all")
    add("--seeds", type=int, default=2, help="of each arm (%(default)s)")
    add("--jobs", type=int, default=2, help="arms side by side, a core each (%(default)s)")
    add("--steps", type=int, required=True, help="of each arm")
    add("--batch", type=int, default=12, help="dialogues a step (%(default)s)")
    add("--towns", type=int, nargs="+", default=[1, 2, 3], help="of a dialogue, drawn from these (1 2 3)")
    add("--questions", type=int, default=360, help="asked of each (%(default)s)")
    add("--reader", default="toy", help="backbone (%(default)s)")
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings for every arm")
    run.set_defaults(job=_run)


def _run(args: argparse.Namespace) -> None:
    from benchmarks.ablation_past.driver import Plan, run

    run(
        Plan(
            args.out,
            args.arms,
            args.seeds,
            args.jobs,
            args.steps,
            args.batch,
            args.towns,
            args.questions,
            args.reader,
            args.set,
        )  # fmt: skip
    )


def _table(args: argparse.Namespace) -> None:
    from benchmarks.ablation_past.table import lines
    from comem.io.files import read_json

    print("\n".join(lines(read_json(args.results)["results"])))


def _work(args: argparse.Namespace) -> None:
    from benchmarks.ablation_past import work
    from benchmarks.ablation_past.arms import Run

    reader, *rest = args.rest
    if args.what == "prepare":
        work.prepare(args.out, reader, *map(int, rest))
    else:
        arm, seed, steps, batch, *options = rest
        work.train_and_measure(args.out, Run(reader, arm, int(seed), int(steps), int(batch), tuple(options)))


if __name__ == "__main__":
    main()
