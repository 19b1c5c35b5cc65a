"""A PEFT adapter's settings: each that changes the result is used, or the adapter is refused.

PEFT multiplies a layer's `B A` by `alpha / r`, or `alpha / sqrt(r)` (rsLoRA), where patterns may give single
layers a rank and an alpha of their own. Ours have one rank and one alpha: lower ranks get rows of zeros, and
what is left of a layer's factor goes into its B.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from comem.compat.checkpoint import QFORMER_PREFIX
from comem.io.files import read_json, short
from comem.memory.lora import LoraSettings

#: Used here, or shown by the tensors themselves, or of training alone.
_KNOWN = frozenset(
    """
    r lora_alpha lora_dropout use_rslora rank_pattern alpha_pattern target_modules exclude_modules
    layers_to_transform layers_pattern task_type peft_type auto_mapping peft_version base_model_name_or_path
    revision inference_mode megatron_config megatron_core qalora_group_size runtime_config eva_config
""".split()
)
#: Starts of LoRA that leave the base as it is; PiSSA, OLoRA, CorDA and LoftQ take something out of it.
_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")
#: Settings that change nothing at these values, beside None, False and empty ones.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {"bias": ("none",), "init_lora_weights": _STARTS}


def read_peft_settings(path: Path) -> dict[str, Any]:
    """What adapter_config.json says.

    Raises:
        ValueError: another method than LoRA, a setting that is not supported here, or numbers that are none.
    """
    found: Any = read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path}: no settings of an adapter; copy it again")
    kind = found.get("peft_type", "LORA")
    if kind != "LORA":
        raise ValueError(f"{path}: an adapter of the kind {kind!r}; only LoRA can be converted")
    others = {name: value for name, value in found.items() if name not in _KNOWN and not _idle(name, value)}
    if others:
        named = ", ".join(f"{name}={value!r}" for name, value in others.items())
        raise ValueError(
            f"{path}: {named} changes what the adapter computes and is not supported here: merge it into its"
            " base with peft (merge_and_unload) and convert the merged model"
        )
    for name in ("r", "lora_alpha"):
        if not _is_number(found.get(name)) or found[name] == 0 or (name == "r" and found[name] < 1):
            said = short(repr(found.get(name)))
            raise ValueError(f"{path}: {name} is {said}; expected a number above 0; copy it again")
    if not _is_number(dropout := found.get("lora_dropout") or 0.0) or not 0 <= dropout < 1:
        raise ValueError(f"{path}: lora_dropout is {dropout!r:.99}; expected 0 to 1; copy again")
    for name in ("rank_pattern", "alpha_pattern"):
        if not _is_pattern(found.get(name) or {}):
            raise ValueError(
                f"{path}: {name} is {short(repr(found[name]))}; expected numbers by patterns of"
                " layers' names; copy it again"
            )
    return found


def _idle(name: str, value: Any) -> bool:
    if name == "modules_to_save" and isinstance(value, list):
        return set(value) <= {QFORMER_PREFIX.rstrip(".")}  # the Q-Former is looked for by itself
    return not value or value in _NEUTRAL.get(name, ())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**31


def _is_pattern(value: Any) -> bool:
    try:
        return all(re.compile(key) and _is_number(number) for key, number in value.items())
    except (AttributeError, TypeError, re.error):
        return False


def as_ours(
    path: Path, found: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[LoraSettings, dict[str, Tensor]]:
    """One rank and one alpha for all layers, and tensors that compute with them what PEFT does with its own.

    Args:
        path: of the settings, for messages.
        found: the settings.
        tensors: `<layer>.lora_A.weight`, `<layer>.lora_B.weight`, by the names in the model that was trained.

    Raises:
        ValueError: a layer's rank is not what the settings say.
    """
    layers = [name.removesuffix(_A) for name in tensors if name.endswith(_A)]
    ranks = {layer: tensors[layer + _A].shape[0] for layer in layers}
    factors: dict[str, float] = {}
    for layer, rank in ranks.items():
        said = _of_layer(found.get("rank_pattern"), layer, found["r"])
        if rank != said:
            raise ValueError(
                f"{path}: {layer} has rank {rank}, the settings say {said}; copy the folder again"
            )
        alpha = _of_layer(found.get("alpha_pattern"), layer, found["lora_alpha"])
        factors[layer] = alpha / (math.sqrt(rank) if found.get("use_rslora") else rank)
    rank = max(ranks.values(), default=int(found["r"]))
    acting = [factor for factor in factors.values() if factor]  # a pattern may switch layers off
    usual = Counter(acting).most_common(1)[0][0] if acting else found["lora_alpha"] / rank
    alpha = round(usual * rank) if abs(usual * rank - round(usual * rank)) < 1e-9 else rank
    made = dict(tensors)
    for layer, factor in factors.items():
        a, b = (tensors.get(layer + end) for end in (_A, _B))
        if a is None or b is None:
            continue  # loading names what is missing
        scale, more = factor / (alpha / rank), rank - ranks[layer]
        if scale != 1:
            b = (b.float() * scale).to(b.dtype)
        if more:
            a = torch.cat([a, a.new_zeros(more, a.shape[1])])
            b = torch.cat([b, b.new_zeros(len(b), more)], dim=1)
        made |= {layer + _A: a, layer + _B: b}
    return LoraSettings(rank, alpha, float(found.get("lora_dropout") or 0.0)), made


_A, _B = ".lora_A.weight", ".lora_B.weight"


def _of_layer(pattern: Any, layer: str, usual: float) -> float:
    """The value of the first pattern whose end the layer's name matches, as PEFT looks them up."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", layer):
            return float(value)
    return usual
