"""What is tried once a run: killed workers, shards that overlap, a million rows, private addresses."""

from __future__ import annotations

import itertools
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.robustness.faults import Fault, KillWorker
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
    yield from private_names(world, folder)
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


@dataclass(frozen=True)
class Names(Fault):
    """A server of names that answers with these addresses, one after the other."""

    addresses: Mapping[str, Sequence[str]]

    def inside(self, folder: Path) -> None:
        told = {name: itertools.cycle(found) for name, found in self.addresses.items()}

        def getaddrinfo(host: str, port: int, *_: object, **__: object) -> list[object]:
            address = next(told[host])
            if ":" in address:
                return [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

        socket.getaddrinfo = getaddrinfo  # type: ignore[assignment]


PRIVATE = {
    "this.example": ["127.0.0.1"], "wrapped.example": ["::ffff:127.0.0.1"], "mine.example": ["127.9.9.9"],
    "changing.example": ["10.0.0.1", "127.0.0.1"], "cloud.example": ["169.254.169.254", "127.0.0.1"],
    "nat.example": ["64:ff9b::7f00:1"], "loop.example": ["::1"],
}  # fmt: skip


def private_names(world: Path, folder: Path) -> Iterator[Trial]:
    """Names that lead to this machine: none of them is connected to, unless that was allowed."""
    new_folder(world, folder)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        port = server.getsockname()[1]
        rows = [{"id": name, "text": name, "image": f"http://{name}:{port}/a.png"} for name in PRIVATE]
        (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        built = run("corpus build items.jsonl --output out".split(), folder)
        words = "corpus download out --contact a@example.org --retries 0 --read-seconds 1".split()
        outcome = run(words, folder, Names(PRIVATE))
        problems = [f"exit code {each.code}, {each.last[:200]}" for each in (built, outcome) if each.crashed]
        if _was_asked(server):
            problems.append("a private address was connected to")
        found = _lines(folder / "out" / "downloads" / "shard_00000.jsonl")
        if [json.loads(line)["reason"] for line in found] != ["private address"] * len(rows):
            problems.append(f"not refused as private: {found[:2]!r}")
        allowed = run([*words, "--allow-private"], folder, Names({name: ["127.0.0.1"] for name in PRIVATE}))
        if allowed.crashed or not _was_asked(server):
            problems.append("with --allow-private nobody was asked: the trial proves nothing")
    yield Trial("special", "names of private addresses", ", ".join(PRIVATE), "refused", tuple(problems))


def _was_asked(server: socket.socket) -> bool:
    """Whether anybody has connected since the last look."""
    asked = False
    with suppress(BlockingIOError):
        while True:
            server.accept()[0].close()
            asked = True
    return asked


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
