"""Two CPU processes (gloo) against one: same losses, gradients and files; no example twice; no hanging."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy
import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file

from comem.config import save_config
from comem.memory.lora import LoraSettings
from comem.training import checkpoint as ckpt
from comem.training.ranks import check_launch, on_main
from comem.training.run import train
from comem.training.run_folder import locked
from comem.training.settings import OptimSettings, QFormerSettings, TrainSettings

ROOT = Path(__file__).resolve().parents[2]
FILES = ("adapter.safetensors", "qformer.safetensors", "optimizer.safetensors")
# Imports once (most of the time), then forks into two processes. Each trains every configuration in turn and
# notes what it saw, and any error, in <config>.<rank>.json.
WORKER = """
import json, os, sys
from comem.config import load_config
from comem.training.run import train
from comem.training.settings import TrainSettings
from comem.training.trainer import Trainer

def work(rank):
    os.environ.update(RANK=rank, LOCAL_RANK=rank)
    seen, step = [], Trainer._step

    def noted(self, number, batches):
        seen.append([list(batch.ids) for batch in batches])
        if "interrupt" in path and rank == "1" and number == 1:
            os.kill(os.getpid(), 15)  # this one process alone
        return step(self, number, batches)

    Trainer._step = noted
    for path in sys.argv[1:]:
        seen.clear()
        try:
            train(load_config(TrainSettings, path))
            error = ""
        except (ValueError, OSError, RuntimeError) as raised:
            error = f"{type(raised).__name__}: {raised}"
        with open(f"{path}.{rank}.json", "w") as file:
            json.dump({"ids": seen, "error": error}, file)

if child := os.fork():
    work("0")
    os.waitpid(child, 0)
else:
    work("1")
"""


def write_questions(folder: Path) -> Path:
    """Seven questions: about a picture with text, about text alone, and without knowledge, in turn."""
    rows = []
    for number in range(7):
        row = {
            "id": f"q{number}",
            "question": "What is it?" * (1 + number % 2),
            "answer": "ab cd ef"[: number + 2],
        }
        item = {"id": f"k{number}", "text": f"It is number {number}."}
        if number % 3 == 0:
            pixels = numpy.random.default_rng(number).integers(0, 256, (28, 28, 3), dtype=numpy.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
            item["image"] = f"{number}.png"
        rows.append({**row, "knowledge": [] if number % 3 == 1 else [item]})
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def two_processes(configs: list[Path]) -> None:
    """Run WORKER, as `ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2` would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "1",
    }
    environ = {**os.environ, **shared, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WORKER, *map(str, configs)]
    process = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, start_new_session=True)
    try:
        _, complaint = process.communicate(timeout=300)  # a hang ends here
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0, complaint.decode()[-3000:]


@dataclass(frozen=True)
class Runs:
    """The runs by name: their settings, the two processes' notes, and the data."""

    settings: dict[str, TrainSettings]
    notes: dict[str, list[dict[str, object]]]

    def folder(self, name: str) -> Path:
        return Path(self.settings[name].output)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_backbone_folder: Path) -> Runs:
    """All runs of two processes, started once: loading torch is most of the time."""
    folder = tmp_path_factory.mktemp("two")
    data = str(write_questions(folder))
    base = TrainSettings(
        model=str(tiny_backbone_folder), data=data, batch_size=3, epochs=2.0, precision="fp32", save_every=0,
        lora=LoraSettings(rank=4, alpha=8, dropout=0.0), optim=OptimSettings(lr=5e-3, eps=1e-4),
        qformer=QFormerSettings(num_queries=4, depth=2, heads=4, output_scale="auto"),
    )  # fmt: skip
    settings = {
        "ordered": replace(base, shuffle=False),
        "micro": replace(base, micro_batch_size=1, eval_data=data, eval_examples=2),
        "busy": base,
        "interrupt": base,
    }
    settings = {name: replace(one, output=str(folder / "two" / name)) for name, one in settings.items()}
    paths = {name: folder / f"{name}.yaml" for name in settings}
    for name, path in paths.items():
        save_config(settings[name], path)
    with locked(Path(settings["busy"].output)):
        two_processes(list(paths.values()))
    notes = {
        name: [json.loads(Path(f"{path}.{rank}.json").read_text()) for rank in (0, 1)]
        for name, path in paths.items()
    }
    return Runs(settings, notes)


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["ordered", "micro"])
def test_two_processes_equal_one(name: str, runs: Runs, tmp_path: Path) -> None:
    """Losses, gradient norms, and all saved tensors, AdamW's moments (sums of gradients) among them."""
    assert [note["error"] for note in runs.notes[name]] == ["", ""]
    one = train(replace(runs.settings[name], output=str(tmp_path / "one")))
    first, second = log(one.folder), log(runs.folder(name))
    assert len(first) == len(second) == (6 if name == "ordered" else 7)
    for a, b in zip(first, second, strict=True):
        assert {k: v for k, v in b.items() if k != "seconds"} == pytest.approx(
            {k: v for k, v in a.items() if k != "seconds"}, rel=2e-4
        )
    newest = ckpt.latest(runs.folder(name) / "checkpoints")
    assert newest is not None and newest.name == one.checkpoint.name
    assert sorted(p.name for p in newest.iterdir()) == sorted(p.name for p in one.checkpoint.iterdir())
    for file in FILES:
        ours, theirs = load_file(one.checkpoint / file), load_file(newest / file)
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert value.allclose(theirs[key], rtol=1e-3, atol=1e-5), (file, key)


@pytest.mark.parametrize("name", ["ordered", "micro"])
def test_no_example_twice_in_a_pass(name: str, runs: Runs) -> None:
    """Nor one left out; the last step of a pass has one question, so one process has none."""
    shares = [note["ids"] for note in runs.notes[name]]
    for steps in (range(0, 3), range(3, 6)):
        drawn = [one for share in shares for step in steps for batch in share[step] for one in batch]  # type: ignore[index]
        assert sorted(drawn) == [f"q{i}" for i in range(7)]
    assert shares[1][2] == [] != shares[0][2]  # type: ignore[index]


def test_a_process_without_knowledge_was_among_them(runs: Runs) -> None:
    """What would hang a reducer that waits for every parameter: the first step of "ordered"."""
    ids = [note["ids"][0] for note in runs.notes["ordered"]]  # type: ignore[index]
    assert ids == [[["q0", "q2"]], [["q1"]]]  # q1 comes without knowledge


def test_a_folder_in_use_stops_all_processes(runs: Runs) -> None:
    main, other = (str(note["error"]) for note in runs.notes["busy"])
    assert main.startswith("ValueError") and f"in use by process {os.getpid()}" in main
    assert other.startswith("MainProcessError") and "in use by process" in other


def test_a_signal_to_one_process_stops_all_after_the_same_step(runs: Runs) -> None:
    for note in runs.notes["interrupt"]:
        assert str(note["error"]).startswith("Interrupted: stopped by SIGTERM after step 2")
    newest = ckpt.latest(runs.folder("interrupt") / "checkpoints")
    assert newest is not None and ckpt.read_state(newest).step == 2


def test_alone_there_is_nothing_to_agree_on() -> None:
    assert on_main(lambda: {"a": 1}) == {"a": 1}
    with pytest.raises(FileNotFoundError):
        on_main(lambda: os.stat("gone"))


def test_launches_that_would_train_something_else_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_launch()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="WORLD_SIZE=2, but accelerate sees 1 .*accelerate launch"):
        check_launch()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="accelerate is set to FSDP; known here: .*multi_gpu.yaml"):
        check_launch()


@pytest.mark.parametrize("name", ["single_gpu", "multi_gpu", "two_machines"])
def test_accelerate_reads_the_config(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    path = ROOT / "configs" / "accelerate" / f"{name}.yaml"
    assert load_config_from_file(str(path)).num_processes == yaml.safe_load(path.read_text())["num_processes"]
