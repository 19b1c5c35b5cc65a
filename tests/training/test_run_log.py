"""The run's log: one line a row, on the main process alone, and rewound when a run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from comem.training.run_log import RunLog, rewind_log
from comem.training.settings import TrainSettings


def test_rows_are_lines(settings: Callable[..., TrainSettings]) -> None:
    config = settings(tensorboard=True, log_every=1)
    with RunLog(config, main=True) as log:
        log.write({"step": 4, "loss": 2.0})
        log.write({"step": 4, "eval_loss": 1.5})
    lines = (Path(config.output) / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 4, "loss": 2.0}, {"step": 4, "eval_loss": 1.5}]
    assert list((Path(config.output) / "tensorboard").iterdir())


def test_other_processes_are_silent(settings: Callable[..., TrainSettings]) -> None:
    config = settings(tensorboard=True, wandb=True)
    with RunLog(config, main=False) as log:
        log.write({"step": 1, "loss": 2.0})
    assert not Path(config.output).exists()


def test_the_log_is_rewound(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": s}) + "\n" for s in (1, 2, 3, 4)) + '{"step": 5, "lo')
    rewind_log(path, 2)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]
