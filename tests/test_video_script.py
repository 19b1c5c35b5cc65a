"""scripts/inference/run_video_inference.sh for real, at a hundredth of its steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
@pytest.mark.parametrize("world", ["shapes", "towns"])
def test_trained_asked_and_measured(tmp_path: Path, world: str) -> None:
    """Nothing is learned in so few steps; everything runs, and a second call trains and measures nothing."""
    pytest.importorskip("av")
    words = ["bash", "scripts/inference/run_video_inference.sh", str(tmp_path), "0"]
    sizes = {"SHORT": "0.006", "CLIPS": "2", "LENGTHS": "8 16", "WORLD": world, "PYTHON": sys.executable}
    environment = {**os.environ, **sizes, "OMP_NUM_THREADS": "1"}
    first = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert len(rows) == 20 and {row["frames"] for row in rows} == {8, 16}
    assert {row["tokens"] for row in rows if row["arm"] == "memory" and row["frames"] == 16} != {0}
    answers = (tmp_path / "answers" / "predictions.jsonl").read_text().splitlines()
    assert len(answers) == 24  # 2 clips of three lengths, four questions each
    again = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert again.returncode == 0 and "eye" not in again.stdout
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 20
