"""Tiny checkpoints in the authors' layouts (authors_code.md 7.2), written by their names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from comem.memory.lora import lora_state
from comem.memory.qformer import QFormer, QFormerConfig
from comem.memory.qformer_encoder import QFormerEncoder

#: Heads and depth leave no trace in the files: theirs are 16 and 8.
THEIR_QFORMER = QFormerConfig(64, heads=16, depth=8)


def their_name(name: str) -> str:
    """A tensor's name before transformers 4.52."""
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


@torch.no_grad()
def their_qformer(trained: bool = True) -> QFormer:
    """A Q-Former of their sizes; training moves the norms, too."""
    qformer = QFormer(THEIR_QFORMER)
    if trained:
        for parameter in qformer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    return qformer


def _copied(tensors: Mapping[str, Tensor], prefix: str = "", dtype: Any = None) -> dict[str, Tensor]:
    return {prefix + their_name(name): t.detach().clone().to(dtype or t.dtype) for name, t in tensors.items()}


def merged(folder: Path, encoder: Any, reader: Any, qformer: QFormer | None, dtype: Any = None) -> Path:
    """Layout A, or B without a Q-Former; config.json as their transformers wrote it."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = _copied(encoder.state_dict(), dtype=dtype)
    if qformer is not None:
        tensors |= _copied(reader.state_dict(), "model_inf.", dtype)
        tensors |= {
            f"knowledge_processor.{n}": t.to(dtype or t.dtype) for n, t in qformer.state_dict().items()
        }
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(their_config(encoder.config)))
    return folder


def their_config(config: Any) -> dict[str, Any]:
    """A config in the flat form of transformers 4.49, as the hub's Qwen2.5-VL still has it."""
    text = config.text_config.to_dict()
    rope = text["rope_parameters"]
    kept = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "hidden_act", "bos_token_id",
        "eos_token_id", "pad_token_id",
    )  # fmt: skip
    ids = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return {
        "model_type": config.model_type,
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        **{name: text[name] for name in kept},
        **{name: getattr(config, name) for name in ids},
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
        "tie_word_embeddings": False,
        "vision_config": config.vision_config.to_dict(),
    }


def run_folder(
    folder: Path, encoder: QFormerEncoder, qformer: QFormer, first: QFormer | None = None,
    reader_trained: bool = False, in_rest: bool = False,
) -> Path:  # fmt: skip
    """Layout C as peft writes it: LoRA of encoder and reader, and the Q-Former with the copy of its start.

    `in_rest`: the Q-Former lies in what was made of non_lora_state_dict.bin, with the base layers' weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wrap = "base_model.model."
    lora = lora_state(encoder.model)
    adapter = _copied(lora, wrap)
    for name, tensor in lora.items():
        start = ".lora_B." in name and not reader_trained
        theirs = f"{wrap}model_inf.{their_name(name)}"
        adapter[theirs] = torch.zeros_like(tensor) if start else tensor.detach().clone()
    home = f"{wrap}knowledge_processor."
    if in_rest:
        rest = {f"{home}modules_to_save.default.{n}": t.clone() for n, t in qformer.state_dict().items()}
        if first is not None:
            rest |= {f"{home}original_module.{n}": t.clone() for n, t in first.state_dict().items()}
        rest[f"{wrap}model.layers.0.mlp.up_proj.base_layer.weight"] = torch.zeros(2, 2)
        save_file(rest, folder / "non_lora_state_dict.safetensors")
    else:
        adapter |= {f"{home}{n}": t.detach().clone() for n, t in qformer.state_dict().items()}
    save_file(adapter, folder / "adapter_model.safetensors")
    settings = encoder.lora
    assert settings is not None
    facts = {"r": settings.rank, "lora_alpha": settings.alpha, "lora_dropout": settings.dropout,
             "modules_to_save": ["knowledge_processor"]}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(facts))
    return folder
