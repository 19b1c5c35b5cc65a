"""The run folder's files, what it says of its run, and whether it holds the run that is asked for."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comem.eval.plan import Shard
from comem.io.files import StorageError, write_atomic, write_json
from comem.io.jsonl import JsonlAppender, done_ids, read_json, read_jsonl, sha256_of
from comem.io.manifest import run_manifest

log = logging.getLogger(__name__)

PREDICTIONS, ERRORS, RUN, METRICS = "predictions.jsonl", "errors.jsonl", "run.json", "metrics.json"
SHARDS = "shards"  # parts of a run lie in shards/2-of-4/, each with the same files
_ID = "data_id"
_DIGEST_LIMIT = 256 * 2**20  # larger files in a folder count with name and size only


@dataclass(frozen=True)
class RunFolder:
    """A run's folder, or the place in it for one part of the run."""

    path: Path
    shard: Shard = field(default_factory=Shard)

    @property
    def home(self) -> Path:
        """Where this part's files lie."""
        return self.path if self.shard.count == 1 else self.path / SHARDS / str(self.shard)

    def homes(self) -> list[Path]:
        """The folder itself and those of all its parts, whatever their number was."""
        return [self.path, *sorted(path for path in (self.path / SHARDS).glob("*-of-*") if path.is_dir())]

    def answered(self) -> set[str]:
        """Ids with an answer, in any part: another division into parts goes on where this one stopped."""
        return set[str]().union(*(done_ids(home / PREDICTIONS, _ID) for home in self.homes()))

    def sweep(self) -> None:
        """Remove what killed processes had not finished writing; only for who holds the folder's lock."""
        for path in self.home.glob(".*.tmp"):
            path.unlink(missing_ok=True)

    def failed(self) -> set[str]:
        """Ids without an answer that some part could not answer."""
        found = set[str]().union(*(done_ids(home / ERRORS, _ID) for home in self.homes()))
        return found - self.answered()


class Failures:
    """The questions that could not be answered, with the reason; those of earlier calls until they are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        rows = read_jsonl(path, tolerate_torn_tail=True) if path.exists() else ()
        self.rows = {str(row[_ID]): row for row in rows}
        self.new: set[str] = set()

    def add(self, name: str, error: Exception) -> None:
        """Note a failure, on disk before it returns."""
        known = name in self.rows
        self.rows[name] = {_ID: name, "error": str(error), "kind": type(error).__name__}
        self.new.add(name)
        if known:
            self._write()
            return
        with JsonlAppender(self.path) as file:
            file.write(self.rows[name])

    def settle(self, answered: set[str]) -> None:
        """Forget those that are answered by now."""
        self.rows = {name: row for name, row in self.rows.items() if name not in answered}
        self._write()

    def _write(self) -> None:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows.values())
        write_atomic(self.path, "".join(lines))


@dataclass
class RunRecord:
    """What run.json says: how to repeat the run, and how each call of it ended.

    Attributes:
        path: the file.
        content: its content; `calls` has an entry for every call.
    """

    path: Path
    content: dict[str, Any]

    def close(self, counts: Mapping[str, Any]) -> None:
        """Note how the call under way ended; on a full disk, nothing: the predictions are what counts."""
        self.content["counts"] = self.content["calls"][-1]["counts"] = dict(counts)
        with suppress(StorageError):
            write_json(self.path, self.content)


def open_run(
    folder: RunFolder, config: Mapping[str, Any], inputs: Mapping[str, Path] | None, resume: bool
) -> RunRecord:
    """Check that the folder's run is this one, or note a new run.

    Raises:
        ValueError: the folder holds another run (names the keys that differ), other data, predictions of
            an unknown run, or predictions at all and `resume` is off.
    """
    now = run_manifest({"config": dict(config), "inputs": checksums(inputs or {})})
    answered = folder.answered()
    if not (folder.path / RUN).exists():
        if answered:
            raise ValueError(
                f"{folder.path} holds predictions of an unknown run (no {RUN}); use another folder"
            )
        write_json(folder.path / RUN, {**now, "calls": []})
    first = read_json(folder.path / RUN)
    if answered and not resume:
        raise ValueError(f"{folder.path} holds predictions already; resume, or choose another folder")
    check_same(folder.path, first, now)
    path = folder.home / RUN
    content = read_json(path) if path.exists() else now
    if folder.shard.count > 1:
        content["shard"] = f"{folder.shard.number}/{folder.shard.count}"
    call = {key: now[key] for key in ("time", "command", "git_commit", "versions")}
    if call["versions"] != first["versions"]:
        log.warning("%s was begun with other versions: see calls in %s", folder.path, path)
    content["calls"] = [*content.get("calls", ()), call]
    write_json(path, content)
    return RunRecord(path, content)


def check_same(folder: Path, there: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to mix runs.

    Raises:
        ValueError: other settings, or other contents of an input file.
    """
    old, new = _flat(there.get("config", {})), _flat(now["config"])
    differing = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    if differing:
        lines = "; ".join(f"{key}: {old.get(key)!r} there, {new.get(key)!r} now" for key in differing)
        raise ValueError(f"{folder} holds another run ({lines}); use the same values or another folder")
    before, after = there.get("inputs", {}), now.get("inputs", {})
    changed = [k for k in before if k in after and before[k]["sha256"] != after[k]["sha256"]]
    if changed:
        named = ", ".join(f"{key} ({after[key]['path']})" for key in changed)
        raise ValueError(f"{folder}: {named} has changed since the run was begun; use another folder")


def checksums(inputs: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    """Path and SHA-256 of every input; of a folder, that of the files directly in it."""
    return {name: {"path": str(path), "sha256": _checksum(Path(path))} for name, path in inputs.items()}


def _checksum(path: Path) -> str:
    if not path.is_dir():
        return sha256_of(path)
    digest = hashlib.sha256()
    for file in sorted(each for each in path.iterdir() if each.is_file()):
        size = file.stat().st_size
        content = sha256_of(file) if size <= _DIGEST_LIMIT else ""
        digest.update(f"{file.name}\0{size}\0{content}\n".encode())
    return digest.hexdigest()


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`, tuples as lists, as JSON gives them back."""
    return dict(_pairs(values, prefix))


def _pairs(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _pairs(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", list(value) if isinstance(value, tuple) else value
