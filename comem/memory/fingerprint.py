"""Fingerprints: which encoder made a memory, on which base model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from comem.memory.lora import lora_layers

_SAMPLES = 256
_CHUNK = 1 << 22
# What the weights' shapes do not show. A fixed list: whole configs differ between transformers versions.
_FACTS = (
    "model_type",
    "hidden_act",
    "rms_norm_eps",
    "num_attention_heads",
    "num_key_value_heads",
    "num_heads",
    "patch_size",
    "spatial_merge_size",
    "temporal_patch_size",
    "window_size",
    "fullatt_block_indexes",
    "image_token_id",
    "rope_theta",
    "mrope_section",
)


def base_digest(model: nn.Module) -> str:
    """SHA-256 of the base model: facts of its config, and up to 256 values spread over every weight tensor.

    It tells checkpoints apart in seconds at 7B; it is not a proof against tampering. LoRA layers on
    the model change nothing.
    """
    digest = hashlib.sha256(json.dumps(_config_facts(model), sort_keys=True).encode())
    for name, tensor in base_weights(model).items():
        flat = tensor.flatten()
        count = min(_SAMPLES, flat.numel())
        picked = torch.arange(count) * (flat.numel() - 1) // max(count - 1, 1)
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(_bytes(flat[picked.to(flat.device)]))
    return digest.hexdigest()


def weights_version(model: nn.Module) -> tuple[int, ...]:
    """Changes whenever a parameter is written in place or replaced: tells whether a fingerprint is stale."""
    return tuple(
        part
        for p in model.parameters()
        for part in (id(p), p.data_ptr(), 0 if p.is_inference() else p._version)
    )


def base_weights(model: nn.Module) -> dict[str, Tensor]:
    """The model's weights by the names they have without LoRA, sorted."""
    adapted = lora_layers(model)
    weights: dict[str, Tensor] = {}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        owner, _, rest = name.partition(".lora_")
        if rest and owner in adapted:
            continue
        weights[name.replace(".base_layer.", ".")] = tensor.detach()
    return dict(sorted(weights.items()))


def _config_facts(model: nn.Module) -> dict[str, Any]:
    config: Any = model.config
    facts: dict[str, Any] = {}
    for part in ("", "text_config", "vision_config"):
        source = getattr(config, part, None) if part else config
        values = {} if source is None else source.to_dict()
        values |= values.get("rope_parameters") or {}
        facts |= {f"{part}.{name}": values[name] for name in _FACTS if name in values}
    return facts


def add_tensors(digest: hashlib._Hash, tensors: Mapping[str, Tensor]) -> None:
    """Count tensors in full: names, shapes, and values rounded to bfloat16."""
    for name in sorted(tensors):
        digest.update(f"{name}{tuple(tensors[name].shape)}".encode())
        for part in tensors[name].detach().flatten().split(_CHUNK):
            digest.update(_bytes(part))


def _bytes(values: Tensor) -> bytes:
    return values.bfloat16().view(torch.int16).cpu().contiguous().numpy().tobytes()
