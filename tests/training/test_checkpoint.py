"""Checkpoints: complete or not there, never pickled; the run folder's lock and configuration."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from comem.io.files import StorageError, one_writer
from comem.training import checkpoint as ckpt
from comem.training.checkpoint import RunState
from comem.training.run import _enter
from comem.training.run_folder import recorded, settle
from comem.training.settings import OptimSettings, TrainSettings


def stepped() -> tuple[nn.Module, torch.optim.AdamW]:
    layer = nn.Linear(3, 2)
    groups = [{"params": list(layer.parameters()), "names": [n for n, _ in layer.named_parameters()]}]
    optimizer = torch.optim.AdamW(groups, lr=0.1)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return layer, optimizer


def saved(folder: Path, step: int, **metrics: float) -> Path:
    def encoder(target: Path) -> None:
        (target / "qformer.safetensors").write_bytes(b"x")

    return ckpt.save_checkpoint(folder, RunState(step, 1.5, False, metrics), stepped()[1], encoder)


def test_round_trip_of_the_optimizer(tmp_path: Path) -> None:
    path = saved(tmp_path, 7)
    assert ckpt.read_state(path) == RunState(7, 1.5, False, {})
    _, before = stepped()
    tensors = {k: v.clone() for k, v in ckpt.optimizer_tensors(before).items()}
    before.state.clear()
    ckpt.load_optimizer(before, path / "optimizer.safetensors")
    after = ckpt.optimizer_tensors(before)
    assert after.keys() == tensors.keys() and {"weight/exp_avg", "bias/step"} <= after.keys()


def test_optimizer_of_another_run_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, 1) / "optimizer.safetensors"
    other = nn.Linear(5, 2)
    wider = torch.optim.AdamW([{"params": [other.weight, other.bias], "names": ["weight", "bias"]}])
    with pytest.raises(ValueError, match="weight has shape"):
        ckpt.load_optimizer(wider, path)
    renamed = torch.optim.AdamW([{"params": list(nn.Linear(3, 2).parameters()), "names": ["a", "b"]}])
    with pytest.raises(ValueError, match="unknown parameters"):
        ckpt.load_optimizer(renamed, path)


def test_latest_keep_last_and_best(tmp_path: Path) -> None:
    for step, accuracy in ((1, 0.1), (2, 0.9), (3, 0.2), (4, 0.3)):
        saved(tmp_path, step, eval_loss=1.0, eval_accuracy=accuracy)
    best = ckpt.best(tmp_path)
    assert best is not None and best.name == "step-00000002"
    ckpt.keep_last(tmp_path, 1, also=best)
    assert [path.name for path in ckpt.checkpoints(tmp_path)] == ["step-00000002", "step-00000004"]


def test_removing_killed_midway_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, 1)
    saved(tmp_path, 2)
    with monkeypatch.context() as patched:
        patched.setattr("comem.io.files.shutil.rmtree", lambda *_, **__: None)  # killed before the first file
        ckpt.keep_last(tmp_path, 1)
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-00000002"]
    for path in tmp_path.glob(".step-*"):
        path.rename(path.with_name(path.name.replace(f".{os.getpid()}.", ".999999999.")))  # of a dead process
    ckpt.clean(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_an_old_checkpoint_that_could_not_be_removed_goes_at_the_next_start(tmp_path: Path) -> None:
    for step in (1, 2):
        saved(tmp_path / "checkpoints", step)
    with ExitStack() as held:
        resume = _enter(held, tmp_path, TrainSettings(keep_last=1), 0)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    assert Path(resume).name == "step-00000002"


def test_half_written_checkpoints_do_not_count(tmp_path: Path) -> None:
    good = saved(tmp_path, 1)
    for name in (".writing-step-00000002", "..writing-step-00000002.7.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.json").write_text("{}")
    assert ckpt.latest(tmp_path) == good
    ckpt.clean(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [good.name]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "x"), RuntimeError("I/O error: No space left on device (os error 28)")]
)
def test_no_space_left(tmp_path: Path, error: Exception) -> None:
    saved(tmp_path, 1)

    def full(target: Path) -> None:
        raise error

    with pytest.raises(StorageError, match="free some space and run the same command"):
        ckpt.save_checkpoint(tmp_path, RunState(2), stepped()[1], full)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def begin(folder: Path) -> None:
    """As if the run had come to a checkpoint."""
    state = folder / "checkpoints" / "step-00000001" / "state.json"
    state.parent.mkdir(parents=True)
    state.write_text("{}")


def test_a_run_without_a_checkpoint_may_change(tmp_path: Path) -> None:
    data = tmp_path / "train.jsonl"
    data.write_text("{}\n")
    settle(tmp_path, TrainSettings(data=str(data)))
    data.write_text("{}\n{}\n")
    settle(tmp_path, TrainSettings(data=str(data), seed=1))
    begin(tmp_path)
    with pytest.raises(ValueError, match="seed: 1 there, 0 now"):
        settle(tmp_path, TrainSettings(data=str(data)))


@pytest.mark.parametrize(
    ("option", "on"),
    [
        ("distill: {weight: 0.0, temperature: 2.0}", False),
        ("distractors: {probability: 0.0, count: 2, alone: 0.0}", False),
        ("distill: {weight: 0.5, temperature: 1.0}", True),
        ("distractors: {probability: 0.0, count: 2, alone: 0.3}", True),
    ],
)
def test_a_run_with_an_option_that_is_gone(tmp_path: Path, option: str, on: bool) -> None:
    """It can be merged in any case, and resumed if the option was off."""
    settle(tmp_path, TrainSettings(seed=5))
    begin(tmp_path)
    with (tmp_path / "config.yaml").open("a") as file:
        file.write(option + "\n")
    assert recorded(tmp_path) == TrainSettings(seed=5)
    if on:
        with pytest.raises(ValueError, match="config.yaml: .*, which is gone: merge it as it is"):
            settle(tmp_path, TrainSettings(seed=5))
    else:
        settle(tmp_path, TrainSettings(seed=5))


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    settle(tmp_path, TrainSettings())
    begin(tmp_path)
    settle(tmp_path, TrainSettings(workers=3, keep_last=9))  # these change nothing in the result
    with pytest.raises(ValueError) as error:
        settle(tmp_path, TrainSettings(seed=1, optim=OptimSettings(lr=1.0)))
    assert "seed: 0 there, 1 now" in str(error.value) and "optim.lr: 5e-05 there, 1.0 now" in str(error.value)
    assert "workers" not in str(error.value)


def test_changed_data_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "train.jsonl"
    data.write_text("{}\n")
    settle(tmp_path / "run", TrainSettings(data=str(data)))
    begin(tmp_path / "run")
    settle(tmp_path / "run", TrainSettings(data=str(data)))
    data.write_text("{}\n{}\n")
    with pytest.raises(ValueError, match="train.jsonl has changed since the run"):
        settle(tmp_path / "run", TrainSettings(data=str(data)))


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    hold = (
        "import sys, fcntl, os, time\nf = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX)\n"
        "f.write(str(os.getpid())); f.flush(); print('held', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path / ".lock")], stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"held\n"
    with pytest.raises(StorageError, match=f"in use by process {child.pid}"), one_writer(tmp_path / ".lock"):
        pass
    child.kill()
    child.wait()
    child.stdout.close()
    with one_writer(tmp_path / ".lock"):  # the file is still there, its owner is not
        pass


def test_settings_round_trip(tmp_path: Path, settings: Callable[..., TrainSettings]) -> None:
    settle(tmp_path / "x", settings())
    settle(tmp_path / "x", settings())


def test_a_full_disk_in_training_keeps_the_last_checkpoint(
    settings: Callable[..., TrainSettings], full_disk: Any
) -> None:
    """The refusal of the system in the middle of a run; with space again, the run goes on from there."""
    from comem.training.run import train

    config = settings(save_every=2, max_steps=6)
    undisturbed = train(replace(config, output=config.output + "-whole"))
    saves, original = [0], ckpt.save_checkpoint

    def tight(*words: Any) -> Path:
        saves[0] += 1
        with full_disk(20_000 if saves[0] == 2 else -1):
            return original(*words)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ckpt, "save_checkpoint", tight)
        with pytest.raises(StorageError, match="checkpoint at step 4; free some space and run the same"):
            train(config)
    folder = Path(config.output) / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["step-00000002"]
    resumed = train(config)
    for name in ("adapter", "qformer"):
        first, second = (load_file(r.checkpoint / f"{name}.safetensors") for r in (undisturbed, resumed))
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_first_checkpoint_is_read_back(
    settings: Callable[..., TrainSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that flips one bit stops the run at its first checkpoint, which does not stay."""
    from comem.memory.qformer_encoder import QFormerEncoder
    from comem.training.run import train

    original = QFormerEncoder.save

    def flipping(self: QFormerEncoder, folder: Path) -> None:
        original(self, folder)
        path = Path(folder) / "qformer.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)

    config = settings(save_every=2, max_steps=4)
    with monkeypatch.context() as patch:
        patch.setattr(QFormerEncoder, "save", flipping)
        with pytest.raises(OSError, match=r"qformer.safetensors of the first .*\(1 of \d+ tensors, e.g. '"):
            train(config)
    assert list((Path(config.output) / "checkpoints").iterdir()) == []
    seen: list[str] = []
    compare = ckpt.compare
    monkeypatch.setattr(ckpt, "compare", lambda path, *parts: (seen.append(path.name), compare(path, *parts)))
    assert train(config).steps == 4
    assert len(seen) == 1 and seen[0].startswith(".step-00000002.")  # the first alone
