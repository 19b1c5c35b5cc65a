"""Commands in forks of a process that has imported what takes long: one start costs no more than its work."""

from __future__ import annotations

import fcntl
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.robustness.faults import Fault

#: Ends of a command that its user can read: done, damage or faults found, an error in words, interrupted.
WORDED = (0, 1, 2, 130, 143)
TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        code: the exit code, or minus the signal.
        text: what it printed.
        seconds: that it took.
        peak: MiB of memory, those of the parent at the fork included.
    """

    code: int
    text: str = field(repr=False)
    seconds: float
    peak: float

    @property
    def crashed(self) -> bool:
        """Whether it ended in a way that no user can read."""
        return TRACEBACK in self.text or self.code not in WORDED

    @property
    def is_there(self) -> bool:
        """Whether it replaces no folder, and was called again after its end: then all has to be there."""
        return self.code == 2 and "exists and is not empty" in self.last

    @property
    def last(self) -> str:
        """Its last line that says something."""
        lines = [line for line in self.text.replace("\r", "\n").splitlines() if line.strip()]
        return lines[-1] if lines else ""


def warm() -> None:
    """Import what takes longest; `Modules` learns the rest from the commands that make the world."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch

    torch.set_num_threads(1)


def run(words: Sequence[str], folder: Path, fault: Fault | None = None, limit: int = 180) -> Outcome:
    """A `comem` command in a folder, and what befalls it.

    Args:
        words: as on the command line; relative paths start at the folder.
        folder: where it works.
        fault: what befalls it.
        limit: seconds, after which it counts as hanging (SIGALRM).
    """

    def work() -> int:
        from comem.cli import main

        return main(list(words))

    return fork(work, folder, fault, limit)


def fork(work: Callable[[], int], folder: Path, fault: Fault | None = None, limit: int = 180) -> Outcome:
    """The same for any function."""
    fault = fault or Fault()
    sys.stdout.flush()
    sys.stderr.flush()
    began = time.monotonic()
    readable, writable = os.pipe()
    fcntl.fcntl(writable, fcntl.F_SETPIPE_SZ, 1 << 20)
    pid = os.fork()
    if pid == 0:
        _child(work, folder, writable, fault, limit)
    os.close(writable)
    fault.outside(pid)
    text = _read(readable, pid)
    os.close(readable)
    _, status, used = os.wait4(pid, 0)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # workers that it left
    seconds = time.monotonic() - began
    return Outcome(
        os.waitstatus_to_exitcode(status), text.decode("utf-8", "replace"), seconds, used.ru_maxrss / 1024
    )


def _read(readable: int, pid: int) -> bytes:
    """What the process prints until it ends, though its children may keep the pipe open."""
    blocks = []
    ended = False
    while not ended:
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        while select.select([readable], [], [], 0 if ended else 0.05)[0]:
            if not (block := os.read(readable, 1 << 20)):
                return b"".join(blocks)
            blocks.append(block)
    return b"".join(blocks)


def _child(work: Callable[[], int], folder: Path, output: int, fault: Fault, limit: int) -> None:
    """Never returns."""
    code = 70
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for stream in (1, 2):
            os.dup2(output, stream)
        os.close(output)
        os.chdir(folder)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.alarm(limit)
        fault.inside(folder)
        code = work()
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        fault.after()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code & 255)
