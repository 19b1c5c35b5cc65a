"""What can be wrong with a run's data: each a clear message, and nothing lost.

A changed configuration, two runs in one folder and a full disk are in test_checkpoint.py, NaN and one broken
picture in test_train.py, broken records in test_dataset.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from comem.training import checkpoint as ckpt
from comem.training.run import train
from comem.training.settings import TrainSettings

Make = Callable[..., TrainSettings]


def saved(config: TrainSettings) -> list[str]:
    return [path.name for path in ckpt.checkpoints(Path(config.output) / "checkpoints")]


def change(path: Path, number: int, **fields: object) -> None:
    """Change one record of a JSONL file."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[number] |= fields
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_an_empty_set(settings: Make, train_file: Path) -> None:
    train_file.write_text("\n")
    with pytest.raises(ValueError, match=r"train.jsonl holds no question; one JSON record a line"):
        train(settings())
    assert not Path(settings().output).exists()


def test_one_example(settings: Make, train_file: Path) -> None:
    train_file.write_text(train_file.read_text().splitlines()[0] + "\n")
    result = train(settings(epochs=3))
    assert result.steps == 3 and saved(settings()) == ["step-00000002", "step-00000003"]


def test_an_example_whose_pictures_are_all_broken(settings: Make, train_file: Path) -> None:
    """Its own and its items': it is left out and named, the others are trained on."""
    for name in ("1.png", "own.png"):
        (train_file.parent / name).write_bytes(b"no picture")
    change(train_file, 1, image="own.png")
    result = train(settings(max_steps=2, shuffle=False, batch_size=2))
    assert result.steps == 2 and result.loss > 0
    summary = json.loads((Path(settings().output) / "metrics.json").read_text())
    assert summary["skipped"] == 1


def test_a_set_of_which_nothing_can_be_read(settings: Make, train_file: Path) -> None:
    """As when it was copied without its pictures: said at once, not after an epoch of nothing."""
    for number in range(4):
        change(train_file, number, image="gone.png")
    with pytest.raises(ValueError, match="none of the first 4 questions can be read, .*gone.png.*data check"):
        train(settings(epochs=100))


def test_an_answer_longer_than_the_context(settings: Make, train_file: Path, tmp_path: Path) -> None:
    """The run stops with the example's name; what it had learned is saved, and the rest can go on from it."""
    config = settings(shuffle=False, batch_size=1, save_every=0, epochs=1)
    whole = train(replace(config, output=str(tmp_path / "whole")))
    text = train_file.read_text()
    change(train_file, 2, answer="x" * 5000)
    with pytest.raises(ValueError, match="the example 'q2' has 5... tokens, above max_tokens=4096 .*context"):
        train(config)
    assert saved(config) == ["step-00000002"]
    train_file.write_text(text)
    (Path(config.output) / "data.json").unlink()  # the file was repaired on purpose
    mine, theirs = (load_file(run.checkpoint / "qformer.safetensors") for run in (train(config), whole))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
