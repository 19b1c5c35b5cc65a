"""What is said of checkpoints in the authors' layouts, golden ones and tiny ones of every kind."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from comem.compat.inspect import inspect_checkpoint
from comem.memory.qformer_encoder import QFormerEncoder
from tests.compat.authors_layouts import merged, run_folder, their_qformer


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl"])
def test_the_golden_checkpoints(golden_dir: Path, family: str) -> None:
    found = inspect_checkpoint(golden_dir / family)
    assert (found.layout, found.family, found.refusal) == ("A", family, "")
    assert found.tensors["qformer"] == 18 and found.tensors["encoder"] == found.tensors["reader"]
    assert found.qformer == "trained: 8 of 8 norm tensors have left their start"
    count = found.tensors["reader"]  # golden/README.md: only the head is shared
    assert found.reader.startswith(f"differs from the encoder in {count - 1} of {count} tensors")
    assert "--base" in found.reader and "--base" in found.encoder
    assert sum(found.dtypes.values()) == 2 * count + 18 and list(found.dtypes) == ["F32"]


def test_reader_and_encoder_against_the_base(base_model: Any, tmp_path: Path) -> None:
    encoder, reader = copy.deepcopy(base_model), copy.deepcopy(base_model)
    with torch.no_grad():
        encoder.model.language_model.layers[0].mlp.up_proj.weight[0, 0] += 0.5
    folder = merged(tmp_path / "a", encoder, reader, their_qformer(), torch.float16)
    found = inspect_checkpoint(folder, base_model.state_dict())
    count = found.tensors["reader"]
    assert found.layout == "A" and list(found.dtypes) == ["F16"]
    assert found.reader == f"equal to the base in {count} of {count} tensors"  # rounded to what is stored
    assert found.encoder == f"differs from the base in 1 of {count} tensors, by up to 0.5"
    with torch.no_grad():
        reader.lm_head.weight[3, 3] += 0.25
    found = inspect_checkpoint(
        merged(tmp_path / "b", encoder, reader, their_qformer()), base_model.state_dict()
    )
    assert found.reader == f"differs from the base in 1 of {count} tensors, by up to 0.25"
    other = {name: tensor for name, tensor in base_model.state_dict().items() if "visual" not in name}
    assert "have no counterpart there" in inspect_checkpoint(folder, other).reader


def test_a_qformer_that_was_not_trained(
    tiny_qwen2_5_vl: Any, encoder: QFormerEncoder, tmp_path: Path
) -> None:
    fresh = their_qformer(trained=False)
    found = inspect_checkpoint(merged(tmp_path / "a", tiny_qwen2_5_vl, tiny_qwen2_5_vl, fresh))
    assert found.qformer == "NOT trained: its norms are as they start, weights 1 and biases 0"
    found = inspect_checkpoint(run_folder(tmp_path / "c", encoder, fresh, fresh, in_rest=True))
    assert found.qformer == "NOT trained: equal to the copy of its start"
    found = inspect_checkpoint(run_folder(tmp_path / "d", encoder, their_qformer(), fresh, in_rest=True))
    assert found.qformer == "trained: 18 of 18 tensors differ from the copy of its start"


def test_a_raw_run_folder(encoder: QFormerEncoder, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "c", encoder, their_qformer(), reader_trained=True)
    found = inspect_checkpoint(folder)
    layers = found.tensors["encoder"] // 2
    assert found.layout == "C" and found.encoder == f"{layers} LoRA layers were trained"
    assert found.reader == f"{layers} LoRA layers were trained (C3), and are left out"
    found = inspect_checkpoint(run_folder(tmp_path / "d", encoder, their_qformer()))
    assert found.reader == "the plain base"


def test_what_cannot_be_converted_says_why(
    tiny_qwen2_5_vl: Any, encoder: QFormerEncoder, tmp_path: Path
) -> None:
    found = inspect_checkpoint(merged(tmp_path / "b", tiny_qwen2_5_vl, tiny_qwen2_5_vl, None))
    assert found.layout == "B" and found.qformer == "none" and "C2" in found.refusal
    folder = run_folder(tmp_path / "c", encoder, their_qformer())
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, next(iter(tensors)): torch.zeros(0)}, path)
    assert "1 tensors are empty" in inspect_checkpoint(folder).refusal
    save_file({n: t for n, t in tensors.items() if "knowledge" not in n}, path)
    assert "has no Q-Former" in inspect_checkpoint(folder).refusal
    (folder / "non_lora_state_dict.bin").write_bytes(b"pickle")
    refusal = inspect_checkpoint(folder).refusal
    assert "never loaded" in refusal and "weights_only=True" in refusal
    (folder / "adapter_model.bin").write_bytes(b"pickle")
    path.unlink()
    with pytest.raises(ValueError, match="only pickled weights"):
        inspect_checkpoint(folder)
