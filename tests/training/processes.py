"""Runs of several CPU processes (gloo), all of one worker, and how they are compared."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image
from safetensors.torch import load_file

from comem.config import save_config
from comem.io.files import one_writer
from comem.memory.lora import LoraSettings
from comem.memory.settings import QFormerSettings
from comem.training import checkpoint as ckpt
from comem.training.settings import OptimSettings, TrainSettings

ROOT = Path(__file__).resolve().parents[2]
FILES = ("adapter.safetensors", "qformer.safetensors", "optimizer.safetensors")


@dataclass(frozen=True)
class Launch:
    """One start of a run: of how many processes, with which file of configs/accelerate; the signal that
    process 1 gets at a step; and the launch whose folder it goes on in."""

    settings: TrainSettings
    processes: int = 2
    accelerate: str = ""
    signal: int = 0
    at: int = 0
    resumes: str = ""


@dataclass(frozen=True)
class Runs:
    """All launches by name: their folders, and what each process noted."""

    root: Path

    def folder(self, name: str) -> Path:
        return self.root / name

    def note(self, name: str, rank: int) -> dict[str, Any] | None:
        path = self.root / f"{name}.yaml.{rank}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def errors(self, name: str) -> list[str]:
        return [str(note["error"]) for rank in (0, 1) if (note := self.note(name, rank))]

    def ids(self, name: str) -> list[list[list[list[str]]]]:
        """By process, step and micro-batch."""
        return [note["ids"] for rank in (0, 1) if (note := self.note(name, rank))]

    def log(self, name: str) -> list[dict[str, float]]:
        rows = [json.loads(line) for line in (self.folder(name) / "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]

    def newest(self, name: str) -> Path:
        newest = ckpt.latest(self.folder(name) / "checkpoints")
        assert newest is not None
        return newest


def assert_same_training(runs: Runs, name: str, other: str) -> None:
    """Same losses and gradient norms, same files, same tensors: weights and AdamW's sums of gradients.

    Up to float32 rounding: sums go in another order, and shares are padded to other lengths.
    """
    first, second = runs.log(name), runs.log(other)
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    ours, theirs = runs.newest(name), runs.newest(other)
    assert ours.name == theirs.name
    assert sorted(p.name for p in ours.iterdir()) == sorted(p.name for p in theirs.iterdir())
    about = [json.loads((folder / "comem_encoder.json").read_text()) for folder in (ours, theirs)]
    for one in about:  # all of tensors, whose last bits may differ
        assert all(one.pop(name) for name in ("fingerprint", "sha256", "checksum"))
    assert about[0] == about[1]
    for file in FILES:
        mine, yours = load_file(ours / file), load_file(theirs / file)
        assert mine.keys() == yours.keys()
        worst = max(mine, key=lambda key: float((mine[key] - yours[key]).abs().max()))  # noqa: B023
        assert mine[worst].allclose(yours[worst], rtol=0, atol=2e-6), (file, worst)


def write_questions(folder: Path) -> Path:
    """Seven questions: an item with a picture, none at all, a text and a picture of its own, in turn.

    The picture of question 3's item is broken.
    """
    rows = []
    for number in range(7):
        row: dict[str, Any] = {
            "id": f"q{number}",
            "question": "What is it?" * (1 + number % 2),
            "answer": "ab cd ef"[: number + 2],
        }
        item = {"id": f"k{number}", "text": f"It is number {number}."}
        if number % 3 != 1:
            pixels = numpy.random.default_rng(number).integers(0, 256, (28, 28, 3), dtype=numpy.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
            (item if number % 3 == 0 else row)["image"] = f"{number}.png"
        rows.append({**row, "knowledge": [] if number % 3 == 1 else [item]})
    (folder / "3.png").write_bytes(b"broken")
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def launches(model: Path, data: str) -> dict[str, Launch]:
    """Everything that the tests look at."""
    base = TrainSettings(
        model=str(model), data=data, batch_size=3, epochs=2.0, precision="fp32", save_every=1, keep_last=9,
        shuffle=False, lora=LoraSettings(rank=4, alpha=8, dropout=0.0),
        optim=OptimSettings(lr=5e-3, eps=1e-4),
        qformer=QFormerSettings(num_queries=4, depth=2, heads=4, output_scale="auto"),
    )  # fmt: skip
    micro = replace(
        base, shuffle=True, micro_batch_size=1, checkpointing=True, eval_data=data, eval_examples=3,
        elastic=(1, 4), wrong_items=0.3,
    )  # fmt: skip
    return {
        "one": Launch(base, processes=1),
        "one-micro": Launch(micro, processes=1),
        "two": Launch(base),
        "two-micro": Launch(micro),
        "busy": Launch(base),
        "stopped": Launch(base, signal=signal.SIGTERM, at=1),
        "alone": Launch(base, processes=1, resumes="stopped"),
        "sharded": Launch(base, accelerate="fsdp2"),
        "killed": Launch(micro, accelerate="fsdp2_zero2", signal=signal.SIGKILL, at=4),
        "resumed": Launch(micro, accelerate="fsdp2_zero2", resumes="killed"),
    }


def accelerate_environment(name: str) -> dict[str, str]:
    """What `accelerate launch --config_file configs/accelerate/NAME.yaml` tells its processes about FSDP."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    path = ROOT / "configs" / "accelerate" / f"{name}.yaml"
    arguments = launch_command_parser().parse_args(["--config_file", str(path), "train.py"])
    environ: Mapping[str, str] = prepare_multi_gpu_env(_validate_launch_command(arguments)[0])
    return {key: environ[key] for key in environ if key.startswith("FSDP_") or key == "ACCELERATE_USE_FSDP"}


def run_all(folder: Path, model: Path) -> int:
    """Make the data, run the worker, and wait: a hang ends in a TimeoutExpired.

    Returns:
        The process that held the folder of the run "busy".
    """
    plan = []
    for name, launch in launches(model, str(write_questions(folder))).items():
        config = folder / f"{name}.yaml"
        if launch.resumes:
            (folder / name).symlink_to(launch.resumes)
        save_config(replace(launch.settings, output=str(folder / (launch.resumes or name))), config)
        environ = accelerate_environment(launch.accelerate) if launch.accelerate else {}
        ends = {"signal": int(launch.signal), "at": launch.at}
        plan.append({"config": str(config), "processes": launch.processes, "environ": environ, **ends})
    (folder / "plan.json").write_text(json.dumps(plan))
    with one_writer(folder / "busy" / ".lock"):
        _work(folder / "plan.json")
    return os.getpid()


def _work(plan: Path) -> None:
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(Path(__file__).with_name("worker.py")), str(plan)]
    process = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, start_new_session=True)
    try:
        _, complaint = process.communicate(timeout=600)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0, complaint.decode()[-3000:]
