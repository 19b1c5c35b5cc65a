"""Runs the arms side by side, each in a process of its own, and keeps what is done when time is up."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comem.records import read_json, run_manifest, write_json

logger = logging.getLogger(__name__)
MARGIN = 0.85  # some were still starting while the others measured their speed
ENCODER = ("adapter.safetensors", "qformer.safetensors", "comem_encoder.json")


@dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes:
        out: the folder for everything.
        arms: of `ARMS`.
        seeds: so many of each arm.
        jobs: processes side by side; arms of the first seed start first.
        steps: of each arm; 0: as many as the slowest of the processes does in `train_seconds`.
        train_seconds: of training, if `steps` is 0.
        seconds: when all is stopped, counted from the start.
        measure_seconds: so long before that, training stops, and what it has made is measured.
        batch: dialogues a step.
        questions: asked of each arm.
        device: "cuda", or "cpu" (hides a GPU).
        reader: the backbone.
        options: settings for every arm.
    """

    out: Path
    arms: tuple[str, ...]
    seeds: int
    jobs: int
    steps: int
    train_seconds: float
    seconds: float
    measure_seconds: float
    batch: int
    questions: int
    device: str
    reader: str = "toy"
    options: tuple[str, ...] = ()


def run(plan: Plan) -> None:
    """Prepare, run everything that time allows, and write out/results.json after each process."""
    began = time.monotonic()
    for name in ("results", "runs", "speed", "warm", "logs"):
        (plan.out / name).mkdir(parents=True, exist_ok=True)
    _finish(
        _start(plan, "prepare", "prepare", plan.reader, plan.questions, _dialogues(plan), os.cpu_count() or 1)
    )
    logger.info("%5.0f s  prepared", time.monotonic() - began)
    running = {"reference": _start(plan, "reference", "reference", plan.reader)}
    waiting = [(arm, seed) for seed in range(plan.seeds) for arm in plan.arms]
    told = False
    while (running or waiting) and (now := time.monotonic() - began) < plan.seconds:
        while waiting and len(running) < plan.jobs + ("reference" in running):
            arm, seed = waiting.pop(0)
            name, run = f"{arm}-{seed}", (plan.reader, arm, seed, plan.steps, plan.batch, *plan.options)
            running[name] = _start(plan, name, "arm", *run)
        _agree(plan, running)
        if now > plan.seconds - plan.measure_seconds and not told:
            told, waiting = True, []
            for name, process in running.items():  # heeded while training, ignored while measuring
                if name != "reference":
                    process.send_signal(signal.SIGTERM)
        for name in [name for name, process in running.items() if process.poll() is not None]:
            code = running.pop(name).returncode
            logger.info("%5.0f s  %s %s", now, name, f"failed, see logs/{name}.txt" if code else "done")
            collect(plan.out)
        time.sleep(0.3)
    for name, process in running.items():
        logger.warning("%s is stopped: time is up", name)
        process.kill()
    collect(plan.out)
    pack_adapters(plan.out)


def _dialogues(plan: Plan) -> int:
    """Enough for a while; more steps go through them again."""
    return min(12_000, (plan.steps or 400) * plan.batch)


def _start(plan: Plan, name: str, *args: Any) -> subprocess.Popen[bytes]:
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if plan.device == "cpu" else {}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **hidden}
    command = [sys.executable, "-m", "benchmarks.ablation_past", "work", str(plan.out), *map(str, args)]
    with open(plan.out / "logs" / f"{name}.txt", "wb") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


def _finish(process: subprocess.Popen[bytes]) -> None:
    if process.wait():
        raise RuntimeError("the preparation failed: see logs/prepare.txt")


def _agree(plan: Plan, running: Mapping[str, Any]) -> None:
    """Once all that train side by side have told their speed: how many steps each takes."""
    agreed = plan.out / "steps.json"
    if plan.steps or agreed.exists():
        return
    arms = [name for name in running if name != "reference"]
    told = {path.stem: read_json(path)["seconds"] for path in (plan.out / "speed").glob("*.json")}
    if arms and all(name in told for name in arms):
        steps = max(10, int(MARGIN * plan.train_seconds / max(told.values())))
        write_json(agreed, {"steps": steps, "seconds_a_step": told})
        logger.info("%d steps each; seconds a step: %s", steps, {k: round(v, 2) for k, v in told.items()})


def collect(out: Path) -> None:
    """All results in one file."""
    found = {path.stem: read_json(path) for path in sorted((out / "results").glob("*.json"))}
    write_json(out / "results.json", {"results": found, "made_by": run_manifest()})


def pack_adapters(out: Path, seed: int = 0) -> None:
    """The trained adapters of one seed in one archive, small enough to carry home."""
    with zipfile.ZipFile(out / "adapters.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for run_folder in sorted((out / "runs").glob(f"*-{seed}")):
            found = run_folder.glob("*/checkpoints/step-*")
            if last := max(found, key=lambda path: path.stat().st_mtime, default=None):
                for file in ENCODER:
                    archive.write(last / file, f"{run_folder.name}/{file}")


def keep(out: Path, to: Path) -> None:
    """Copy what is worth carrying home."""
    to.mkdir(parents=True, exist_ok=True)
    for name in ("results.json", "adapters.zip", "steps.json"):
        if (out / name).exists():
            shutil.copy2(out / name, to / name)
