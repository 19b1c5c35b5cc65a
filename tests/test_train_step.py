"""The benchmark of the training step: every way takes the same step, and the numbers are of what it did."""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

PATH = Path(__file__).resolve().parents[1] / "benchmarks" / "train_step.py"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("train_step", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_step"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_way_takes_the_same_step(script: Any) -> None:
    """Packed, item by item, checkpointed: one loss (the second copy of the weights has others)."""
    losses: dict[str, float] = {}
    for name in ("one copy, packed", "item loop", "checkpointing"):
        args = SimpleNamespace(dropout=0.0, micro_batch=2, warmup=0, liger=False, quantization="")
        bench = script.Bench(script.SHAPES["tiny"], torch.device("cpu"), args)
        step = script.Trainer._step

        def noted(self: Any, *words: Any, name: str = name, step: Any = step) -> Any:
            row = step(self, *words)
            losses[name] = row["loss"]
            return row

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(script.Trainer, "_step", noted)
            row = bench.measure(script.WAYS[name], 1, time.monotonic() + 600)
        assert row["steps"] == 1 and row["micro_batch"] == 2
        assert (row["done_tflop_a_question"] > row["model_tflop_a_question"]) == row["checkpointing"]
    assert losses == pytest.approx(dict.fromkeys(losses, losses["one copy, packed"]), rel=1e-4)


def test_operations_of_a_question_at_7b(script: Any) -> None:
    """129 TFLOP with recomputation: three items of 640 tokens, a question of 724 with its picture."""
    shape = script.SHAPES["7b"]
    config = script.Qwen2_5_VLConfig(text_config=dict(shape.text), vision_config=dict(shape.vision))
    with torch.device("meta"):
        model = script.AutoModelForImageTextToText.from_config(config)
        bench = object.__new__(script.Bench)
        bench.shape, bench.network, bench.lora = shape, model, script.LoraSettings()
        bench.encoder = SimpleNamespace(qformer=SimpleNamespace(config=script.QFormerConfig(3584)))
    assert sum(p.numel() for p in model.parameters()) == 8_292_166_656
    assert bench.flops(bench.batch(4, 0), True) / 4 / 1e12 == pytest.approx(129, abs=1)
