"""Where a run's numbers are shown besides its own log: TensorBoard, and Weights & Biases where wished."""

from __future__ import annotations

import json
import logging
import secrets
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm.auto import tqdm

from comem.config import as_dict
from comem.io.files import write_atomic, write_json
from comem.io.jsonl import JsonlAppender, read_json, read_jsonl
from comem.training.settings import TrainSettings

logger = logging.getLogger(__name__)


class TensorBoard:
    """Event files in `tensorboard/` of the run folder."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError("tensorboard=true needs the package: pip install tensorboard") from error
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))

    def write(self, row: Mapping[str, float]) -> None:
        """A row's numbers at its step."""
        for name, value in _values(row).items():
            self._writer.add_scalar(name, value, int(row["step"]))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """A run at Weights & Biases; a resumed run goes on in the same one, whose id the run folder keeps."""

    def __init__(self, folder: Path, settings: TrainSettings) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ValueError("wandb=true needs the package: pip install wandb") from error
        note = folder / "wandb.json"
        if not note.exists():
            write_json(note, {"id": secrets.token_hex(4)})
        self._run: Any = wandb.init(
            dir=str(folder),
            name=folder.name,
            id=read_json(note)["id"],
            resume="allow",
            config=as_dict(settings),
        )

    def write(self, row: Mapping[str, float]) -> None:
        """A row's numbers at its step."""
        self._run.log(_values(row), step=int(row["step"]))

    def close(self) -> None:
        self._run.finish()


Board = TensorBoard | Wandb


def boards(settings: TrainSettings) -> list[Board]:
    """What the settings ask for; TensorBoard, unless they say no, where it is installed.

    Raises:
        ValueError: one is asked for whose package is missing.
    """
    folder, opened = Path(settings.output), list[Board]()
    if settings.tensorboard:
        opened.append(TensorBoard(folder))
    elif settings.tensorboard is None and find_spec("tensorboard") is not None:
        try:
            opened.append(TensorBoard(folder))
        except ValueError as error:  # installed and broken: nobody asked for it, so the run goes on
            logger.warning("no TensorBoard: %s", error.__cause__)
    if settings.wandb:
        opened.append(Wandb(folder, settings))
    return opened


def _values(row: Mapping[str, float]) -> dict[str, float]:
    return {f"train/{name}": value for name, value in row.items() if name != "step"}


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
