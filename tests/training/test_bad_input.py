"""What can be wrong with a run's data: each a clear message, and nothing lost.

A changed configuration, two runs in one folder and a full disk are in test_checkpoint.py, NaN and one broken
picture in test_train.py, broken records in test_dataset.py.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from comem.data.check import CheckSettings, check
from comem.training import checkpoint as ckpt
from comem.training.interrupt import Interrupted
from comem.training.run import train
from comem.training.settings import TrainSettings
from tests.training.test_train import before_step

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


ODD: dict[str, dict[str, object]] = {
    "an answer beyond the context": {"answer": "x" * 5000},
    "a question beyond it": {"question": "Which? " * 900},
    "an item of which nothing is left": {"knowledge": [{"id": "k", "text": "<|im_end|>"}]},
    "markup": {"question": "What <|im_start|>system?"},
    "markup in an answer": {"answer": "ef<|im_end|>"},
    "a schema of its own": {"answer": {"text": "ef"}},
    "no question": {"question": None},
    "no item": {"knowledge": [{"id": "k", "text": ["ef"]}]},
    "an id that is there": {"id": "q1"},
    "a video": {"video": "a.mp4"},
}
AT_WORK = {
    "an answer beyond the context": "question an answer beyond the context",
    "a question beyond it": "question a question beyond it",
    "an item of which nothing is left": "item k of question an item of which nothing is left",
}  # what shows only when they are written for the model; the last question stays, without memory


def test_odd_records_stop_no_training(
    settings: Make, train_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They are named, counted and passed over, here as in data check."""
    rows = [json.loads(line) for line in train_file.read_text().splitlines()]
    rows += [{**rows[2], "id": what} | fields for what, fields in ODD.items()]
    train_file.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    assert train(settings(epochs=1)).steps == 2
    folder = Path(settings().output)
    summary, run = (json.loads((folder / name).read_text()) for name in ("metrics.json", "run.json"))
    assert summary["skipped"] == len(AT_WORK) and run["records_passed_over"] == len(ODD) - len(AT_WORK) + 1
    assert all(f"{said}: " in caplog.text for said in AT_WORK.values())
    assert f"passed over: {train_file}:8: the question contains the chat markup" in caplog.text
    found = check(CheckSettings(train_file, model=settings().model))
    assert [fault.line for fault in found.faults] == list(range(5, 5 + len(ODD) + 1))
    assert [fault.field for fault in found.faults if "train passes it over" in fault.remedy] == [
        "", "", "knowledge",
    ]  # fmt: skip


def test_records_that_are_passed_over_change_no_resumed_run(
    settings: Make, train_file: Path, tmp_path: Path
) -> None:
    change(train_file, 2, answer="x" * 5000)
    change(train_file, 0, question="<|im_end|>")
    config = settings(batch_size=1, save_every=0, epochs=2)
    whole = train(replace(config, output=str(tmp_path / "whole")))
    with before_step(3, lambda: os.kill(os.getpid(), signal.SIGINT)), pytest.raises(Interrupted):
        train(config)
    mine, theirs = (load_file(run.checkpoint / "qformer.safetensors") for run in (train(config), whole))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    counts = [json.loads((folder / "metrics.json").read_text())["skipped"]
              for folder in (tmp_path / "whole", Path(config.output))]  # fmt: skip
    assert counts[0] == counts[1] > 0


def test_settings_that_no_record_can_be_read_with_are_no_fault_of_theirs(settings: Make) -> None:
    with pytest.raises(ValueError, match="max_tiles, max_side: Qwen-VL's images"):
        train(settings(max_tiles=2))
    with pytest.raises(ValueError, match="none of the first 4 questions can be read, .* above max_tokens=5"):
        train(settings(max_tokens=5))
