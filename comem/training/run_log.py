"""What a run says while it trains: metrics.jsonl, the progress bar, and boards (`comem.training.boards`)."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tqdm.auto import tqdm

from comem.records import JsonlAppender, read_jsonl
from comem.storage import write_atomic
from comem.training.boards import boards
from comem.training.settings import TrainSettings


class RunLog:
    """The log of one process; only the main one writes and shows anything.

    Args:
        settings: `output`, `log_every`, `tensorboard` and `wandb` count.
        total, done: optimizer steps of the run, and those before this start.
        main: whether this is the main process.
    """

    def __init__(self, settings: TrainSettings, total: int, done: int, main: bool) -> None:
        folder = Path(settings.output)
        self.every, self.main = settings.log_every, main
        self.lines = JsonlAppender(folder / "metrics.jsonl", durable=False) if main else None
        self.boards = boards(settings) if main else []
        pause = 0.1 if sys.stderr.isatty() else 10.0  # a log file wants few lines
        self.bar = tqdm(total=total, initial=done, unit="step", disable=not main, mininterval=pause)

    def write(self, row: Mapping[str, float]) -> None:
        """A step's row (with `loss`) or an evaluation's.

        Raises:
            StorageError: no space left; the log ends with its last complete line.
        """
        if self.lines is None:
            return
        self.lines.write(row)
        if "loss" in row:
            self.bar.update()
            self.bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
        if int(row["step"]) % self.every == 0 or "loss" not in row:
            for board in self.boards:
                board.write(row)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()
        for part in (self.lines, *self.boards):
            if part is not None:
                part.close()


def rewind_log(path: Path, step: int) -> None:
    """Drop the log lines after `step`: a resumed run writes them again."""
    if not path.exists():
        return
    rows = [row for row in read_jsonl(path, tolerate_torn_tail=True) if row["step"] <= step]
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))
