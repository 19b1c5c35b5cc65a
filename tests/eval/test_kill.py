"""Killed with -9 at random moments and started again, a run equals one that nobody disturbed."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import random
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from comem.eval.answering import answer
from comem.eval.run_folder import Shard, merge_shards
from comem.eval.score import score_run
from comem.io.files import read_json, read_jsonl
from comem.types import Answer, ImageRef, RetrievedContext
from tests.eval.fakes import TOY, FakeMode, questions, rows

COUNT, SIZE = 300, 4
KILLS = 20


class SlowMode(FakeMode):
    """Takes its time; answers depend on the batch, as a model's last digits do."""

    def answer_batch(
        self, examples: Sequence[Any], contexts: Sequence[RetrievedContext | None]
    ) -> list[Answer]:
        time.sleep(0.002)
        super().answer_batch(examples, contexts)
        batch = " ".join(example.id for example in examples)
        digest = hashlib.sha256(batch.encode()).hexdigest()[:8]
        return [Answer(f"{example.question} {digest}", 8, 20, 0.25) for example in examples]


def asked(folder: Path) -> list[Any]:
    """Questions with a picture in every tenth; one picture cannot be opened."""
    examples = questions(COUNT, ImageRef(path=str(folder / "gone.png")))
    shown = ImageRef(path=str(folder / "picture.png"))
    return [
        type(e)(e.id, e.question, shown, meta=e.meta) if i % 10 == 5 else e for i, e in enumerate(examples)
    ]


def work(data: Path, folder: Path, shard: Shard) -> None:
    """What a killed process does."""
    assert "torch" not in sys.modules
    examples = asked(data)
    answer(
        TOY, examples, SlowMode(), None, folder,
        batch_size=SIZE, config={"seed": 1}, inputs={"picture": data / "picture.png"}, shard=shard,
    )  # fmt: skip
    if shard.count > 1:
        merge_shards(folder, examples)
    score_run(TOY, examples, folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    folder = tmp_path_factory.mktemp("data")
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200), "red").save(buffer, format="PNG")
    (folder / "picture.png").write_bytes(buffer.getvalue())
    return folder


@pytest.fixture(scope="module")
def start() -> Any:
    """Starts `work` in a process of its own, from a server that has imported everything but this file."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["comem.eval", "comem.benchmarks", "PIL.PngImagePlugin", "numpy"])

    def begin(*args: Any) -> BaseProcess:
        process = context.Process(target=work, args=args)
        process.start()
        return process

    return begin


def finish(process: BaseProcess) -> int:
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


def kill_at_random(process: BaseProcess, file: Path, draw: random.Random) -> bool:
    """Kill once the process has appended something, or at any time from its start; whether it was hit."""
    before = file.stat().st_size if file.exists() else 0
    if draw.random() < 0.7:
        while process.is_alive() and (not file.exists() or file.stat().st_size == before):
            time.sleep(0.001)
    time.sleep(draw.uniform(0, 0.03))
    process.kill()
    return finish(process) == -signal.SIGKILL


def test_killed_twenty_times_it_equals_an_undisturbed_run(tmp_path: Path, data: Path, start: Any) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    assert finish(start(data, whole, Shard())) == 0
    draw, file, hits = random.Random(1), torn / "predictions.jsonl", 0
    for _ in range(KILLS):
        hits += kill_at_random(start(data, torn, Shard()), file, draw)
        lines = list(read_jsonl(file, tolerate_torn_tail=True)) if file.exists() else []
        assert len({row["data_id"] for row in lines}) == len(lines)
    assert hits == KILLS and 0 < len(lines) < COUNT - 1  # every one came while there was work left
    assert finish(start(data, torn, Shard())) == 0
    assert file.read_bytes() == (whole / "predictions.jsonl").read_bytes()
    assert len(rows(torn)) == len({row["data_id"] for row in rows(torn)}) == COUNT - 1
    for name in ("metrics.json", "errors.jsonl"):
        assert (torn / name).read_bytes() == (whole / name).read_bytes()
    calls = read_json(torn / "run.json")["calls"]
    assert len(calls) > 1 and calls[-1]["counts"]["total"] == COUNT
    assert {path.name for path in torn.iterdir()} == {path.name for path in whole.iterdir()}


def test_parts_killed_and_divided_anew_give_every_id_once(tmp_path: Path, data: Path, start: Any) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    assert finish(start(data, whole, Shard())) == 0
    draw, hits = random.Random(2), 0
    for parts in (2, 2, 3, 3):
        processes = [start(data, torn, Shard(i, parts)) for i in range(1, parts + 1)]
        for i, process in enumerate(processes, start=1):
            file = torn / "shards" / f"{i}-of-{parts}" / "predictions.jsonl"
            hits += kill_at_random(process, file, draw)
    assert hits >= 5
    for i in (1, 2):
        assert finish(start(data, torn, Shard(i, 2))) == 0
    assert finish(start(data, torn, Shard())) == 0
    names = [row["data_id"] for row in rows(torn)]
    assert len(names) == len(set(names)) == COUNT - 1 and set(names) == {r["data_id"] for r in rows(whole)}
    questions_of = {row["data_id"]: row["prediction"].split()[0] for row in rows(whole)}
    assert all(row["prediction"].split()[0] == questions_of[row["data_id"]] for row in rows(torn))
    assert (torn / "errors.jsonl").read_bytes() == (whole / "errors.jsonl").read_bytes()
