"""Put the parts of a run together: every id once, in the order of the examples."""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from comem.eval.run_folder import ERRORS, PREDICTIONS, RUN, Failures, RunFolder, check_same
from comem.io.files import StorageError, write_json
from comem.io.jsonl import JsonlAppender, done_ids, read_json, read_jsonl
from comem.types import Example

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MergeCounts:
    """What a merged folder holds: examples, answered ones, failed ones, and those that nobody has tried."""

    total: int
    answered: int
    failed: int
    missing: int


def is_complete(run_folder: str | Path, examples: Sequence[Example]) -> bool:
    """Whether every example was answered, or tried in vain, by some part."""
    folder = RunFolder(Path(run_folder))
    return {example.id for example in examples} <= folder.answered() | folder.failed()


def merge_shards(run_folder: str | Path, examples: Sequence[Example]) -> MergeCounts:
    """Append what the parts have and the folder's own `predictions.jsonl` lacks.

    Nothing is rewritten, so that it may be stopped, and repeated, at any moment. The parts stay.

    Raises:
        ValueError: no run here, or a part of another run.
        StorageError: another process writes there (`errno.EAGAIN`), or no space is left.
    """
    folder = RunFolder(Path(run_folder))
    if not (folder.path / RUN).exists():
        raise ValueError(f"{folder.path}: no run here (no {RUN}); give the --output of the parts")
    run = read_json(folder.path / RUN)
    parts = folder.homes()[1:]
    for part in parts:
        check_same(part, read_json(part / RUN), run)
    with JsonlAppender(folder.path / PREDICTIONS, durable=False) as file:
        rows = _new_rows(parts, done_ids(file.path, "data_id"))
        for example in examples:
            if example.id in rows:
                file.write(rows[example.id])
    _merge_failures(folder, parts)
    answered, failed = folder.answered(), folder.failed()
    names = {example.id for example in examples}
    missing = len(names - answered - failed)
    counts = MergeCounts(len(names), len(names & answered), len(names & failed), missing)
    shards = {part.name: read_json(part / RUN).get("counts") for part in parts}
    write_json(folder.path / RUN, {**run, "counts": asdict(counts), "shards": shards})
    if missing:
        log.warning("%s: %d of %d questions are in no part yet", folder.path, missing, len(names))
    return counts


def being_merged(error: StorageError) -> bool:
    """Whether the error says that another process is at it."""
    return error.errno == errno.EAGAIN


def _new_rows(parts: Sequence[Path], done: set[str]) -> dict[str, dict[str, Any]]:
    """The parts' rows that are not in `done`; of an id in several parts, the first."""
    rows: dict[str, dict[str, Any]] = {}
    for part in parts:
        path = part / PREDICTIONS
        for row in read_jsonl(path, tolerate_torn_tail=True) if path.exists() else ():
            if row["data_id"] not in done:
                rows.setdefault(row["data_id"], row)
    return rows


def _merge_failures(folder: RunFolder, parts: Sequence[Path]) -> None:
    failures = Failures(folder.path / ERRORS)
    for part in parts:
        failures.rows |= Failures(part / ERRORS).rows
    failures.settle(folder.answered())
