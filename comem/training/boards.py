"""Where a run's numbers are shown besides its own log: TensorBoard, and Weights & Biases where wished."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from comem.config import as_dict
from comem.records import read_json, write_json
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
