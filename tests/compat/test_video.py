"""Checkpoints of the memory-enhanced video model, and its golden outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from comem.compat.commands import ConvertCheckpointSettings
from comem.compat.convert import convert
from comem.compat.parity import run_parity
from comem.compat.video import load_video_checkpoint, our_name
from comem.memory.encoder import base_digest, read_about

#: The small cases; `comem parity ../shared/golden/video_memory` compares all of them.
CASES = ("sampling", "case_one_segment")


@pytest.fixture
def golden(golden_dir: Path) -> Path:
    return golden_dir / "video_memory"


def small(golden: Path, folder: Path) -> Path:
    for name in ("config.json", *(f"{case}.safetensors" for case in CASES)):
        (folder / name).symlink_to(golden / name)
    return folder


def test_golden_outputs(golden: Path, tmp_path: Path) -> None:
    (small(golden, tmp_path) / "model.safetensors").symlink_to(golden / "model.safetensors")
    found = run_parity(tmp_path)
    assert {each.case for each in found} == set(CASES)
    assert {"pooled", "with_time", "states", "fused", "embeds", "logits", "loss", "greedy_ids"} <= {
        each.output for each in found
    }
    assert [each for each in found if each.max_abs > (each.allowed or 0)] == []


def test_a_changed_weight_is_seen(golden: Path, tmp_path: Path) -> None:
    weights = load_file(golden / "model.safetensors")
    weights["model.recurrent_memory_transformer.memory_pos_embed"][0, 0, 0] += 0.01
    save_file(weights, small(golden, tmp_path) / "model.safetensors")
    far = {each.output for each in run_parity(tmp_path) if each.max_abs > (each.allowed or 0)}
    assert {"states", "fused", "logits"} <= far and not {"pooled", "with_time"} & far


@pytest.mark.parametrize(
    ("change", "said"),
    [("missing", "1 tensors are missing"), ("shape", "should have shape"), ("table", "not the sinusoid")],
)
def test_a_checkpoint_that_is_not_whole(golden: Path, tmp_path: Path, change: str, said: str) -> None:
    weights = load_file(golden / "model.safetensors")
    name = "model.recurrent_memory_transformer.layers.0.residual.dense.weight"
    if change == "missing":
        del weights[name]
    elif change == "shape":
        weights[name] = weights[name][:-1].clone()
    else:
        weights["model.positional_encoding.frame_embed"] += 1
    (tmp_path / "config.json").write_bytes((golden / "config.json").read_bytes())
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=said):
        load_video_checkpoint(tmp_path)


def test_names() -> None:
    theirs = "model.recurrent_memory_transformer.layers.1.memory_segment_fusion_attention.residual.dense.bias"
    assert our_name(theirs) == "memory.layers.1.attend.out.bias"
    assert our_name("model.recurrent_memory_transformer.memory_update_attention.k_proj.weight") == (
        "memory.evolve.key.weight"
    )
    assert our_name("model.layers.3.mlp.up_proj.weight") == "model.language_model.layers.3.mlp.up_proj.weight"
    assert our_name("model.image_newline") == "model.image_newline"


def test_a_checkpoint_becomes_a_folder_of_model_and_memory(golden: Path, tmp_path: Path) -> None:
    result = convert(ConvertCheckpointSettings(golden, tmp_path / "out"))
    assert dict(result.found.lines())["memory"].startswith("8 slots x 14x14")
    assert "no tokenizer" in result.notes[0]
    written = load_file(tmp_path / "out" / "memory.safetensors")
    theirs = load_file(golden / "model.safetensors")
    assert torch.equal(written["slot_code"], theirs["model.recurrent_memory_transformer.memory_pos_embed"])
    about = read_about(tmp_path / "out")
    assert about["kind"] == "merged" and about["video"]["segment"] == 32
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert torch.equal(model.model.image_newline, theirs["model.image_newline"])
    assert base_digest(model) == about["base"]["digest"]
    with pytest.raises(ValueError, match="not empty"):
        convert(ConvertCheckpointSettings(golden, tmp_path / "out"))
