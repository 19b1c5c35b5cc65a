"""What a run says while it trains: metrics.jsonl and accelerate's trackers."""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from comem.config import as_dict
from comem.io.files import JsonlAppender, read_json, read_jsonl, write_atomic, write_json
from comem.training.settings import TrainSettings

logger = logging.getLogger(__name__)


def open_trackers(settings: TrainSettings) -> list[GeneralTracker]:
    """What the settings ask for, started; TensorBoard, unless they say no, where it is installed.

    A resumed run goes on in the same run of each service: the run folder keeps its id.

    Raises:
        ValueError: one is asked for whose package is missing.
    """
    asked = dict.fromkeys((*settings.trackers, *(["wandb"] if settings.wandb else [])))
    opened = [_started(name, settings) for name in asked if name != "tensorboard"]
    if settings.tensorboard or "tensorboard" in asked:
        opened.append(_started("tensorboard", settings))
    elif settings.tensorboard is None and find_spec("tensorboard") is not None:
        try:
            opened.append(_started("tensorboard", settings))
        except ValueError as error:  # installed and broken: nobody asked for it, so the run goes on
            logger.warning("no TensorBoard: %s", error.__cause__)
    return opened


def _started(name: str, settings: TrainSettings) -> GeneralTracker:
    folder, config = Path(settings.output), as_dict(settings)
    project, options = os.environ.get(f"{name.upper()}_PROJECT", "comem"), dict[str, Any]()
    if name == "tensorboard":
        project, options = name, {"logging_dir": str(folder)}
    else:
        run = _run_id(folder, name)
        options = {"config": config, "resume": "allow"} | {
            "wandb": {"dir": str(folder), "name": folder.name, "id": run},
            "trackio": {"name": f"{folder.name}-{run}"},
            "swanlab": {"logdir": str(folder / name), "experiment_name": folder.name, "id": run},
        }[name]
    try:
        tracker: GeneralTracker = LOGGER_TYPE_TO_CLASS[name](project, **options)
        tracker.start()
    except ImportError as error:
        raise ValueError(f"{name}=true needs the package: pip install {name}") from error
    return tracker


def _run_id(folder: Path, name: str) -> str:
    """The run's id at a service, the same for every start."""
    note = folder / f"{name}.json"
    if not note.exists():
        write_json(note, {"id": secrets.token_hex(4)})
    return str(read_json(note)["id"])


class RunLog:
    """The log of one process; only the main one writes anything.

    Args:
        settings: `output`, `log_every` and the trackers count.
        main: whether this is the main process.
    """

    def __init__(self, settings: TrainSettings, main: bool) -> None:
        path = Path(settings.output) / "metrics.jsonl"
        self.every = settings.log_every
        self.lines = JsonlAppender(path, durable=False) if main else None
        self.trackers = open_trackers(settings) if main else []

    def write(self, row: Mapping[str, float]) -> None:
        """A step's row (with `loss`) or an evaluation's.

        Raises:
            StorageError: no space left; the log ends with its last complete line.
        """
        if self.lines is None:
            return
        self.lines.write(row)
        if int(row["step"]) % self.every == 0 or "loss" not in row:
            values = {f"train/{name}": value for name, value in row.items() if name != "step"}
            for tracker in self.trackers:
                tracker.log(values, step=int(row["step"]))

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.lines is not None:
            self.lines.close()
        for tracker in self.trackers:
            tracker.finish()


def rewind_log(path: Path, step: int) -> None:
    """Drop the log lines after `step`: a resumed run writes them again."""
    if not path.exists():
        return
    rows = [row for row in read_jsonl(path, tolerate_torn_tail=True) if row["step"] <= step]
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))
