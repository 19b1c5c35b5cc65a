"""What is tried once a run: killed workers, shards that overlap, a million rows, private addresses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.robustness.faults import KillWorker
from tests.robustness.jobs import content, new_folder
from tests.robustness.process import Outcome, run
from tests.robustness.verdicts import Trial

ROWS = 1_000_000
#: MiB that reading a million rows may take at most; measured figures are in docs/reliability.md.
MOST = {"evaluate": 3000, "corpus build": 1500}


def trials(world: Path, folder: Path) -> Iterator[Trial]:
    """Each of them once."""
    yield from killed_worker(world, folder)
    yield from overlapping_shards(world, folder)
    yield from overlapping_banks(world, folder)
    yield from million_rows(world, folder)


def killed_worker(world: Path, folder: Path) -> Iterator[Trial]:
    """One of the processes that read a corpus is killed; so is a data worker of a training."""
    for name, words, made in (
        ("corpus build", "corpus build w/wit.tsv.gz w/items.jsonl --output out --workers "
                         "2", "out/items.parquet"),
        ("train", "train --config toy data=w/lessons/train.jsonl output=out max_steps=4 epochs=100 "
                  "batch_size=2 save_every=1 workers=1", "out/metrics.json"),
    ):  # fmt: skip
        new_folder(world, folder)
        outcome = run(words.split(), folder, KillWorker())
        problems = [] if not outcome.crashed else [f"exit code {outcome.code}, {outcome.last[:300]}"]
        if outcome.code == 2 and "worker" not in outcome.last:
            problems.append(f"does not say what happened: {outcome.last[:300]}")
        again = run(words.split(), folder)
        if again.code != 0 or not (folder / made).exists():
            problems.append(f"the next run: exit code {again.code}, {again.last[:300]}")
        yield Trial(
            "special",
            f"killed worker of {name}",
            "SIGKILL",
            "refused" if outcome.code else "done",
            tuple(problems),
        )


def overlapping_shards(world: Path, folder: Path) -> Iterator[Trial]:
    """Parts of different divisions of a run hold the same questions; merged, each is there once."""
    new_folder(world, folder)
    words = "predict --benchmark toy --data w/test.jsonl --mode baseline --max-new-tokens 2 --output out"
    outcomes = [run([*words.split(), "--shard", shard], folder) for shard in ("1/2", "1/3", "2/3", "2/2")]
    outcomes.append(run([*words.split(), "--merge"], folder))
    problems = [f"exit code {each.code}, {each.last[:200]}" for each in outcomes if each.code]
    names = [json.loads(line)["data_id"] for line in _lines(folder / "out" / "predictions.jsonl")]
    asked = [json.loads(line)["data_id"] for line in _lines(world / "test.jsonl")]
    if sorted(names) != sorted(asked):
        problems.append(f"{len(names)} answers, {len(set(names))} questions of {len(asked)}")
    yield Trial(
        "special", "overlapping shards", "parts 1/2, 1/3, 2/3, 2/2 of one run", "merged", tuple(problems)
    )


def overlapping_banks(world: Path, folder: Path) -> Iterator[Trial]:
    """A bank merged with itself, and with another that shares its items."""
    new_folder(world, folder)
    outcome = run("bank merge w/bank w/bank w/bank2 --output out".split(), folder)
    problems = []
    if outcome.crashed:
        problems.append(f"exit code {outcome.code}, {outcome.last[:300]}")
    elif outcome.code == 0:
        each = {**content(world / "bank" / "table.bin"), **content(world / "bank2" / "table.bin")}
        if content(folder / "out" / "table.bin") != each:
            problems.append("the merged bank does not hold every item once")
    yield Trial(
        "special",
        "overlapping banks",
        "merged",
        "merged" if outcome.code == 0 else "refused",
        tuple(problems),
    )


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines() if path.is_file() else []


def million_rows(world: Path, folder: Path) -> Iterator[Trial]:
    """Files of 10^6 rows: read in bounded memory (a process of its own, so that its peak is its own)."""
    new_folder(world, folder)
    with (folder / "many.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(
            f'{{"id": "i{n}", "text": "Text number {n}, of some length."}}\n' for n in range(ROWS)
        )
    with (folder / "refs.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(
            f'{{"data_id": "q{n}", "question": "Which?", "answer": ["a"], "answer_eval": ["a{n % 7}"], '
            '"question_type": "String", "language": "en", "data_split": "val_unseen_question"}\n'
            for n in range(ROWS)
        )
    with (folder / "said.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(
            f'{{"data_id": "q{n}", "prediction": "a{n % 5}", "seconds": 0.1}}\n' for n in range(ROWS)
        )
    for name, words in (
        ("corpus build", "corpus build many.jsonl --output out"),
        ("evaluate", "evaluate toy --predictions said.jsonl --references refs.jsonl --bootstrap 0 "
                     "--output out/report.json"),
    ):  # fmt: skip
        outcome = _apart(words.split(), folder)
        problems = [f"exit code {outcome.code}, {outcome.last[:300]}"] if outcome.code else []
        if outcome.peak > MOST[name]:
            problems.append(f"{outcome.peak:.0f} MiB, expected at most {MOST[name]}")
        said = f"{ROWS:,} rows: {outcome.peak:.0f} MiB at most, {outcome.seconds:.0f} s of computing"
        yield Trial("special", f"{name} of 10^6 rows", said, "done", tuple(problems))


def _apart(words: list[str], folder: Path) -> Outcome:
    """A command in a fresh process: its own peak of memory, and its seconds of computing."""
    code = (
        "import resource, sys\nfrom comem.cli import main\ncode = main(sys.argv[1:])\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "sys.stderr.write(f'\\n{used.ru_maxrss} {used.ru_utime + used.ru_stime}\\n')\nsys.exit(code)"
    )
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"(\d+) ([\d.]+)\s*$", done.stderr)
    peak, seconds = (float(found[1]) / 1024, float(found[2])) if found else (0.0, 0.0)
    return Outcome(
        done.returncode, done.stdout + (done.stderr[: found.start()] if found else done.stderr), seconds, peak
    )
