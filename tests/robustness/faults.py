"""What befalls a process: a kill, an error of the system, too little of something, a clock that goes back.

File operations are met where Python makes them (its audit events, `os.write`, `os.pwrite`,
`os.fsync`); what libraries write by themselves (Arrow, FAISS, safetensors) by a limit of the file size, which
ends in an error or, with `kill`, in the death of the process at that byte.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

MIB = 1 << 20
#: Python's audit events that change something on the disk.
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True)
class Fault:
    """Nothing at all; the base of what befalls a process.

    Attributes:
        strikes: whether the command may end otherwise than by itself or by an error that it words.
    """

    strikes: ClassVar[bool] = False

    def inside(self, folder: Path) -> None:
        """In the process, before its command starts; `folder` is where it works."""

    def outside(self, pid: int) -> None:
        """In the parent, while the command runs; returns when it has had its way."""

    def after(self) -> None:
        """In the process, when its command has ended."""

    def __str__(self) -> str:
        values = ", ".join(f"{name} {value}" for name, value in vars(self).items())
        return f"{type(self).__name__.lower()} {values}".strip()


class Operations:
    """Hears every operation on files below a folder, and acts at one of them.

    Args:
        folder: what lies elsewhere does not count.
        at: the number of the operation, from 1; 0 for none.
        act: called with its description; for a write also with a function that makes half of it.
        reading: count openings to read instead of changes.
    """

    def __init__(
        self, folder: Path, at: int, act: Callable[[str, Callable[[], None]], None], reading: bool = False
    ) -> None:
        self.root = os.path.realpath(folder) + os.sep
        self.at, self.act, self.reading = at, act, reading
        self.count = 0
        self.busy = False

    def listen(self) -> None:
        """From now on; there is no way back, so in a process of its own only."""
        sys.addaudithook(self._hear)
        if self.reading:
            return
        for name in ("write", "pwrite", "fsync"):
            setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if self.busy:
            return
        if event == "open":
            mode, flags = args[1], args[2]
            writes = bool(set(mode) & set("wax+")) if isinstance(mode, str) else bool(flags & _WRITING)
            if writes != self.reading and isinstance(args[0], str | bytes | os.PathLike):
                self._note("open", os.fsdecode(args[0]))
        elif event in _CHANGES and not self.reading:
            self._note(event, _path(args[0]))

    def _wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(fd: int, *args: Any) -> Any:
            half = (
                (lambda: None)
                if name != "write"
                else lambda: function(fd, bytes(args[0])[: len(args[0]) // 2])
            )
            self._note(name, _path(fd), half)
            return function(fd, *args)

        return call

    def _note(self, name: str, path: str, half: Callable[[], None] = lambda: None) -> None:
        self.busy = True
        try:
            if (os.path.realpath(path) + os.sep).startswith(self.root):
                self.count += 1
                if self.count == self.at:
                    self.act(f"{name} {path}", half)
        finally:
            self.busy = False


def _path(value: Any) -> str:
    return os.readlink(f"/proc/self/fd/{value}") if isinstance(value, int) else os.fsdecode(value)


@dataclass(frozen=True)
class KillAt(Fault):
    """SIGKILL at the n-th operation, before it; of a write, half may have been made."""

    operation: int
    torn: bool = False
    strikes: ClassVar[bool] = True

    def inside(self, folder: Path) -> None:
        def act(what: str, half: Callable[[], None]) -> None:
            if self.torn:
                half()
            os.kill(os.getpid(), signal.SIGKILL)

        Operations(folder, self.operation, act).listen()


@dataclass(frozen=True)
class KillAfter(Fault):
    """SIGKILL after so many seconds."""

    seconds: float
    strikes: ClassVar[bool] = True

    def outside(self, pid: int) -> None:
        time.sleep(self.seconds)
        os.kill(pid, signal.SIGKILL)


@dataclass(frozen=True)
class KillAtSize(Fault):
    """The process dies at this byte of any file, whichever library writes it."""

    bytes: int
    strikes: ClassVar[bool] = True

    def inside(self, folder: Path) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.bytes, self.bytes))


@dataclass(frozen=True)
class SizeLimit(Fault):
    """No file can grow beyond this: the system's own refusal, EFBIG."""

    bytes: int

    def inside(self, folder: Path) -> None:
        sys.dont_write_bytecode = True
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.bytes, self.bytes))


@dataclass(frozen=True)
class ErrorAt(Fault):
    """The n-th operation fails; with `forever` all of the kind after it, too."""

    operation: int
    number: int
    reading: bool = False

    def inside(self, folder: Path) -> None:
        def act(what: str, half: Callable[[], None]) -> None:
            if self.number == errno.ENOSPC:
                half()
            raise OSError(self.number, os.strerror(self.number), what.partition(" ")[2])

        Operations(folder, self.operation, act, self.reading).listen()

    def __str__(self) -> str:
        kind = "reading" if self.reading else "writing"
        return f"{errno.errorcode[self.number]} at {kind} operation {self.operation}"


@dataclass(frozen=True)
class Pause(Fault):
    """SIGSTOP after a while, SIGCONT after another."""

    delay: float
    seconds: float

    def outside(self, pid: int) -> None:
        time.sleep(self.delay)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(self.seconds)
        os.kill(pid, signal.SIGCONT)


@dataclass(frozen=True)
class Signal(Fault):
    """A signal that asks: SIGINT, SIGTERM."""

    delay: float
    number: int
    strikes: ClassVar[bool] = True

    def outside(self, pid: int) -> None:
        time.sleep(self.delay)
        os.kill(pid, self.number)


@dataclass(frozen=True)
class LowMemory(Fault):
    """So many MiB of address space more than the process has at its start."""

    mib: int

    def inside(self, folder: Path) -> None:
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[0])
        most = pages * resource.getpagesize() + self.mib * MIB
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


@dataclass(frozen=True)
class FewFiles(Fault):
    """`ulimit -n`."""

    files: int = 32

    def inside(self, folder: Path) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (self.files, self.files))


@dataclass(frozen=True)
class ClockBack(Fault):
    """Time of day runs back by an hour at every tenth look."""

    def inside(self, folder: Path) -> None:
        import datetime

        now, looks = time.time, 0

        def earlier() -> float:
            nonlocal looks
            looks += 1
            return now() - 3600.0 * (looks // 10)

        class Datetime(datetime.datetime):
            @classmethod
            def now(cls, tz: datetime.tzinfo | None = None) -> Datetime:
                return cls.fromtimestamp(earlier(), tz)

        time.time = earlier
        for name, module in list(sys.modules.items()):
            if name.startswith("comem") and getattr(module, "datetime", None) is datetime.datetime:
                module.datetime = Datetime  # type: ignore[attr-defined]


class Count(Fault):
    """Nothing but counting: the numbers of changes and of openings to read go into a file."""

    def __init__(self, file: Path) -> None:
        object.__setattr__(self, "file", file)

    def inside(self, folder: Path) -> None:
        heard = [Operations(folder, 0, lambda what, half: None, reading) for reading in (False, True)]
        for each in heard:
            each.listen()
        object.__setattr__(self, "heard", heard)

    def after(self) -> None:
        self.file.write_text(json.dumps([each.count for each in self.heard]), encoding="ascii")


@dataclass(frozen=True)
class KillWorker(Fault):
    """SIGKILL for one of the processes that the command has started, soon after it is there."""

    seconds: float = 30.0

    def outside(self, pid: int) -> None:
        until = time.monotonic() + self.seconds
        while (
            time.monotonic() < until
            and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        ):
            if workers := [child for child in _children(pid) if not _is_tracker(child)]:
                time.sleep(0.1)
                with suppress(ProcessLookupError):
                    os.kill(workers[-1], signal.SIGKILL)
                return
            time.sleep(0.01)


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [
            int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        ]
    return []


def _is_tracker(pid: int) -> bool:
    """Whether it is multiprocessing's own helper, which outlives the workers."""
    with suppress(OSError):
        return b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return True


class Modules(Fault):
    """Notes what the command imports, so that the parent can import it for all that follow."""

    def __init__(self, file: Path) -> None:
        object.__setattr__(self, "file", file)

    def after(self) -> None:
        there = json.loads(self.file.read_text(encoding="utf-8")) if self.file.exists() else []
        self.file.write_text(json.dumps(sorted({*there, *sys.modules})), encoding="utf-8")

    def learn(self) -> None:
        """Import them here, and those that were noted in the file before."""
        for name in json.loads(self.file.read_text(encoding="utf-8")):
            if name not in sys.modules:
                with suppress(Exception):  # made at run time, not from a file
                    import_module(name)
