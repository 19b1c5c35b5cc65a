"""Our modules against the authors', at 1e-5 (../shared/golden)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from comem.compat.difference import Difference, max_abs
from comem.compat.parity import TOLERANCE, run_parity

OUTPUTS = {
    "memory_retrieval_order",
    "position_ids",
    "train_loss",
    "train_logits",
    "grad_latents",
    "grad_encoder_q_proj0",
}


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl"])
def test_every_golden_output(golden_dir: Path, family: str) -> None:
    found = run_parity(golden_dir / family)
    expected = OUTPUTS | ({"inference_logits_reversed_order"} if family == "qwen2_5_vl" else set())
    assert {d.output for d in found} == expected
    assert {d.case for d in found} == {"case_k1", "case_k3", "case_k10"}
    assert [d for d in found if d.max_abs > TOLERANCE] == []
    assert all(d.max_abs == 0 for d in found if d.output == "position_ids")


def test_a_changed_weight_is_seen(golden_dir: Path, tmp_path: Path) -> None:
    for name in ("config.json", "case_k1.safetensors"):
        (tmp_path / name).write_bytes((golden_dir / "qwen2_5_vl" / name).read_bytes())
    weights = load_file(golden_dir / "qwen2_5_vl" / "model.safetensors")
    weights["knowledge_processor.latents"][0, 0, 0] += 0.01
    save_file(weights, tmp_path / "model.safetensors")
    worst = max(run_parity(tmp_path), key=lambda d: d.max_abs)
    assert worst.max_abs > TOLERANCE


def test_shapes_and_nan_count_as_infinitely_far() -> None:
    assert max_abs(torch.zeros(2), torch.zeros(3)) == float("inf")
    assert max_abs(torch.tensor([float("nan")]), torch.zeros(1)) == float("inf")


def test_a_folder_without_cases_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a golden folder"):
        run_parity(tmp_path)
    assert Difference("a", "b", 0.0).max_abs == 0
