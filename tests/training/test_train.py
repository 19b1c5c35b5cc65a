"""Whole runs: learning, the frozen reader, exact resume, refusals, NaN, interruptions."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from comem.backbones.hf import load_backbone
from comem.backbones.specs import BackboneError
from comem.cli import main
from comem.config import save_config
from comem.training import checkpoint as ckpt
from comem.training.interrupt import Interrupted
from comem.training.run import build_encoder, train
from comem.training.settings import OptimSettings, TrainSettings
from comem.training.trainer import NonFiniteLossError, Trainer, evaluate

Make = Callable[..., TrainSettings]
FILES = ("adapter.safetensors", "qformer.safetensors", "optimizer.safetensors")


def log(folder: str | Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return {f"{file}:{k}": v for file in FILES for k, v in load_file(checkpoint / file).items()}


def assert_same_run(one: Path, other: Path) -> None:
    assert log(one.parent.parent) == log(other.parent.parent)
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@contextmanager
def before_step(step: int, action: Callable[[], Any]) -> Iterator[None]:
    """Do something in the middle of a run, just before the step (counted from 0)."""
    original = Trainer._step

    def wrapped(self: Trainer, number: int, batches: Any) -> dict[str, float]:
        if number == step:
            action()
        return original(self, number, batches)

    Trainer._step = wrapped  # type: ignore[method-assign]
    try:
        yield
    finally:
        Trainer._step = original  # type: ignore[method-assign]


@pytest.fixture()
def trainers(monkeypatch: pytest.MonkeyPatch) -> list[Trainer]:
    """The trainers that a test has started, to look into."""
    started: list[Trainer] = []
    original = Trainer.run

    def run(self: Trainer, *given: Any) -> Any:
        started.append(self)
        return original(self, *given)

    monkeypatch.setattr(Trainer, "run", run)
    return started


def test_overfits_from_memory_and_leaves_the_reader_alone(
    settings: Make, tiny_backbone_folder: Path, trainers: list[Trainer]
) -> None:
    config = settings(epochs=60, save_every=0)
    result = train(replace(config, eval_data=config.data))
    assert result.loss < 0.2 * log(result.folder)[0]["loss"]
    assert result.metrics["eval_accuracy"] >= 0.5  # 0.25 for one who never looks at the memory
    (trainer,) = trainers
    swapped = [
        replace(one, items=other.items)
        for one, other in zip(trainer.examples, reversed(trainer.examples), strict=True)
    ]
    model = trainer.accelerator.unwrap_model(trainer.model)
    misled = evaluate(model, None, trainer.collator, swapped, 4)
    assert misled["eval_loss"] > 1.3 * result.metrics["eval_loss"]
    now = {n.replace(".base_layer", ""): p for n, p in trainer.encoder.model.named_parameters()}
    before = load_backbone(tiny_backbone_folder).model.named_parameters()
    assert all(torch.equal(now[name], parameter) for name, parameter in before)


def test_killed_and_resumed_equals_undisturbed(settings: Make, tmp_path: Path) -> None:
    """kill -9 in the middle: same losses, same weights, dropout (0.05) and shuffling included."""
    whole = train(settings(output=str(tmp_path / "whole"), batch_size=3, epochs=5, save_every=3))
    cut = settings(output=str(tmp_path / "cut"), batch_size=3, epochs=5, save_every=3)
    save_config(cut, tmp_path / "cut.yaml")
    code = (
        "import sys, time\nfrom comem.config import load_config\nfrom comem.training.run import train\n"
        "from comem.training.settings import TrainSettings\nfrom comem.training.trainer import Trainer\n"
        "step = Trainer._step\nTrainer._step = lambda *a: (time.sleep(0.05), step(*a))[1]\n"
        "train(load_config(TrainSettings, sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "cut.yaml")]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    lines = tmp_path / "cut" / "metrics.jsonl"
    deadline = time.monotonic() + 600
    while not lines.exists() or lines.read_text().count("\n") < 5:
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not ckpt.read_state(ckpt.latest(tmp_path / "cut" / "checkpoints") or tmp_path).finished
    assert_same_run(whole.checkpoint, train(cut).checkpoint)


def test_interrupted_and_resumed(settings: Make, tmp_path: Path) -> None:
    whole = train(settings(output=str(tmp_path / "whole")))
    cut = settings(output=str(tmp_path / "cut"), save_every=0)
    with before_step(3, lambda: os.kill(os.getpid(), signal.SIGINT)), pytest.raises(Interrupted) as stop:
        train(cut)
    assert stop.value.exit_code == 130 and "run the same command again" in str(stop.value)
    assert [path.name for path in ckpt.checkpoints(tmp_path / "cut" / "checkpoints")] == ["step-00000004"]
    assert_same_run(whole.checkpoint, train(cut).checkpoint)
    assert train(cut).steps == 6  # finished: nothing happens


@pytest.mark.parametrize("way", ["signal", "file"])
def test_saves_when_asked(settings: Make, way: str) -> None:
    """SIGUSR1, or a file `save_now` in the run folder: a checkpoint after the step, and the run goes on."""
    config = settings(save_every=0, max_steps=4)
    wish = Path(config.output) / "save_now"
    ask = wish.touch if way == "file" else lambda: os.kill(os.getpid(), signal.SIGUSR1)
    with before_step(1, ask):
        assert train(config).steps == 4
    saved = [path.name for path in ckpt.checkpoints(Path(config.output) / "checkpoints")]
    assert saved == ["step-00000002", "step-00000004"] and not wish.exists()


def test_micro_batches_change_nothing(settings: Make, tmp_path: Path) -> None:
    """The loss is the mean over the step's answer tokens, however it is cut (no dropout here)."""
    from comem.memory.lora import LoraSettings

    lora = LoraSettings(4, 8, 0.0)
    one = train(settings(output=str(tmp_path / "one"), lora=lora, max_steps=2))
    cut = train(settings(output=str(tmp_path / "cut"), lora=lora, max_steps=2, micro_batch_size=1))
    for a, b in zip(log(one.folder), log(cut.folder), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)


@pytest.mark.parametrize("way", [{"checkpointing": True}, {"loss_chunk": 3}, {"attn": "eager"}], ids=str)
def test_ways_that_change_nothing(settings: Make, tmp_path: Path, way: dict[str, Any]) -> None:
    one = train(settings(output=str(tmp_path / "one"), max_steps=3))
    two = train(settings(output=str(tmp_path / "two"), max_steps=3, **way))
    for a, b in zip(log(one.folder), log(two.folder), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)


def test_options_that_this_machine_cannot_do(
    settings: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is refused by its name, and with what would help, before anything is trained."""
    monkeypatch.setattr("comem.backbones.hf.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", None)
    for options, message in (
        ({"attn": "flash_attention_2"}, "pip install flash-attn, or take attn=sdpa"),
        ({"liger": True}, "pip install liger-kernel"),
        ({"quantization": "4bit"}, "pip install bitsandbytes"),
    ):
        with pytest.raises(BackboneError, match=message):
            train(settings(output=str(tmp_path / str(options)), **options))


def test_clipping_acts(settings: Make, trainers: list[Trainer]) -> None:
    """A gradient far too large arrives at the optimizer with the norm 3.0; its own norm is logged."""
    seen: list[float] = []

    def watch() -> None:
        trainer = trainers[0]
        trainer.encoder.qformer.proj_out.weight.register_hook(lambda grad: grad * 1e4)
        step = trainer.optimizer.step

        def noted(*words: Any) -> Any:
            norms = [p.grad.norm() for p in trainer.trainable if p.grad is not None]
            seen.append(float(torch.stack(norms).norm()))
            return step(*words)

        trainer.optimizer.step = noted  # type: ignore[method-assign]

    with before_step(0, watch):
        train(settings(max_steps=1))
    assert log(settings().output)[0]["grad_norm"] > 300
    assert seen == [pytest.approx(3.0, rel=1e-3)]


def test_nan_stops_and_names_the_batch(settings: Make, trainers: list[Trainer]) -> None:
    def poison() -> None:
        trainers[0].encoder.qformer.proj_out.bias.data.fill_(float("nan"))

    with before_step(3, poison), pytest.raises(NonFiniteLossError, match="step 4: loss nan.*q[0-3], q"):
        train(settings())
    last = ckpt.latest(Path(settings().output) / "checkpoints")
    assert last is not None and last.name == "step-00000002"
    assert all(value.isfinite().all() for value in weights(last).values())


def test_another_configuration_is_refused(settings: Make) -> None:
    train(settings(max_steps=1))
    with pytest.raises(ValueError, match=r"another configuration:\n  optim.lr: 0.005 there, 0.1 now"):
        train(settings(max_steps=1, optim=OptimSettings(lr=0.1)))


def test_an_interrupted_command_says_so_and_its_progress_goes_on(
    settings: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_config(settings(save_every=0, max_steps=3), tmp_path / "run.yaml")
    with before_step(1, lambda: os.kill(os.getpid(), signal.SIGTERM)):
        assert main(["train", "--config", str(tmp_path / "run.yaml")]) == 143
    assert "stopped by SIGTERM after step 2" in capsys.readouterr().err
    stages: list[Any] = []

    @contextmanager
    def note(title: str, total: int | None = None, *, done: int = 0, unit: str = "items") -> Iterator[Any]:
        stages.extend([title, total, done, unit])
        yield lambda count=1, /, **figures: stages.append((count, sorted(figures)))

    train(settings(save_every=0, max_steps=3), note)
    assert stages == ["training", 3, 2, "steps", (1, ["loss"])]


def test_a_killed_data_worker_is_said_in_words(settings: Make) -> None:
    """PyTorch raises it from a signal handler, in the middle of whatever runs."""

    def kill() -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    with before_step(2, kill), pytest.raises(ChildProcessError, match="worker .pid 7. is killed.*workers=0"):
        train(settings(save_every=1))
    assert train(settings(save_every=1)).steps > 2


def test_a_run_that_ended_before_its_summary_writes_it(settings: Make) -> None:
    result = train(settings(max_steps=1))
    summary = result.folder / "metrics.json"
    before = summary.read_bytes()
    summary.unlink()
    train(settings(max_steps=1))
    assert summary.read_bytes() == before


def test_max_seconds_ends_the_run(settings: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0.0, 0.1)  # a machine on which looking at the clock takes a tenth of a second
    monkeypatch.setattr("comem.training.trainer.time.monotonic", lambda: next(clock))
    result = train(settings(epochs=100_000, max_seconds=3.0, save_every=0))
    assert 5 <= result.steps <= 30 and 3.0 <= result.seconds < 4.0
    assert ckpt.read_state(result.checkpoint).finished
    rates = [row["lr"] for row in log(result.folder)]
    assert rates[-1] < 0.2 * max(rates)  # the schedule came to its end with the time


def test_no_data(settings: Make) -> None:
    with pytest.raises(ValueError, match="set data=FILE.jsonl"):
        train(settings(data=""))


def test_nothing_to_encode(settings: Make, train_file: Path) -> None:
    rows = [json.loads(line) for line in train_file.read_text().splitlines()]
    train_file.write_text("".join(json.dumps({**row, "knowledge": []}) + "\n" for row in rows))
    with pytest.raises(ValueError, match="no question of .*train.jsonl has a knowledge item, so no memory"):
        train(settings())


def test_one_broken_picture_does_not_stop_a_run(settings: Make, train_file: Path, caplog: Any) -> None:
    (train_file.parent / "2.png").write_bytes(b"")
    assert train(settings(max_steps=2)).steps == 2
    assert "item k2 of question q2" in caplog.text
    summary = json.loads((Path(settings().output) / "metrics.json").read_text())
    assert summary["skipped"] == 2


def test_bf16(settings: Make) -> None:
    """Computed in bf16, but held in float32: steps that bf16 would round away are not lost."""
    config = settings(max_steps=2, precision="bf16", optim=OptimSettings(lr=1e-6))
    result = train(config)
    assert result.loss > 0
    saved = weights(result.checkpoint)
    assert all(v.dtype == torch.float32 for v in saved.values())
    start = build_encoder(config, load_backbone(config.model, dtype="bfloat16")).qformer.state_dict()
    moved = {name: saved[f"qformer.safetensors:{name}"] - value for name, value in start.items()}
    assert all(0 < float(change.abs().max()) < 1e-5 for name, change in moved.items() if "weight" in name)
    # in bf16 itself nearly every weight would have stayed where it was
    name = "proj_in.weight"
    rounded = (start[name].bfloat16() + moved[name].bfloat16()) == start[name].bfloat16()
    assert float(rounded.float().mean()) > 0.9
