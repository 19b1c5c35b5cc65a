"""A short run of the harness: kills, errors and odd inputs of what needs no model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_short_run_breaks_no_promise(tmp_path: Path) -> None:
    """In a process of its own: forks of one with torch's threads, as this one, may hang."""
    report = tmp_path / "report.json"
    words = ["--quick", "--only", "kill", "error", "fuzz", "damage", "--folder", str(tmp_path / "work")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.robustness", *words, "--output", str(report)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    faults = json.loads(report.read_text(encoding="utf-8"))["faults"]
    assert faults["damage"] >= 5
    assert faults["kill"] >= 5 and faults["fuzz"] >= 50 and faults["error"] >= 4
