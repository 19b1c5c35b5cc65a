"""CoMemo's checkpoints: the authors' layout, and their golden outputs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import comem
from comem.backbones.base import GenerationConfig
from comem.backbones.comemo import CoMemo
from comem.backbones.specs import resolve_backbone
from comem.cli import main
from comem.compat.comemo import read_authors, split_wqkv, unloaded
from comem.compat.parity import run_parity
from comem.types import Message
from tests.backbones.tiny_comemo import SPECIAL, tiny_comemo


def theirs(comemo: CoMemo, folder: Path, **changes: Any) -> Path:
    """A model of ours written in the authors' layout: their names, queries, keys and values fused."""
    text, vision = comemo.model.config.text_config, comemo.model.config.vision_config
    groups, width = text.num_key_value_heads, text.head_dim
    each = text.num_attention_heads // groups
    stored, found = dict(comemo.model.state_dict()), {}

    def take(ours: str) -> torch.Tensor:
        return stored.pop(f"model.{ours}").clone()

    plain = {"embed_tokens": "model.tok_embeddings", "norm": "model.norm"}
    for ours, name in plain.items():
        found[f"language_model.{name}.weight"] = take(f"language_model.{ours}.weight")
    found["language_model.output.weight"] = stored.pop("lm_head.weight").clone()
    for layer in range(text.num_hidden_layers):
        place, own = f"language_model.model.layers.{layer}.decoder_layer", f"language_model.layers.{layer}"
        q, k, v = (take(f"{own}.self_attn.{x}_proj.weight") for x in "qkv")
        parts = [q.view(groups, each, width, -1), k.view(groups, 1, width, -1), v.view(groups, 1, width, -1)]
        found[f"{place}.attention.wqkv.weight"] = torch.cat(parts, dim=1).flatten(0, 2)
        for ours, name in {
            "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": 
                "feed_forward.w3",
            "mlp.down_proj": "feed_forward.w2", "input_layernorm": "attention_norm",
            "post_attention_layernorm": "ffn_norm",
        }.items():  # fmt: skip
            found[f"{place}.{name}.weight"] = take(f"{own}.{ours}.weight")
    for layer, block in comemo.blocks.blocks.items():
        place = f"language_model.model.layers.{layer}.gated_cross_attn_layer"
        values = dict(block.state_dict())
        found |= {f"{place}.{gate}": values[gate] for gate in ("attn_gate", "ff_gate")}
        found[f"{place}.cross_attention_norm.weight"] = values["norm"]
        found[f"{place}.ffn_norm_2.weight"] = values["ff_norm"]
        found |= {
            f"{place}.cross_attn.{n}.weight": values[f"{n}.weight"] for n in ("to_q", "to_kv", "to_out")
        }
        found |= {f"{place}.ffn_2.{n}.weight": values[f"{n}.weight"] for n in ("w1", "w2", "w3")}
    tower = "vision_tower.embeddings"
    found["vision_model.embeddings.class_embedding"] = take(f"{tower}.cls_token")
    found["vision_model.embeddings.position_embedding"] = take(f"{tower}.position_embeddings")
    for kind in ("weight", "bias"):
        found[f"vision_model.embeddings.patch_embedding.{kind}"] = take(
            f"{tower}.patch_embeddings.projection.{kind}"
        )
        for number, name in {"0": "layer_norm", "1": "linear_1", "3": "linear_2"}.items():
            found[f"mlp1.{number}.{kind}"] = take(f"multi_modal_projector.{name}.{kind}")
    for layer in range(vision.num_hidden_layers):
        place, own = f"vision_model.encoder.layers.{layer}", f"vision_tower.encoder.layer.{layer}"
        for kind in ("weight", "bias"):
            parts = [take(f"{own}.attention.{x}_proj.{kind}") for x in "qkv"]
            found[f"{place}.attn.qkv.{kind}"] = torch.cat(parts)
            for ours, name in {
                "attention.projection_layer": "attn.proj", "layernorm_before": "norm1", 
                "layernorm_after": "norm2",
                "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
            }.items():  # fmt: skip
                found[f"{place}.{name}.{kind}"] = take(f"{own}.{ours}.{kind}")
        found |= {f"{place}.ls{n}": take(f"{own}.lambda_{n}") for n in (1, 2)}
    assert not stored, sorted(stored)
    sizes = comemo.blocks.sizes
    about = {
        "model_type": "comemo_chat", "architectures": ["CoMemoChatModel"],
        "vision_config": {
            "hidden_size": vision.hidden_size, "num_hidden_layers": vision.num_hidden_layers, "image_size":
            56, "num_attention_heads": vision.num_attention_heads, "intermediate_size":
            vision.intermediate_size, "hidden_act": "gelu", "layer_norm_eps": 1e-6, "patch_size": 14,
            "qkv_bias": True,
        },
        "llm_config": {
            "architectures": ["InternLM2ForCausalLM"], "bias": False, "rope_theta":
            text.rope_parameters["rope_theta"], **{name: getattr(text, name) for name in (
                "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                "num_key_value_heads", "hidden_act", "max_position_embeddings", "rms_norm_eps", 
                "bos_token_id",
                "eos_token_id", "pad_token_id",
            )},
        },
        "mixin_config": {
            "mixin_every_n_layers": 2, "language_dim": 32, "vision_dim": 32, "head_dim": sizes.head_dim,
            "num_heads": sizes.heads, "intermediate_size": sizes.intermediate,
        },
        "downsample_ratio": 0.5, "ps_version": "v2", "select_layer": -1, "force_image_size": 56,
        "max_dynamic_patch": 4, "min_dynamic_patch": 1, "dynamic_image_size": True,
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**about, **changes}))
    save_file(found, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def backbone() -> Any:
    return tiny_comemo()


@pytest.fixture(scope="module")
def folder(backbone: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = theirs(backbone.comemo, tmp_path_factory.mktemp("theirs"))
    backbone.process.tokenizer.save_pretrained(folder)
    return folder


def test_a_checkpoint_of_theirs_chats_without_remote_code(backbone: Any, folder: Path) -> None:
    assert len(SPECIAL) == 7
    loaded = comem.load_backbone(folder)
    assert loaded.comemo.config.positions == "dhr_released"
    ends = loaded.process.tokenizer.convert_tokens_to_ids(["</s>", "<|im_end|>"])
    assert set(ends) <= set(loaded.model.generation_config.eos_token_id)
    same = loaded.using(positions="dhr", system="Be brief.")
    backbone.model.generation_config.eos_token_id = loaded.model.generation_config.eos_token_id
    for name, value in backbone.comemo.state_dict().items():
        assert torch.equal(same.comemo.state_dict()[name], value), name
    ask = [[Message("user", ("Who are you?",))]]
    short = GenerationConfig(max_new_tokens=5)
    assert same.generate(ask, config=short)[0].text == backbone.generate(ask, config=short)[0].text


def test_a_plan_reads_no_weights_of_theirs(backbone: Any, folder: Path) -> None:
    skeleton = unloaded(resolve_backbone(str(folder))).comemo
    assert all(parameter.is_meta for parameter in skeleton.parameters())
    shapes = {name: value.shape for name, value in backbone.comemo.state_dict().items()}
    assert {name: value.shape for name, value in skeleton.state_dict().items()} == shapes
    assert skeleton.config.positions == "dhr_released"


def test_convert_writes_a_folder_that_says_how_it_counts(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["convert", str(folder), str(out), "--positions", "plain"]) == 0
    loaded = comem.load_backbone(out)
    assert loaded.comemo.config.positions == "plain"
    assert loaded.comemo.config.max_tiles == 4
    assert main(["convert", str(folder), str(out)]) == 2  # not empty
    assert main(["convert", str(folder), str(tmp_path / "other"), "--base", "toy"]) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"mixin_config": {"mixin_every_n_layers": 2, "language_dim": 32, "vision_dim": 32}},
            "head_dim, num_heads",
        ),
        ({"mixin_config": None}, "nothing is guessed"),
        ({"ps_version": "v1"}, "ps_version='v1'"),
        ({"force_image_size": 112}, "force_image_size=112"),
        ({"llm_config": None}, "no llm_config"),
    ],
)
def test_a_config_that_says_too_little_is_refused(
    folder: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    about = {**json.loads((folder / "config.json").read_text()), **change}
    shutil.copy(folder / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=message):
        read_authors(tmp_path)


def test_weights_of_another_model_are_refused(folder: Path, tmp_path: Path) -> None:
    about = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({**about, "img_context_token_id": 262}))
    save_file({n: t for n, t in tensors.items() if "layers.2" not in n}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="tensors are missing"):
        read_authors(tmp_path)
    save_file({n: t for n, t in tensors.items() if "layers.3.gated" not in n}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"blocks before layers \[1, 3\]"):
        read_authors(tmp_path)
    save_file({**tensors, "language_model.extra": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="extra"):
        read_authors(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="no tokenizer that knows"):
        read_authors(tmp_path)


def test_wqkv_is_split_by_groups() -> None:
    from transformers import LlamaConfig

    text = LlamaConfig(hidden_size=8, num_attention_heads=4, num_key_value_heads=2)
    rows = torch.arange(16.0)[:, None].expand(16, 8)  # per group: two queries, a key, a value, of width 2
    q, k, v = split_wqkv(rows.contiguous(), text)
    assert q[:, 0].tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert k[:, 0].tolist() == [4, 5, 12, 13]
    assert v[:, 0].tolist() == [6, 7, 14, 15]


def test_golden_outputs(golden_dir: Path, tmp_path: Path) -> None:
    """The small cases; `comem parity ../shared/golden/comemo` compares all of them."""
    golden = golden_dir / "comemo"
    names = ["config.json", "model.safetensors", "grids.json", "prompts.json"]
    cases = [f"case_{name}.safetensors" for name in ("1x1", "text_only", "packed")]
    for name in [*names, "preprocess.safetensors", *cases]:
        (tmp_path / name).symlink_to(golden / name)
    found = run_parity(tmp_path)
    assert {each.output for each in found} >= {
        "all.logits", "all.block5", "all.cross1_norm", "all.grad_norms", "all.continuous_generated",
        "all.authors_step_logits", "skipped.logits", "dummy_image.loss", "masked.logits", "vit_hidden_sample",
        "image_embeds_norm", "coded.loss_token_mean", "masked.block5", "grids that differ",
        "image0.pixel_sample", "labelled_spans", "inference_prompt",
    }  # fmt: skip
    assert [each for each in found if each.allowed is None or each.max_abs > each.allowed] == []


def test_a_changed_gate_is_seen(golden_dir: Path, tmp_path: Path) -> None:
    golden = golden_dir / "comemo"
    for name in ("config.json", "case_text_only.safetensors"):
        (tmp_path / name).symlink_to(golden / name)
    weights = load_file(golden / "model.safetensors")
    weights["language_model.model.layers.3.gated_cross_attn_layer.ff_gate"] += 0.01
    save_file(weights, tmp_path / "model.safetensors")
    far = [each.output for each in run_parity(tmp_path) if each.allowed and each.max_abs > each.allowed]
    assert "dummy_image.logits" in far
    assert "skipped.logits" not in far  # text alone is the base
