"""`comem predict` in parts: by hand, and in the processes that accelerate starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from comem.cli import main
from comem.io.files import read_json, sha256_of
from tests.eval.conftest import predictions, words


def by_id(folder: Path) -> dict[str, str]:
    rows = predictions(folder)
    assert len({row["data_id"] for row in rows}) == len(rows)
    return {row["data_id"]: row["prediction"] for row in rows}


@pytest.fixture(scope="module")
def whole(world: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert main(words(world, model, "rag", folder)) == 0
    return folder


def test_the_run_folder_says_what_went_in(world: Path, whole: Path) -> None:
    run = read_json(whole / "run.json")
    assert run["inputs"]["data"] == {
        "path": str(world / "test.jsonl"), "sha256": sha256_of(world / "test.jsonl"),
    }  # fmt: skip
    assert len(run["inputs"]["index"]["sha256"]) == 64 and run["config"]["generation"]["seed"] == 0
    assert len(run["config"]["weights"]) == 64
    assert run["command"] and run["versions"]["transformers"] and "git_commit" in run
    kept = (whole / "contexts.jsonl").read_text().splitlines()
    assert len(kept) == len(predictions(whole)) == 3


def test_parts_by_hand_and_the_last_merges(
    world: Path, model: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(words(world, model, "rag", run, "--shard", "1/2")) == 0
    assert "the last part merges" in capsys.readouterr().out and not (run / "metrics.json").exists()
    assert main(words(world, model, "rag", run, "--merge")) == 0
    assert "2 answered, 0 failed, 1 in no part yet" in " ".join(capsys.readouterr().out.split())
    assert len(by_id(run)) == 2
    assert main(words(world, model, "rag", run, "--shard", "2/2")) == 0
    assert "3 answered, 0 failed, 0 in no part yet" in " ".join(capsys.readouterr().out.split())
    assert by_id(run) == by_id(whole)
    ours, theirs = (read_json(folder / "metrics.json") for folder in (run, whole))
    assert ours["accuracy"] == theirs["accuracy"] and ours["count"] == theirs["count"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--shard", "3/2"), "shard 3/2: give 1/2 to 2/2"),
        (("--shard", "half"), "write it as i/n"),
        (("--merge",), "no run here"),
    ],
)
def test_mistakes_are_explained(
    world: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...], said: str,
) -> None:  # fmt: skip
    assert main(words(world, model, "baseline", tmp_path / "run", *more)) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_of_accelerate(world: Path, model: Path, whole: Path, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command = [*launch, "-m", "comem", *words(world, model, "rag", tmp_path / "run")]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert by_id(tmp_path / "run") == by_id(whole)
    parts = sorted(path.name for path in (tmp_path / "run" / "shards").iterdir())
    assert parts == ["1-of-2", "2-of-2"]
    assert [len(predictions(tmp_path / "run" / "shards" / part)) for part in parts] == [2, 1]
    assert read_json(tmp_path / "run" / "metrics.json")["count"] == 3
