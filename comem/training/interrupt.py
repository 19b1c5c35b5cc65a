"""Ctrl-C, SIGTERM (stop) and SIGUSR1 (save) as wishes that the loop grants after the current step."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAVE_NOW = "save_now"  # touched in the run folder, it does what SIGUSR1 does


class Interrupted(RuntimeError):
    """Training was asked to stop and has saved a checkpoint; `exit_code` is 128 + signal (130 for Ctrl-C)."""

    def __init__(self, number: int, step: int, folder: Path) -> None:
        super().__init__(
            f"stopped by {signal.Signals(number).name} after step {step}; a checkpoint is in {folder}: "
            "run the same command again to go on from there"
        )
        self.exit_code = 128 + number


class Interrupt:
    """While open, signals are only noted; a second Ctrl-C raises KeyboardInterrupt.

    Attributes:
        signal: what asks to stop, 0 for nothing.
    """

    def __init__(self, folder: Path) -> None:
        self.signal, self._save, self._file = 0, False, folder / SAVE_NOW
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
            self._before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._note_save)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wants_save(self) -> bool:
        """Whether a checkpoint was asked for since the last call; the file is removed."""
        wanted, self._save = self._save, False
        try:
            self._file.unlink()
        except FileNotFoundError:
            return wanted
        return True

    def _note_save(self, number: int, frame: FrameType | None) -> None:
        self._save = True

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number


def ignore_signals(worker: int) -> None:
    """For data workers: a signal may go to the whole group, but only the main process shall act on it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
