"""Checkpoints of the authors' layouts: A and C load, B and damaged ones are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from comem.compat.adapter import load_authors_adapter
from comem.compat.checkpoint import load_authors_checkpoint
from comem.compat.inspect import inspect_checkpoint
from comem.memory.lora import lora_state
from comem.memory.qformer_encoder import QFormerEncoder
from comem.types import KnowledgeItem

Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@pytest.fixture(params=["qwen2_5_vl", "qwen2_vl"])
def released(golden_dir: Path, request: pytest.FixtureRequest) -> Path:
    return golden_dir / request.param


def changed(source: Path, target: Path, change: Change) -> Path:
    (target / "config.json").write_bytes((source / "config.json").read_bytes())
    save_file(change(load_file(source / "model.safetensors")), target / "model.safetensors")
    return target


def test_layout_a(released: Path) -> None:
    encoder, qformer, reader = load_authors_checkpoint(released)
    found = inspect_checkpoint(released)
    assert found.layout == "A" and found.family == released.name
    assert found.tensors["qformer"] == 18 and found.tensors["encoder"] == found.tensors["reader"] > 60
    stored = load_file(released / "model.safetensors")
    name = "layers.1.mlp.up_proj.weight"
    assert torch.equal(encoder.state_dict()[f"model.language_model.{name}"], stored[f"model.{name}"])
    assert torch.equal(reader.state_dict()[f"model.language_model.{name}"], stored[f"model_inf.model.{name}"])
    assert torch.equal(
        reader.state_dict()["model.visual.patch_embed.proj.weight"],
        stored["model_inf.visual.patch_embed.proj.weight"],
    )
    assert qformer.config.depth == 8 and qformer.config.heads == 4


def test_whose_tower_serves_the_question_is_an_option(released: Path) -> None:
    encoder, _, reader = load_authors_checkpoint(released, "encoder")
    assert reader.model.visual is encoder.model.visual
    assert reader.get_input_embeddings() is encoder.get_input_embeddings()
    assert reader.model.language_model.layers is not encoder.model.language_model.layers
    encoder, _, reader = load_authors_checkpoint(released)
    assert reader.model.visual is not encoder.model.visual
    with pytest.raises(ValueError, match="question_vision='both': allowed are reader, encoder"):
        load_authors_checkpoint(released, "both")  # type: ignore[arg-type]


def test_shards_and_half_precision(released: Path, tmp_path: Path) -> None:
    tensors = {n: t.half() for n, t in load_file(released / "model.safetensors").items()}
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({n: tensors[n] for n in part}, tmp_path / file)
    index = {"weight_map": {n: file for file, part in parts.items() for n in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_bytes((released / "config.json").read_bytes())
    encoder, qformer, _ = load_authors_checkpoint(tmp_path)
    assert (
        {p.dtype for p in encoder.parameters()} == {torch.float16} == {p.dtype for p in qformer.parameters()}
    )
    encoder, _, _ = load_authors_checkpoint(tmp_path, dtype=torch.float32)
    assert encoder.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: {n: v for n, v in t.items() if "knowledge" not in n},
            "plain merged model without Q-Former",
        ),
        (lambda t: {n: v for n, v in t.items() if "model_inf" not in n}, "has no reader"),
        (lambda t: {n: v for n, v in t.items() if n != "model.norm.weight"}, "1 tensors are missing"),
        (
            lambda t: {**t, "model.layers.9.mlp.x": torch.zeros(1)},
            r"model\.layers\.9\.mlp\.x \(1,\) is not known",
        ),
        (lambda t: {**t, "model.norm.weight": torch.zeros(9)}, r"should have shape \(64,\): config.json"),
        (
            lambda t: {n: v for n, v in t.items() if n != "knowledge_processor.latents"},
            "the Q-Former has no latents",
        ),
    ],
)
def test_other_layouts_are_refused(golden_dir: Path, tmp_path: Path, change: Change, message: str) -> None:
    folder = changed(golden_dir / "qwen2_5_vl", tmp_path, change)
    with pytest.raises(ValueError, match=message) as caught:
        load_authors_checkpoint(folder)
    assert str(tmp_path) in str(caught.value)


def test_half_written_and_unknown_family(golden_dir: Path, tmp_path: Path) -> None:
    folder = changed(golden_dir / "qwen2_vl", tmp_path, dict)
    (folder / "config.json").write_text('{"family": "llava"}')
    with pytest.raises(ValueError, match="unknown model family 'llava'; allowed are qwen2_vl, qwen2_5_vl"):
        load_authors_checkpoint(folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        load_authors_checkpoint(folder)


@pytest.fixture()
def run_folder(encoder: QFormerEncoder, tmp_path: Path) -> Path:
    """Layout C as peft writes it, from an encoder of ours."""
    tensors = {}
    for name, tensor in lora_state(encoder.model).items():
        old = name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")
        tensors[f"base_model.model.{old}"] = tensor.clone()
        tensors[f"base_model.model.model_inf.{old}"] = torch.zeros_like(tensor)
    for name, tensor in encoder.qformer.state_dict().items():
        tensors[f"base_model.model.knowledge_processor.{name}"] = tensor.clone()
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8, "lora_dropout": 0.0}))
    return tmp_path


def test_layout_c(
    make_encoder: Any,
    run_folder: Path,
    encoder: QFormerEncoder,
    tiny_qwen2_5_vl: Any,
    items: list[KnowledgeItem],
    tiny_processor: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import copy

    from tests.memory.conftest import tame

    # heads and depth leave no trace in the file: the authors' 16 and 8
    expected = encoder.qformer.config.__class__(64, heads=16, depth=8)
    loaded, notes = load_authors_adapter(run_folder, tame(copy.deepcopy(tiny_qwen2_5_vl)), tiny_processor)
    found = inspect_checkpoint(run_folder)
    assert found.layout == "C" and "(C3)" in notes[0] and found.tensors["qformer"] == 18
    assert loaded.qformer.config.depth == expected.depth and loaded.qformer.config.head_width == 4
    own = lora_state(encoder.model)
    assert all(torch.equal(t, own[n]) for n, t in lora_state(loaded.model).items())
    assert loaded.encode(items).embeddings.shape == (5, 8, 64)


def test_layout_c_without_its_weights(run_folder: Path, base_model: Any) -> None:
    path = run_folder / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, next(iter(tensors)): torch.zeros(0)}, path)
    with pytest.raises(ValueError, match="is empty: ZeRO-3"):
        load_authors_adapter(run_folder, base_model)
    save_file({n: t for n, t in tensors.items() if "knowledge" not in n}, path)
    with pytest.raises(ValueError, match="has no Q-Former"):
        load_authors_adapter(run_folder, base_model)
    with pytest.raises(ValueError, match="raw run folder|without Q-Former"):
        load_authors_checkpoint(run_folder)


def test_layout_a_of_the_text_only_variant(golden_dir: Path, tmp_path: Path) -> None:
    """No golden vectors exist for it: the reader is the golden one's language model (authors_code.md 1.9)."""
    blind = changed(
        golden_dir / "qwen2_5_vl", tmp_path,
        lambda t: {n: v for n, v in t.items() if not n.startswith("model_inf.visual.")},
    )  # fmt: skip
    encoder, qformer, reader = load_authors_checkpoint(blind)
    found = inspect_checkpoint(blind)
    assert found.tensors["qformer"] == 18 and found.tensors["reader"] == len(reader.state_dict())
    assert reader.config.model_type == "qwen2" and not hasattr(reader.base_model, "visual")
    seeing = load_authors_checkpoint(golden_dir / "qwen2_5_vl")[2]
    ids = torch.tensor([[5, 9, 7, 3]])
    with torch.no_grad():
        torch.testing.assert_close(reader(ids).logits, seeing(ids).logits)
    encoder, _, reader = load_authors_checkpoint(blind, "encoder")
    assert reader.get_input_embeddings() is encoder.get_input_embeddings()
    assert reader.lm_head is encoder.lm_head


def test_released_tensor_counts() -> None:
    """729 + 339 + 18 tensors at 7B (authors_code.md 7.2): the models that are filled have so many."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, Qwen2_5_VLConfig

    from comem.backbones.text_reader import text_config_of

    text = {
        "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
        "intermediate_size": 18944,
    }  # fmt: skip
    config = Qwen2_5_VLConfig(text_config=text, vision_config={"hidden_size": 1280, "out_hidden_size": 3584})
    with torch.device("meta"):
        encoder = AutoModelForImageTextToText.from_config(config)
        reader = AutoModelForCausalLM.from_config(text_config_of(config))
    assert (len(encoder.state_dict()), len(reader.state_dict())) == (729, 339)
    assert reader.num_parameters() == 7_615_616_512
