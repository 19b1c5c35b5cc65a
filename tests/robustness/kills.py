"""Killed again and again, then left alone: nothing acknowledged is lost, and the result is the same."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from pathlib import Path

from tests.robustness.faults import Fault, KillAfter, KillAt, KillAtSize
from tests.robustness.jobs import Reference, difference, leftovers, new_trial, snapshot
from tests.robustness.process import Outcome, run
from tests.robustness.verdicts import Trial

_CHAIN = 6  # kills of one job, at most, before it is left alone
_KILLED = (-signal.SIGKILL, -signal.SIGXFSZ)


def draw_kill(draw: random.Random, job: Reference) -> Fault:
    """One of the ways to be killed: at an operation (mostly), at a moment, at a byte of a file."""
    way = draw.random()
    if way < 0.6:
        return KillAt(draw.randint(1, job.changes), draw.random() < 0.5)
    if way < 0.8:
        return KillAtSize(draw.randrange(max(job.sizes)))
    return KillAfter(draw.uniform(0.0, job.seconds))


def killed(
    world: Path, folder: Path, job: Reference, draw: random.Random, chain: int = _CHAIN
) -> Iterator[Trial]:
    """One trial: up to `chain` kills of a job in one folder, then a run that is left alone."""
    new_trial(world, folder, job.job)
    problems: list[str] = []
    kept: list[bytes] = []
    faults: list[str] = []
    for _ in range(draw.randint(1, chain)):
        fault = draw_kill(draw, job)
        outcome = run(job.job.words, folder, fault)
        if outcome.code not in _KILLED:
            if outcome.crashed:
                problems.append(f"{fault}: {_said(outcome)}")
            break
        faults.append(str(fault))
        problems += _lost(folder, job, kept, str(fault))
        kept = _lines(folder, job)
        if job.job.look and draw.random() < 0.3:
            looked = run(job.job.look, folder)
            if looked.crashed:
                problems.append(f"{fault}, then {' '.join(job.job.look)}: {_said(looked)}")
    problems += _left_alone(folder, job, kept)
    yield Trial("kill", job.job.name, "; ".join(faults), "resumed", tuple(problems), len(faults))


def _left_alone(folder: Path, job: Reference, kept: list[bytes]) -> Iterator[str]:
    """What is wrong after the run that nobody disturbs."""
    outcome = run(job.job.words, folder)
    if outcome.code != 0 and not outcome.is_there:
        yield f"the next run: {_said(outcome)}"
        return
    yield from _lost(folder, job, kept, "the next run")
    for path in folder.glob("out2*"):  # of the look
        path.unlink()
    if left := leftovers(folder):
        yield f"left behind: {', '.join(left[:3])}"
    elif other := difference(job.files, snapshot(folder)):
        yield other


def _lines(folder: Path, job: Reference) -> list[bytes]:
    """The whole lines of the job's acknowledged records."""
    path = folder / job.job.kept
    return path.read_bytes().split(b"\n")[:-1] if job.job.kept and path.is_file() else []


def _lost(folder: Path, job: Reference, kept: list[bytes], when: str) -> list[str]:
    gone = set(kept) - set(_lines(folder, job))
    return [f"{when}: lost {len(gone)} of {len(kept)} acknowledged lines"] if gone else []


def _said(outcome: Outcome) -> str:
    return f"exit code {outcome.code}, {outcome.last[:300]}"
