"""Errors of the system, signals that ask, pauses, too little memory, too few files, a clock that goes back.

The command ends by itself: with its result or an error in words; run again without the trouble, it gives the
same result as one that nobody disturbed.
"""

from __future__ import annotations

import errno
import random
import signal
from collections.abc import Iterator
from pathlib import Path

from tests.robustness.faults import ClockBack, ErrorAt, Fault, FewFiles, LowMemory, Pause, Signal, SizeLimit
from tests.robustness.jobs import Reference, difference, leftovers, new_trial, snapshot
from tests.robustness.process import run
from tests.robustness.verdicts import Trial

_WRITING = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES, errno.EDQUOT)
_READING = (errno.EIO, errno.EACCES, errno.EMFILE, errno.ESTALE)
#: What a message of such an error has to hold: a path below one of these.
_PLACES = ("out", "w/")


def draw_error(draw: random.Random, job: Reference) -> Fault:
    """An error of the system at some operation, or a limit of the file size."""
    way = draw.random()
    if way < 0.6:
        return ErrorAt(draw.randint(1, job.changes), draw.choice(_WRITING))
    if way < 0.8 and job.readings:
        return ErrorAt(draw.randint(1, job.readings), draw.choice(_READING), reading=True)
    return SizeLimit(draw.randrange(max(job.sizes)))


def draw_hardship(draw: random.Random, job: Reference) -> Fault:
    """Anything else that is hard on a process."""
    moment = draw.uniform(0, job.seconds)
    return draw.choice(
        (
            Pause(moment, 0.3), Pause(moment, 1.5), FewFiles(32), ClockBack(),
            LowMemory(draw.choice((8, 16, 32, 128, 512))),
            Signal(moment, signal.SIGINT), Signal(moment, signal.SIGTERM),
        )
    )  # fmt: skip


def _names(message: str) -> bool:
    return any(place in message for place in _PLACES)


def _ends(fault: Fault) -> tuple[int, ...]:
    """Exit codes that are not the command's own: of a signal; of libc and C++ that abort without memory."""
    if isinstance(fault, Signal):
        return (-fault.number,)
    return (127, -signal.SIGABRT) if isinstance(fault, LowMemory) else ()


def troubled(world: Path, folder: Path, job: Reference, fault: Fault, kind: str) -> Iterator[Trial]:
    """One trial: a job in trouble, then a run without it."""
    new_trial(world, folder, job.job)
    outcome = run(job.job.words, folder, fault)
    problems = []
    if outcome.crashed and outcome.code not in _ends(fault):
        problems.append(f"exit code {outcome.code}, {outcome.last[:300]}")
    elif isinstance(fault, ErrorAt | SizeLimit) and outcome.code == 2 and not _names(outcome.last):
        problems.append(f"does not name the file: {outcome.last[:300]}")
    if outcome.code == 0:
        ended = "done"
        other = difference(job.files, snapshot(folder))
        said = len(outcome.text) > 0 and any(
            word in outcome.text for word in ("warning", "WARNING", "fault", "skipped")
        )
        if other and not said:
            problems.append(f"done, but {other}")
    else:
        ended = "crashed" if problems else "refused" if outcome.code == 2 else "stopped"
    again = run(job.job.words, folder)
    if again.code != 0 and not again.is_there:
        problems.append(f"the next run: exit code {again.code}, {again.last[:300]}")
    elif left := leftovers(folder):
        problems.append(f"left behind: {', '.join(left[:3])}")
    elif (other := difference(job.files, snapshot(folder))) and not (
        outcome.code == 0 and ended == "done" and not problems
    ):
        problems.append(f"the next run {other}")
    yield Trial(kind, job.job.name, str(fault), ended, tuple(problems))
