"""TensorBoard by default where it is installed; Weights & Biases only when asked for, resumable."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from comem.training import log as boards
from comem.training.log import TensorBoard, Wandb
from comem.training.settings import TrainSettings

Make = Callable[..., TrainSettings]


def test_tensorboard_is_the_default_where_it_is_installed(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert TrainSettings().tensorboard is None
    (board,) = boards.boards(settings(tensorboard=None))
    assert isinstance(board, TensorBoard)
    board.write({"step": 3, "loss": 1.5})
    board.close()
    assert list((Path(settings().output) / "tensorboard").iterdir())
    monkeypatch.setattr(boards, "find_spec", lambda name: None)
    assert boards.boards(settings(tensorboard=None)) == []


def test_a_missing_package_is_named(
    settings: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert boards.boards(settings(tensorboard=None)) == [] and "no TensorBoard" in caplog.text
    with pytest.raises(ValueError, match="pip install tensorboard"):
        boards.boards(settings(tensorboard=True))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="pip install wandb"):
        boards.boards(settings(wandb=True))


class FakeWandb:
    """What of wandb is used, offline."""

    def __init__(self) -> None:
        self.started: list[dict[str, Any]] = []
        self.logged: list[tuple[dict[str, float], int]] = []
        self.finished = 0

    def init(self, **given: Any) -> Any:
        self.started.append(given)
        return SimpleNamespace(log=lambda row, step: self.logged.append((row, step)), finish=self._finish)

    def _finish(self) -> None:
        self.finished += 1


def test_wandb_gets_the_numbers_and_goes_on_in_the_same_run(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)  # type: ignore[arg-type]
    config = settings(wandb=True)
    for step in (5, 6):  # a start and a resumed one
        (board,) = boards.boards(config)
        assert isinstance(board, Wandb)
        board.write({"step": step, "loss": 2.0})
        board.close()
    assert fake.logged == [({"train/loss": 2.0}, 5), ({"train/loss": 2.0}, 6)] and fake.finished == 2
    first, second = fake.started
    assert first["id"] == second["id"] and first["resume"] == "allow"
    assert first["config"]["optim"]["lr"] == config.optim.lr
