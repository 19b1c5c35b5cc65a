"""The quickstart learns, visibly: a line per evaluation, and the curve in the page."""

from __future__ import annotations

import json
from pathlib import Path

from comem.quickstart import QuickSettings, Row, draw_curve
from comem.toy.dialogues import build_dialogues


def test_evaluated_on_towns_that_no_training_sees(tmp_path: Path) -> None:
    settings = QuickSettings(output=tmp_path)
    held, learned = settings.held_out, settings.dialogues
    assert held is not None and held.split == "val" and learned.split == "train"
    assert QuickSettings(fast=True, output=tmp_path).held_out is None
    training = settings.training(tmp_path / "data" / "dialogues.jsonl", tmp_path / "train")
    assert training.eval_data == str(held.output / "dialogues.jsonl") and training.eval_every
    assert settings.train_seconds <= 300 and training.encoder == "stretches"


def test_held_out_dialogues_ask_once_with_three_items(tmp_path: Path) -> None:
    held = QuickSettings(output=tmp_path).held_out
    assert held is not None
    from dataclasses import replace

    build_dialogues(replace(held, count=4, entities=60, views=2))
    rows = [json.loads(line) for line in (held.output / "dialogues.jsonl").read_text().splitlines()]
    assert [len(row["conversations"]) for row in rows] == [1] * 4
    towns = {item["id"].split("/")[1] for row in rows for item in row["knowledge"]}
    assert all(len(row["knowledge"]) == 3 for row in rows) and {int(town[1:]) % 10 for town in towns} == {7}


def test_curve_of_two_evaluations_and_none_of_one(tmp_path: Path) -> None:
    rows = {"rag": Row("rag", 0.8, 250, 0.1, 100, 3), "baseline": Row("baseline", 0.02, 0, 0.1, 100)}
    path = tmp_path / "metrics.jsonl"
    assert draw_curve(path, rows) == b""
    found = [{"step": step, "eval_accuracy": step / 100, "eval_examples": 48.0} for step in (40, 80)]
    path.write_text("\n".join(map(json.dumps, [{"step": 1, "loss": 1.0}, found[0]])))
    assert draw_curve(path, rows) == b""
    path.write_text("\n".join(map(json.dumps, found)))
    assert draw_curve(path, rows).startswith(b"\x89PNG")
