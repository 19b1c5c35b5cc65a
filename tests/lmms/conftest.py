"""lmms-eval from the package index, in its own environment.

COMEM_LMMS names that environment's python (`pip install lmms-eval==0.7.3 comem`); skipped without it.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = os.environ.get("COMEM_LMMS", "")
TASKS = ROOT / "comem/lmms/tasks"
needed = pytest.mark.skipif(not PYTHON, reason="COMEM_LMMS names no python with lmms-eval")


def installed(folder: Path) -> Path:
    """What pip writes of our entry points, for a path of its own: the working tree is not installed there."""
    import tomllib  # Python 3.11

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]["lmms_eval.models"]
    about = folder / "site" / "comem-9.dist-info"
    if not about.is_dir():
        about.mkdir(parents=True)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: comem\nVersion: 9\n")
        lines = [f"{name} = {place}" for name, place in points.items()]
        (about / "entry_points.txt").write_text("\n".join(["[lmms_eval.models]", *lines, ""]))
    return about.parent


def call(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """The environment's python, offline, our entry points there; HF's files in a folder of its own."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{installed(folder)}{os.pathsep}{ROOT}",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "hub"),
        "OMP_NUM_THREADS": "1",
        **more,
    }
    return subprocess.run(
        [PYTHON, *words], capture_output=True, text=True, env=environment, timeout=900, cwd=folder
    )


def run_jobs(folder: Path, jobs: dict[str, dict[str, Any]], **more: str) -> dict[str, Any]:
    """`driver.py`'s answers to jobs; the tasks are ours unless a job names folders."""
    given, out = folder / "jobs.json", folder / "out.json"
    jobs = {name: {"include": [str(TASKS)], **job} for name, job in jobs.items()}
    given.write_text(json.dumps(jobs))
    done = call(folder, str(Path(__file__).with_name("driver.py")), str(given), str(out), **more)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    found: dict[str, Any] = json.loads(out.read_text())
    found["said"] = done.stdout + done.stderr
    return found
