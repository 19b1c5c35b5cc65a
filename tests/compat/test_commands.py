"""`comem convert`: each layout of the authors' to a folder that opens, with the right memory."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from comem.backbones.hf import load_backbone
from comem.cli import main
from comem.memory.bank import read_tensors
from comem.memory.qformer_encoder import QFormerEncoder
from comem.types import KnowledgeItem
from tests.compat.authors_layouts import merged, run_folder, their_qformer
from tests.conftest import build_tiny_qwen2


def convert(*words: object) -> int:
    return main(["convert", *map(str, words)])


def assert_equal_memory(one: QFormerEncoder, other: QFormerEncoder, items: list[KnowledgeItem]) -> None:
    found, expected = (encoder.encode(items).embeddings for encoder in (one, other))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.fixture
def base_folder(base_model: Any, tiny_processor: Any, tmp_path: Path) -> Path:
    """The base as its users have it: a model folder."""
    base_model.save_pretrained(tmp_path / "base")
    tiny_processor.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl"])
def test_golden_memory_comes_out_of_the_converted_folder(
    golden_dir: Path, family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(golden_dir / family) == 0
    assert "A: merged, with Q-Former and reader" in capsys.readouterr().out
    assert convert(golden_dir / family, tmp_path / "encoder", "--reader", tmp_path / "reader") == 0
    assert "add the base's files" in capsys.readouterr().out
    encoder = QFormerEncoder.load(tmp_path / "encoder", processor=object()).eval()
    golden = read_tensors(golden_dir / family / "case_k3.safetensors")
    names = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")
    inputs = {name: golden[f"knowledge_{name}"] for name in names}
    with torch.no_grad():
        memory = encoder(inputs).flatten(0, 1)[None]
    torch.testing.assert_close(memory, golden["memory_retrieval_order"], atol=1e-5, rtol=0)
    stored = load_file(golden_dir / family / "model.safetensors")
    reader = load_file(tmp_path / "reader" / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    written = next(tensor for key, tensor in reader.items() if key.endswith("layers.1.mlp.up_proj.weight"))
    assert torch.equal(written, stored[f"model_inf.{name}"])


def test_layout_a_with_its_base(
    base_model: Any, base_folder: Path, items: list[KnowledgeItem], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    encoder, qformer = copy.deepcopy(base_model), their_qformer()
    with torch.no_grad():
        encoder.model.language_model.layers[0].mlp.up_proj.weight.mul_(1.5)
    source = merged(tmp_path / "theirs", encoder, base_model, qformer)
    words = ("--base", base_folder, "--reader", tmp_path / "reader", "--max-pixels", 4 * 28 * 28)
    assert convert(source, tmp_path / "ours", *words) == 0
    assert "reader    equal to the base in" in capsys.readouterr().out
    loaded = QFormerEncoder.load(tmp_path / "ours")
    assert loaded.form.max_pixels == 4 * 28 * 28 and loaded.lora is None
    expected = QFormerEncoder(encoder, loaded.processor, qformer, None, loaded.form).eval()
    torch.testing.assert_close(
        loaded.encode(items).embeddings, expected.encode(items).embeddings, atol=1e-5, rtol=0
    )
    assert torch.equal(load_backbone(tmp_path / "reader").model.lm_head.weight, base_model.lm_head.weight)


def test_layout_a_of_a_text_reader(
    base_model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, Qwen2ForCausalLM

    text = build_tiny_qwen2()
    text.config.rms_norm_eps = base_model.config.get_text_config().rms_norm_eps  # at 7B they are the same
    theirs = Qwen2ForCausalLM(text.config).eval()
    source = merged(tmp_path / "theirs", base_model, theirs, their_qformer())
    assert convert(source, tmp_path / "ours", "--reader", tmp_path / "reader") == 0
    reader = AutoModelForCausalLM.from_pretrained(tmp_path / "reader")
    ids = torch.arange(12).view(1, 12)
    with torch.no_grad():
        torch.testing.assert_close(reader(ids).logits, theirs(ids).logits, atol=1e-5, rtol=0)
    capsys.readouterr()


@pytest.mark.parametrize(("fold", "in_rest"), [(False, False), (True, True)])
def test_layout_c(
    base_folder: Path, encoder: QFormerEncoder, items: list[KnowledgeItem], tmp_path: Path, fold: bool,
    in_rest: bool, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    qformer = their_qformer()
    first = their_qformer(trained=False) if in_rest else None
    source = run_folder(tmp_path / "theirs", encoder, qformer, first, reader_trained=True, in_rest=in_rest)
    words = ["--fold"] if fold else []
    assert convert(source, tmp_path / "ours", "--base", base_folder, *words) == 0
    shown = capsys.readouterr().out
    assert "C: raw run folder" in shown and "(C3)" in shown and "trained: " in shown
    assert (tmp_path / "ours" / "adapter.safetensors").exists() != fold
    loaded = QFormerEncoder.load(tmp_path / "ours")
    expected = QFormerEncoder(encoder.model, loaded.processor, qformer, encoder.lora, loaded.form).eval()
    torch.testing.assert_close(
        loaded.encode(items).embeddings, expected.encode(items).embeddings, atol=1e-5, rtol=0
    )


def test_refusals_come_with_the_remedy(
    tiny_qwen2_5_vl: Any, encoder: QFormerEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base_model = tiny_qwen2_5_vl
    plain = merged(tmp_path / "b", base_model, base_model, None)
    for words in ((plain,), (plain, tmp_path / "out")):
        assert convert(*words) == 2
        shown = capsys.readouterr()
        assert "B: merged, without Q-Former" in shown.out and "convert the run folder" in shown.err
    raw = run_folder(tmp_path / "c", encoder, their_qformer())
    assert convert(raw, tmp_path / "out") == 2
    assert "name the model that was trained (--base)" in capsys.readouterr().err
    whole = merged(tmp_path / "a", base_model, base_model, their_qformer())
    assert convert(whole, raw) == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
