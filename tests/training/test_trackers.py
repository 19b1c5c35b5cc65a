"""TensorBoard by default where it is installed; the other trackers only when asked for, resumable."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.tracking import TensorBoardTracker, WandBTracker

from comem.training import run_log
from comem.training.settings import TrainSettings

Make = Callable[..., TrainSettings]


def test_tensorboard_is_the_default_where_it_is_installed(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert TrainSettings().tensorboard is None
    (board,) = run_log.open_trackers(settings(tensorboard=None))
    assert isinstance(board, TensorBoardTracker)
    board.log({"train/loss": 1.5}, step=3)
    board.finish()
    assert list((Path(settings().output) / "tensorboard").iterdir())
    monkeypatch.setattr(run_log, "find_spec", lambda name: None)
    assert run_log.open_trackers(settings(tensorboard=None)) == []


def test_a_missing_package_is_named(
    settings: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.delattr("torch.utils.tensorboard", raising=False)
    assert run_log.open_trackers(settings(tensorboard=None)) == [] and "no TensorBoard" in caplog.text
    with pytest.raises(ValueError, match="pip install tensorboard"):
        run_log.open_trackers(settings(tensorboard=True))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="pip install wandb"):
        run_log.open_trackers(settings(wandb=True))


class FakeWandb:
    """What of wandb is used, offline."""

    def __init__(self) -> None:
        self.started: list[dict[str, Any]] = []
        self.logged: list[tuple[dict[str, float], int]] = []
        self.finished = 0

    def init(self, **given: Any) -> Any:
        self.started.append(given)
        log = lambda row, step=None: self.logged.append((row, step))  # noqa: E731
        return SimpleNamespace(log=log, finish=self._finish)

    def _finish(self) -> None:
        self.finished += 1


def test_wandb_gets_the_numbers_and_goes_on_in_the_same_run(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)  # type: ignore[arg-type]
    config = settings(wandb=True)
    for step in (5, 6):  # a start and a resumed one
        (board,) = run_log.open_trackers(config)
        assert isinstance(board, WandBTracker)
        board.log({"train/loss": 2.0}, step=step)
        board.finish()
    assert fake.logged == [({"train/loss": 2.0}, 5), ({"train/loss": 2.0}, 6)] and fake.finished == 2
    first, second = fake.started
    assert first["id"] == second["id"] and first["resume"] == "allow"
    assert first["config"]["optim"]["lr"] == config.optim.lr


@pytest.mark.parametrize("name", ["trackio", "swanlab"])
def test_other_trackers_get_the_numbers_and_go_on_in_the_same_run(
    name: str, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeWandb()
    fake.config = {}  # type: ignore[attr-defined]  # SwanLab's tracker notes its framework there
    monkeypatch.setitem(sys.modules, name, fake)  # type: ignore[arg-type]
    monkeypatch.setenv(f"{name.upper()}_PROJECT", "towns")
    config = settings(trackers=(name,), tensorboard=False)
    for step in (5, 6):
        (tracker,) = run_log.open_trackers(config)
        tracker.log({"train/loss": 2.0}, step=step)
        tracker.finish()
    assert fake.logged == [({"train/loss": 2.0}, 5), ({"train/loss": 2.0}, 6)] and fake.finished == 2
    first, second = fake.started
    assert first == second and first["resume"] == "allow" and first["project"] == "towns"
    assert first["config"]["optim"]["lr"] == config.optim.lr


def test_a_run_log_writes_every_so_many_steps(settings: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)  # type: ignore[arg-type]
    config = settings(wandb=True, tensorboard=False, log_every=2)
    Path(config.output).mkdir(parents=True, exist_ok=True)
    with run_log.RunLog(config, main=True) as log:
        for step in range(1, 5):
            log.write({"step": step, "loss": float(step)})
    assert [step for _, step in fake.logged] == [2, 4] and fake.finished == 1
