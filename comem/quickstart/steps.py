"""Steps that run once: a step whose settings and outputs are as they were is passed over.

The run folder keeps `steps.json`: for each step a hash of its settings and of all steps before it. A step
that was begun under the same hash goes on with what it has (each job resumes by itself); under another
hash its outputs are removed first.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comem.io.files import write_json
from comem.io.jsonl import RecordError, read_json

STATE = "steps.json"


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: its key in steps.json.
        title: what it does, for people.
        run: the work; its inputs are the outputs of the steps before it.
        outputs: files and folders that it makes, relative to the run folder.
        settings: what, besides the steps before it, decides the result.
    """

    name: str
    title: str
    run: Callable[[], None]
    outputs: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


Say = Callable[[str], object]


def run_steps(steps: Sequence[Step], folder: str | Path, say: Say, since: float | None = None) -> None:
    """Run what has to be run, in order, saying so.

    Args:
        steps: in the order in which they depend on each other.
        folder: the run folder.
        say: takes one line.
        since: `time.monotonic()` of the start; the elapsed times count from it.

    Raises:
        ValueError: the folder holds something else than such a run.
    """
    folder, start = Path(folder), time.monotonic() if since is None else since
    state = _open(folder)
    for number, (step, key) in enumerate(zip(steps, _keys(steps), strict=True), start=1):
        heading = f"[{time.monotonic() - start:6.1f} s] {number}/{len(steps)} {step.title}"
        known = state.get(step.name, {})
        if known.get("key") == key and known.get("done") and _complete(step, folder):
            say(f"{heading}: kept from the last run")
            continue
        say(heading)
        if known.get("key") != key:
            _remove(step, folder)
        state[step.name] = {"key": key, "done": False}
        write_json(folder / STATE, state)
        begun = time.monotonic()
        step.run()
        state[step.name] = {"key": key, "done": True, "seconds": round(time.monotonic() - begun, 2)}
        write_json(folder / STATE, state)


def _open(folder: Path) -> dict[str, Any]:
    """What earlier runs did; an unreadable state counts as none."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / STATE).is_file():
        if any(folder.iterdir()):
            raise ValueError(f"{folder} holds something that is no run of this kind; give another --output")
        write_json(folder / STATE, {})
        return {}
    try:
        state = read_json(folder / STATE)
    except RecordError:
        return {}
    return state if isinstance(state, dict) else {}


def _keys(steps: Sequence[Step]) -> Iterator[str]:
    """A hash for each step, over its settings and all steps before it."""
    chain = hashlib.sha256()
    for step in steps:
        chain.update(json.dumps([step.name, step.outputs, dict(step.settings)], sort_keys=True).encode())
        yield chain.hexdigest()[:16]


def _complete(step: Step, folder: Path) -> bool:
    return all((folder / name).exists() for name in step.outputs)


def _remove(step: Step, folder: Path) -> None:
    for name in step.outputs:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
