"""From nothing to a scored encoder by three commands, each killed with -9 on the way and started again."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from comem.cli import main
from comem.io.files import read_json, read_jsonl
from comem.memory.qformer_encoder import QFormerEncoder
from comem.retrieval.index import IndexSettings, build_index
from comem.toy.dataset import DataSettings
from comem.toy.dataset import build as build_world
from comem.training import checkpoint as ckpt
from comem.training.data import load_examples
from tests.data.standin import StandIn, serving

ROOT = Path(__file__).resolve().parents[1]
STEPS = 4
#: A kill that comes too late is tried again on a fresh folder.
TRIES = 5


def work(words: Sequence[str], log: Path) -> None:
    """What a killed process does: the command, its output in a file."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.exit(main(list(words)))


@pytest.fixture(scope="module")
def start() -> Callable[..., Any]:
    """Starts a command in a process of its own, from a server that has imported what takes long."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["comem.data.build", "comem.training.run", "comem.training.merge"])

    def begin(words: Sequence[str], log: Path) -> Any:
        process = context.Process(target=work, args=(words, log))
        process.start()
        return process

    return begin


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    build_world(DataSettings(folder, size=10, train_questions=10, test_questions=3, image_size=56))
    settings = IndexSettings(corpus=(str(folder / "wit.tsv.gz"),), output=folder / "index", embedder="toy")
    build_index(settings)
    return folder


def kill_on_the_way(
    start: Callable[..., Any], words: Sequence[str], output: Path, reached: Callable[[], bool], done: Path
) -> None:
    """Start the command, and kill it once it has reached something and before it is done."""
    log = output.parent / f"{output.name}.log"
    for _ in range(TRIES):
        shutil.rmtree(output, ignore_errors=True)
        process = start(words, log)
        until = time.monotonic() + 300
        while process.is_alive() and not reached() and time.monotonic() < until:
            time.sleep(0.001)
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL and not done.exists():
            return
    raise AssertionError(f"{' '.join(words)}: never killed on the way; {log.read_text()[-2000:]}")


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
def test_from_questions_to_a_scored_encoder(
    world: Path, tmp_path: Path, start: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    data, run, merged = tmp_path / "data", tmp_path / "run", tmp_path / "merged"
    with serving(StandIn({1: "500", 2: "429"})) as standin:
        words = synthesise(world, data, standin.url)
        predictions = data / "toy" / "run" / "predictions.jsonl"
        kill_on_the_way(start, words, data, lambda: lines(predictions) > 0, data / "mixed" / "train.jsonl")
        before = predictions.read_bytes()
        assert main(words) == 0
    assert predictions.read_bytes().startswith(before[: before.rfind(b"\n") + 1]), "answers are kept"
    manifest = read_json(data / "mixed" / "manifest.json")
    kept = load_examples(data / "mixed" / "train.jsonl")
    assert manifest["mixture"]["language"] == {"en": len(kept) - 2, "fr": 2} and manifest["candidates"] == 12

    words = [
        "train", "--config", str(ROOT / "configs/train/toy.yaml"), f"data={data / 'mixed' / 'train.jsonl'}",
        f"output={run}", f"max_steps={STEPS}", "epochs=100", "batch_size=2", "save_every=1", "log_every=1",
    ]  # fmt: skip
    checkpoints = run / "checkpoints"
    kill_on_the_way(start, words, run, lambda: ckpt.latest(checkpoints) is not None, run / "metrics.json")
    assert main(words) == 0
    logged = [row["step"] for row in read_jsonl(run / "metrics.jsonl") if "loss" in row]
    assert logged == list(range(1, STEPS + 1)), "every step once"

    words, about = ["merge", str(run), str(merged)], merged / "comem_encoder.json"
    kill_on_the_way(start, words, merged, lambda: any(tmp_path.glob(".merged.*.tmp")), about)
    assert main(words) == 0
    assert not list(tmp_path.glob(".merged.*")), "what the killed process left is swept"
    assert_same_memory(ckpt.best(checkpoints), merged, kept[0].items)

    questions, answers = str(world / "test.jsonl"), tmp_path / "answers"
    words = [
        "predict", "--benchmark", "toy", "--data", questions, "--mode", "comem", "--encoder", str(merged),
        "--index", str(world / "index"), "-k", "1", "--max-new-tokens", "8", "--device", "cpu",
    ]  # fmt: skip
    assert main([*words, "--output", str(answers)]) == 0
    files = ["--predictions", str(answers / "predictions.jsonl"), "--references", questions]
    assert main(["evaluate", "toy", *files, "--output", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["answered"] == report["total"] == 3 and 0 <= report["accuracy"] <= 100
    capsys.readouterr()


def synthesise(world: Path, output: Path, endpoint: str) -> list[str]:
    """The first command: the embedded world's plan, smaller, with two translations."""
    plan = world / "plan.yaml"
    values = {
        "extends": str(ROOT / "configs" / "data" / "toy.yaml"), "index": str(world / "index"), "items": 1,
        "batch_size": 1, "max_new_tokens": 8, "device": "cpu",
        "sources": {"toy": {"data": str(world / "train.jsonl"), "candidates": 10}},
        "translate": {"model": "m", "endpoint": endpoint, "languages": ["fr"], "samples": 2},
    }  # fmt: skip
    plan.write_text(yaml.safe_dump(values))
    return ["data", "build", str(plan), "--output", str(output)]


def assert_same_memory(adapter: Path | None, merged: Path, items: Sequence[Any]) -> None:
    assert adapter is not None
    one, other = (QFormerEncoder.load(folder).encode(items).embeddings for folder in (adapter, merged))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
