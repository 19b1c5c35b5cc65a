"""LLaVA-Video-178K's format: questions about videos, as one JSON list, or a YAML mixture of such lists."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from comem.benchmarks.base import Benchmark, per_example
from comem.benchmarks.files import DataFiles, locate
from comem.io.files import RecordError, read_json
from comem.io.video import placed
from comem.types import Example

_MARK = "<image>"


def load(files: DataFiles) -> Iterator[Example]:
    """Examples of a list or a mixture: the first question of each record, and its answer.

    Videos lie below `files.images`, else beside the list.

    Raises:
        RecordError: a record without video, or whose first turn has not `<image>` once; names it.
    """
    source = locate(files.path, ("questions.json", "mixture.yaml"))
    count = 0
    for path, records in mixture(source):
        folder = files.images or path.parent
        for record in records:
            count += 1
            yield _example(record, folder, f"{path} record {count}", str(record.get("id", count)))
    if not count:
        raise RecordError(f"{source}: holds no questions; fetch it again")


def mixture(source: Path) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    """The lists of a file with what is taken of each.

    A YAML mixture is `datasets: [{json_path, sampling_strategy}]` (video_memory.md 2), paths relative to it.
    """
    if source.suffix not in (".yaml", ".yml"):
        yield source, _records(source)
        return
    for path, strategy in _datasets(source):
        yield path, sampled(_records(path), strategy)


def listed(source: Path) -> list[Path]:
    """The lists that a YAML mixture names."""
    return [path for path, _ in _datasets(source)]


def _datasets(source: Path) -> list[tuple[Path, str]]:
    """The lists of a mixture, and what is taken of each."""
    try:
        found = yaml.safe_load(source.read_text(encoding="utf-8"))["datasets"]
        return [
            (source.parent / str(part["json_path"]), str(part.get("sampling_strategy", "all")))
            for part in found
        ]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(
            f"{source}: no mixture ({error}): write datasets: [{{json_path: LIST.json, "
            "sampling_strategy: all}]"
        ) from error


def sampled(records: list[Any], strategy: str) -> list[Any]:
    """What a strategy takes: all, or first, end or random with a number or a share, e.g. "first:15%".

    A share is rounded up, as the authors do. Random ones are drawn by a fixed seed.

    Raises:
        RecordError: no such strategy.
    """
    kind, _, amount = strategy.partition(":")
    if kind == "all":
        return records
    try:
        share = amount.removesuffix("%")
        count = math.ceil(len(records) * float(share) / 100) if share != amount else int(share)
    except ValueError:
        count = -1
    if kind not in ("first", "end", "random") or count < 0:
        raise RecordError(f"sampling_strategy {strategy!r}: give all, first:N, end:N or random:N, N or N%")
    if kind == "end":
        return records[max(0, len(records) - count) :]
    if kind == "random":
        return random.Random(42).sample(records, min(count, len(records)))
    return records[:count]


def _records(path: Path) -> list[dict[str, Any]]:
    found = read_json(path)
    if not isinstance(found, list):
        raise RecordError(f"{path}: not a list of records")
    return found


def parts(record: Any, where: str) -> tuple[str, str, str]:
    """A record's first question, its answer, and the path of its video.

    Raises:
        RecordError: one of them is missing, or `<image>` stands not once in the question; says where.
    """
    try:
        asked, told = (str(turn["value"]) for turn in record["conversations"][:2])
        video = str(record["video"])
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(
            f"{where}: needs video and conversations of two turns at least ({error})"
        ) from error
    if asked.count(_MARK) != 1:
        raise RecordError(
            f"{where}: {_MARK} stands {asked.count(_MARK)} times in the question, once is needed"
        )
    return asked, told, video


def _example(record: Any, folder: Path, where: str, name: str) -> Example:
    asked, told, video = parts(record, where)
    return Example(
        id=name, question=asked.replace(_MARK, "").strip(), image=None, answers=(told,),
        group=str(record.get("data_source", "")), meta=record, video=placed(video, folder),
    )  # fmt: skip


def _earned(answer: str, example: Example) -> float:
    """Whether the answer is the record's, case and a last full stop aside."""
    said, right = (text.strip().rstrip(".").casefold() for text in (answer, example.answers[0]))
    return float(said == right)


ROW = Benchmark(
    name="llava_video",
    loader=load,
    scorer=per_example(_earned, "the record's own answer, word for word, case and a last full stop aside"),
    source="https://huggingface.co/datasets/lmms-lab/LLaVA-Video-178K",
    licence="Apache-2.0 (annotations); videos: of their sources",
    paper="Zhang et al. 2024, arXiv 2410.02713",
    headline=("accuracy",),
    files="a *_processed.json of lmms-lab/LLaVA-Video-178K, or a YAML mixture of such files",
    needs_images=False,
)
