"""The run folder: its files, whether it holds the run that is asked for, and its parts put together."""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from comem.benchmarks.scoring import TEXT_KEYS, checked_text, key_of, keyed
from comem.io.files import (
    JsonlAppender,
    RecordError,
    StorageError,
    done_ids,
    read_json,
    read_jsonl,
    write_atomic,
    write_json,
)
from comem.io.run_folder import check_inputs, check_same, checksums, run_manifest
from comem.types import Answer, Example

log = logging.getLogger(__name__)

PREDICTIONS, ERRORS, RUN, METRICS = "predictions.jsonl", "errors.jsonl", "run.json", "metrics.json"
CONTEXTS = "contexts.jsonl"
SHARDS = "shards"  # parts of a run lie in shards/2-of-4/, each with the same files
_ID = "data_id"
_FIGURES = ("context_tokens", "prompt_tokens", "seconds")


def row_of(answer: Answer) -> dict[str, Any]:
    """A line of `predictions.jsonl`: an answer as the official scorers read it, with what it cost."""
    return {
        _ID: answer.example_id,
        "prediction": answer.text,
        "knowledge_ids": list(answer.knowledge_ids),
        "context_tokens": int(answer.context_tokens),
        "prompt_tokens": int(answer.prompt_tokens),
        "seconds": round(float(answer.seconds), 6),
    }


def read_answers(path: str | Path) -> dict[str, Answer]:
    """The answers in a file of predictions, by example id; of other systems' files, what they say.

    Raises:
        RecordError: there is no such file, an id comes twice, an answer is not text, or its cost no number.
    """
    answers: dict[str, Answer] = {}
    for number, (name, row) in enumerate(keyed(path, torn_tail=True).items(), start=1):
        text = checked_text(row[key_of(row, TEXT_KEYS, path, number)], name, path)
        context, prompt, seconds = (_figure(row, key, path, number) for key in _FIGURES)
        items = row.get("knowledge_ids")
        items = () if items is None else items
        if not isinstance(items, list | tuple):
            raise RecordError(f"{path}: record {number}: knowledge_ids is {items!r:.40}; expected a list")
        answers[name] = Answer(text, int(context), int(prompt), seconds, name, tuple(items))
    return answers


def _figure(row: Mapping[str, Any], key: str, path: str | Path, number: int) -> float:
    """What an answer cost; 0 where a file does not say."""
    value = 0 if row.get(key) is None else row[key]
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise RecordError(f"{path}: record {number}: {key} is {value!r:.40}; expected a number")
    return float(value)


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count` of a run: every `count`-th example, so that parts are disjoint and complete.

    Raises:
        ValueError: a number out of range.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            n = self.count
            raise ValueError(f"shard {self.number}/{n}: give 1/{n} to {n}/{n}")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From `2/4`, the second of four."""
        match = re.fullmatch(r"(\d+)/([1-9]\d*)", text.strip())
        if match is None:
            raise ValueError(f"shard {text!r}: write it as i/n, 1/4 to 4/4 for four parts")
        return cls(int(match[1]), int(match[2]))

    def within(self, processes: Processes) -> Shard:
        """The part of this part that one of several processes takes."""
        return Shard((self.number - 1) * processes.count + processes.rank + 1, self.count * processes.count)

    def of(self, examples: Sequence[Example]) -> list[Example]:
        """Its examples, in their order."""
        return list(examples[self.number - 1 :: self.count])

    def __str__(self) -> str:
        return f"{self.number}-of-{self.count}"


@dataclass(frozen=True)
class Processes:
    """This process among those that `accelerate launch` (or torchrun) started.

    They need no connection: each answers its own part, and who is last puts the parts together. So a slow
    process times nobody out, and a dead one costs its own part only, which the next call makes up for.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @classmethod
    def of(cls, environment: Mapping[str, str] | None = None) -> Processes:
        """From the variables that the launchers set; one process without them."""
        found = os.environ if environment is None else environment
        rank, count = int(found.get("RANK", 0)), int(found.get("WORLD_SIZE", 1))
        return cls(rank, count, int(found.get("LOCAL_RANK", rank)))

    def device(self, asked: str | None, gpus: int) -> str | None:
        """The device of this process: its own GPU, where the caller named none by its number."""
        if self.count == 1 or not gpus or asked not in (None, "cuda", "auto"):
            return asked
        return f"cuda:{self.local_rank % gpus}"


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

    def answers(self) -> dict[str, Answer]:
        """All answers, of any part: another division into parts goes on where this one stopped."""
        found: dict[str, Answer] = {}
        for home in reversed(self.homes()):  # of an id in several parts, the first
            if (home / PREDICTIONS).exists():
                found |= read_answers(home / PREDICTIONS)
        return found

    def failed(self) -> set[str]:
        """Ids that some part could not answer."""
        return set[str]().union(*(done_ids(home / ERRORS, _ID) for home in self.homes()))


class Failures:
    """The questions that could not be answered, with the reason; those of earlier calls until they are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        rows = read_jsonl(path, tolerate_torn_tail=True) if path.exists() else ()
        self.rows = {str(row[_ID]): row for row in rows}

    def add(self, name: str, error: Exception) -> None:
        """Note a failure, on disk before it returns."""
        known = name in self.rows
        self.rows[name] = {_ID: name, "error": str(error), "kind": type(error).__name__}
        if known:
            self._write()
            return
        with JsonlAppender(self.path) as file:
            file.write(self.rows[name])

    def settle(self, answered: Mapping[str, Any] | set[str]) -> None:
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
    folder: RunFolder,
    config: Mapping[str, Any],
    inputs: Mapping[str, Path],
    resume: bool,
    answered: Mapping[str, Answer],
) -> RunRecord:
    """Check that the folder's run is this one, or note a new run.

    Raises:
        ValueError: the folder holds another run (names the keys that differ), other data, predictions of
            an unknown run, or predictions at all and `resume` is off.
    """
    now = run_manifest({"config": dict(config), "inputs": checksums(inputs)})
    if not (folder.path / RUN).exists():
        if answered:
            raise ValueError(
                f"{folder.path} holds predictions of an unknown run (no {RUN}); use another folder"
            )
        write_json(folder.path / RUN, {**now, "calls": []})
    first = read_json(folder.path / RUN)
    if answered and not resume:
        raise ValueError(f"{folder.path} holds predictions already; resume, or choose another folder")
    _check(folder.path, first, now)
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


def _check(place: Path, there: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    check_same(place, there.get("config", {}), now["config"])
    check_inputs(place, there.get("inputs", {}), now.get("inputs", {}))


@dataclass(frozen=True)
class Merged:
    """What a merged folder holds: examples, answered ones, failed ones, and those that nobody has tried."""

    total: int
    answered: int
    failed: int
    missing: int


def is_complete(run_folder: str | Path, examples: Sequence[Example]) -> bool:
    """Whether every example was answered, or tried in vain, by some part."""
    folder = RunFolder(Path(run_folder))
    return {example.id for example in examples} <= folder.answers().keys() | folder.failed()


def merge_shards(run_folder: str | Path, examples: Sequence[Example]) -> tuple[Merged, dict[str, Answer]]:
    """Append what the parts have and the folder's own `predictions.jsonl` lacks.

    Nothing is rewritten, so that it may be stopped, and repeated, at any moment. The parts stay.

    Returns:
        The counts, and all answers by id.

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
        _check(part, read_json(part / RUN), run)
    with JsonlAppender(folder.path / PREDICTIONS, durable=False) as file:
        done, answers = done_ids(file.path, _ID), folder.answers()
        for example in examples:
            if example.id in answers and example.id not in done:
                file.write(row_of(answers[example.id]))
    failures = Failures(folder.path / ERRORS)
    for part in parts:
        failures.rows |= Failures(part / ERRORS).rows
    failures.settle(answers)
    names = {example.id for example in examples}
    failed = names & failures.rows.keys()
    missing = len(names - answers.keys() - failed)
    counts = Merged(len(names), len(names & answers.keys()), len(failed), missing)
    shards = {part.name: read_json(part / RUN).get("counts") for part in parts}
    write_json(folder.path / RUN, {**run, "counts": asdict(counts), "shards": shards})
    if missing:
        log.warning("%s: %d of %d questions are in no part yet", folder.path, missing, len(names))
    return counts, answers
