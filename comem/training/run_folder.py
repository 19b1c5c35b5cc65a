"""The run folder: one run at a time, one configuration for good."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from comem.config import from_values, read_yaml, save_config
from comem.io.files import write_json
from comem.io.jsonl import read_json
from comem.training.checkpoint import checkpoints
from comem.training.settings import FREE_KEYS, TrainSettings

#: Options of earlier versions, with what switched them on.
_GONE = {"distill": ("weight",), "distractors": ("probability", "alone")}


def recorded(folder: Path, resume: bool = False) -> TrainSettings:
    """What a run was started with; of options that are gone, what they did is in its weights.

    Args:
        resume: the run is to go on, so none of these may have been on.

    Raises:
        ConfigError: no config.yaml, or a broken one.
        ValueError: the run was started with an option that is gone.
    """
    path = folder / "config.yaml"
    values = read_yaml(path)
    for key, switches in _GONE.items():
        option = values.pop(key, None) or {}
        if resume and any(option.get(switch) for switch in switches):
            raise ValueError(
                f"{path}: the run was started with {key!r}, which is gone: merge it as it is (comem merge), "
                "or resume it with the version that began it"
            )
    return from_values(TrainSettings, values, str(path))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process.

    The kernel's lock on `.lock` decides (it vanishes with its process, so a crash leaves none behind);
    the process id in it is for the message.

    Raises:
        ValueError: another process trains in this folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise ValueError(
                f"{folder} is in use by process {file.read().strip() or '?'}; wait for it, stop it, "
                "or train in another folder (output=DIR)"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def settle(folder: Path, settings: TrainSettings) -> None:
    """Write the configuration into a new folder, or check that the folder's is the same, data included.

    A run that came to no checkpoint has nothing to lose, so its folder counts as new.

    Raises:
        ValueError: listing the keys that differ and that would change the result; or naming a data file
            whose content has changed.
    """
    path, begun = folder / "config.yaml", bool(checkpoints(folder / "checkpoints"))
    if begun and path.exists():
        old, new = flat(recorded(folder, resume=True)), flat(settings)
        differing = [key for key in new if old[key] != new[key] and key not in FREE_KEYS]
        if differing:
            lines = "\n".join(f"  {key}: {old[key]!r} there, {new[key]!r} now" for key in differing)
            raise ValueError(
                f"{folder} holds a run of another configuration:\n{lines}\n"
                "give the same values to resume it, or another folder (output=DIR)"
            )
    _settle_data(folder / "data.json", settings, begun)
    save_config(settings, path)


def _settle_data(path: Path, settings: TrainSettings, begun: bool) -> None:
    """Note the digests of the data files, or check them: another order of lines is another run."""
    files = {key: getattr(settings, key) for key in ("data", "knowledge", "eval_data")}
    digests = {key: _digest(file) for key, file in files.items() if file}
    if begun and path.exists():
        noted = read_json(path)
        changed = [files[key] for key in digests if noted.get(key) != digests[key]]
        if changed:
            raise ValueError(
                f"{', '.join(changed)} has changed since the run in {path.parent} was started; "
                "put the old file back to resume it, or train in another folder (output=DIR)"
            )
    write_json(path, digests)


def _digest(file: str) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def flat(settings: TrainSettings) -> dict[str, Any]:
    """All settings as `{"optim.lr": 5e-5, …}`."""
    flattened: dict[str, Any] = {}
    for name, value in asdict(settings).items():
        if isinstance(value, dict):
            flattened.update({f"{name}.{key}": inner for key, inner in value.items()})
        else:
            flattened[name] = value
    return flattened
