"""Ctrl-C and SIGTERM as a wish that the loop grants after the current step."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(RuntimeError):
    """Training was asked to stop and has saved a checkpoint; `exit_code` is 128 + signal (130 for Ctrl-C)."""

    def __init__(self, number: int, step: int, folder: Path) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name} after step {step}; a checkpoint is in {folder}: "
            "run the same command again to go on from there"
        )
        self.exit_code = 128 + number


class Interrupt:
    """While open, the first signal is only noted in `signal`; a second Ctrl-C raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number


def ignore_signals(worker: int) -> None:
    """For data workers: a Ctrl-C goes to the whole group, but only the main process shall act on it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
