"""Runs the arms side by side, each in a process of its own."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comem.io.files import read_json, write_json
from comem.io.run_folder import run_manifest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes:
        out: the folder for everything.
        arms: of `ARMS`.
        seeds: so many of each arm.
        jobs: processes side by side; arms of the first seed start first.
        steps: of each arm.
        batch: dialogues a step.
        towns: of a training dialogue, drawn from these numbers.
        questions: asked of each arm.
        reader: the backbone.
        options: settings for every arm.
    """

    out: Path
    arms: Sequence[str]
    seeds: int
    jobs: int
    steps: int
    batch: int
    towns: Sequence[int]
    questions: int
    reader: str
    options: Sequence[str]


def run(plan: Plan) -> None:
    """Prepare, run what is not there yet, and write out/results.json after each process.

    Raises:
        RuntimeError: a process failed; names its log.
    """
    for name in ("results", "runs", "logs"):
        (plan.out / name).mkdir(parents=True, exist_ok=True)
    if not (plan.out / "results" / "rag.json").exists():
        dialogues = min(12_000, plan.steps * plan.batch)  # more steps go through them again
        _work(plan, "prepare", "prepare", plan.reader, plan.questions, dialogues, *plan.towns)
    waiting = [(arm, seed) for seed in range(plan.seeds) for arm in plan.arms]
    waiting = [each for each in waiting if not (plan.out / "results" / f"{each[0]}-{each[1]}.json").exists()]
    with ThreadPoolExecutor(plan.jobs) as pool:
        list(pool.map(lambda each: _arm(plan, *each), waiting))
    _collect(plan.out)


def _arm(plan: Plan, arm: str, seed: int) -> None:
    _work(plan, f"{arm}-{seed}", "arm", plan.reader, arm, seed, plan.steps, plan.batch, *plan.options)
    logger.info("%s-%d done", arm, seed)
    _collect(plan.out)


def _work(plan: Plan, name: str, *args: Any) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "benchmarks.ablation_past", "work", str(plan.out), *map(str, args)]
    path = plan.out / "logs" / f"{name}.txt"
    with open(path, "wb") as log:
        if subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT).returncode:
            raise RuntimeError(f"{name} failed: see {path}")


def _collect(out: Path) -> None:
    """All results in one file."""
    found = {path.stem: read_json(path) for path in sorted((out / "results").glob("*.json"))}
    write_json(out / "results.json", {"results": found, "made_by": run_manifest()})
