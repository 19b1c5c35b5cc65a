"""`python -m tests.robustness --rounds N`: as many trials as one likes; exit code 1 for a broken promise."""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from comem.io.console import print_line, print_table
from tests.robustness import damage, fuzz, hardships, kills, special
from tests.robustness.faults import Modules
from tests.robustness.jobs import JOBS, MODULES, Reference, build_world, reference
from tests.robustness.process import warm
from tests.robustness.verdicts import Tally, Trial

KINDS = ("kill", "error", "hardship", "damage", "fuzz", "special")
#: Jobs, formats and readers that need no model, for a run of seconds.
QUICK = (
    "corpus build",
    "data convert",
    "oven link",
    "bank merge",
    "bank",
    "answers",
    "titles",
    "training records",
)
INPUTS = 60  # for a reader, in a round
LOGGED = "robustness.jsonl"


def main(argv: Sequence[str] | None = None) -> int:
    """Run it."""
    words = _parser().parse_args(argv)
    os.environ["PYTHONWARNINGS"] = "ignore"
    warm()
    tally, began = Tally(), time.monotonic()
    with _folder(words.folder) as folder, fuzz.picture_server(folder / "port") as url:
        world = folder / "world"
        if not world.exists():
            build_world(world, url, quick=words.quick)
        Modules(folder / MODULES).learn()
        for trial in _trials(words, world, folder):
            tally.add([trial])
            _log(folder / LOGGED, trial)
            if trial.problems:
                print_line(f"{trial.kind} {trial.subject}: {trial.fault}: {'; '.join(trial.problems)}")
    seconds = time.monotonic() - began
    print_table(("kind", "of", "faults", "ended", "broken promises"), tally.rows(), texts=("of", "ended"))
    report = {
        "rounds": words.rounds, "seed": words.seed, "seconds": round(seconds),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores", **tally.as_json(),
    }  # fmt: skip
    print_line(
        ", ".join(f"{count} {kind}" for kind, count in report["faults"].items()) + f" in {seconds:.0f} s"
    )
    if words.output:
        Path(words.output).write_text(
            json.dumps(report, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
        )
    return 1 if tally.problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m tests.robustness", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=1, help="each with a chain of kills of every job, and so on"
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same faults")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS, help="kinds of trials")
    parser.add_argument(
        "--of", nargs="+", default=(), help="only jobs, formats and readers with such words in their names"
    )
    parser.add_argument("--quick", action="store_true", help="only what needs no model: seconds")
    parser.add_argument(
        "--folder", type=Path, help="where to work; kept, and its world used again (default: a temporary one)"
    )
    parser.add_argument("--output", help="the figures, as JSON")
    return parser


def _log(file: Path, trial: Trial) -> None:
    """Each trial as it ends, so that a run that is stopped has its figures, too."""
    with file.open("a", encoding="utf-8") as log:
        log.write(json.dumps(vars(trial)) + "\n")


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="robustness-") as made:
        yield Path(made)


def _trials(words: argparse.Namespace, world: Path, folder: Path) -> Iterator[Trial]:
    """All trials, round by round, so that a run that is stopped has seen a bit of everything."""
    wanted: Callable[[str], bool] = lambda name: (  # noqa: E731
        (not words.quick or name in QUICK) and (not words.of or any(word in name for word in words.of))
    )
    here = folder / "trial"
    jobs = [job for job in JOBS if wanted(job.name)] if {"kill", "error", "hardship"} & {*words.only} else []
    references = [reference(world, here, job) for job in jobs]
    formats = [each for each in damage.STORED if wanted(each.name)] if "damage" in words.only else []
    sounds = [damage.sound(world, here, stored) for stored in formats]
    readers = [reader for reader in fuzz.READERS if wanted(reader.name)] if "fuzz" in words.only else []
    if readers and not (folder / "seeds").exists():
        fuzz.seeds(world, folder / "seeds", published=not words.quick)
    for number in range(words.rounds):
        draw = lambda kind, name, at=number: random.Random(f"{words.seed} {kind} {name} {at}")  # noqa: E731
        for job in references:
            yield from _of_a_job(words, world, here, job, draw)
        for good in sounds:
            for at in range(3 if words.quick else good.stored.trials):
                yield from damage.damaged(
                    world, here, good, random.Random(f"{words.seed} {good.stored.name} {number} {at}")
                )
        count = 20 if words.quick else INPUTS
        for reader in readers:
            yield from fuzz.fuzzed(
                folder / "seeds", folder / "fuzz", reader, (words.seed * 1000 + number) * count, count
            )
    if "special" in words.only and not words.quick:
        yield from special.trials(world, here)


def _of_a_job(
    words: argparse.Namespace,
    world: Path,
    here: Path,
    job: Reference,
    draw: Callable[[str, str], random.Random],
) -> Iterator[Trial]:
    name = job.job.name
    if "kill" in words.only:
        yield from kills.killed(world, here, job, draw("kill", name))
    if "error" in words.only:
        dice = draw("error", name)
        yield from hardships.troubled(world, here, job, hardships.draw_error(dice, job), "error")
    if "hardship" in words.only and not words.quick:
        dice = draw("hardship", name)
        yield from hardships.troubled(world, here, job, hardships.draw_hardship(dice, job), "hardship")


if __name__ == "__main__":
    sys.exit(main())
