"""A PEFT adapter's settings: computed as PEFT itself computes with them, or refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from comem.compat.peft_settings import as_ours, read_peft_settings
from comem.memory.lora import adapters_on, add_lora, load_lora_state

PLAIN = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "target_modules": ["up", "down"]}


class Layers(nn.Module):
    """Two layers, as PEFT and we adapt them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ModuleDict({"up": nn.Linear(6, 10), "down": nn.Linear(10, 6)})
        self.second = nn.ModuleDict({"up": nn.Linear(6, 10), "down": nn.Linear(10, 6)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in (self.first, self.second):
            x = x + block["down"](block["up"](x))
        return x


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(PLAIN | changes))
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_rslora": True},
        {"use_rslora": True, "lora_alpha": 7},
        {"alpha_pattern": {"up": 32}},
        {"alpha_pattern": {"first.down": 2, "down": 64}},
        {"rank_pattern": {"second.up": 2}, "alpha_pattern": {"second.up": 3}},
        {"rank_pattern": {r"first\..*": 8}, "use_rslora": True},
        {"alpha_pattern": {r"^second\.(up|down)": 32}, "lora_alpha": -8.5},
        {"alpha_pattern": {"up": 0, "down": 0}, "target_modules": "all-linear"},
        {
            "init_lora_weights": "gaussian",
            "lora_dropout": 0.1,
            "layers_pattern": None,
            "fan_in_fan_out": False,
        },
    ],
)
def test_what_is_used_computes_as_pefts_own(tmp_path: Path, changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    base = Layers()
    ours = copy.deepcopy(base)
    names = {name: value for name, value in (PLAIN | changes).items() if name != "peft_type"}
    theirs = get_peft_model(base, LoraConfig(**names)).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if ".lora_" in name:
                parameter.normal_(std=0.3)
    tensors = {
        name.removeprefix("base_model.model.").replace(".default.", "."): tensor
        for name, tensor in theirs.state_dict().items()
        if ".lora_" in name
    }
    path = written(tmp_path, **changes)
    settings, made = as_ours(path, read_peft_settings(path), tensors)
    if not changes:
        assert (settings.rank, settings.alpha) == (4, 8) and all(made[n] is t for n, t in tensors.items())
    add_lora(ours, settings)
    load_lora_state(ours, made)
    x = torch.randn(5, 6)
    with torch.no_grad(), adapters_on(ours.eval()):
        assert torch.allclose(ours(x), theirs(x), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "use_dora=True changes what the adapter computes"),
        ({"bias": "lora_only"}, "bias='lora_only'"),
        ({"bias": "all"}, "bias='all'"),
        ({"lora_bias": True}, "lora_bias=True"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out=True"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4'"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"target_parameters": ["experts"]}, "target_parameters"),
        ({"a_setting_of_tomorrow": 2}, "a_setting_of_tomorrow=2"),
        ({"peft_type": "IA3"}, "kind 'IA3'; only LoRA"),
        ({"r": 0}, "r is 0"),
        ({"r": "4"}, "r is '4'"),
        ({"lora_alpha": None}, "lora_alpha is None"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"lora_alpha": 10**400}, "lora_alpha is 1000"),
        ({"lora_alpha": 0}, "lora_alpha is 0"),
        ({"lora_dropout": "x"}, "lora_dropout is 'x'"),
        ({"rank_pattern": [1]}, r"rank_pattern is \[1\]"),
        ({"rank_pattern": {"up": "2"}}, "rank_pattern is"),
        ({"alpha_pattern": "up"}, "alpha_pattern is 'up'"),
        ({"alpha_pattern": {"(": 2}}, "alpha_pattern is"),
        ({"alpha_pattern": {"up": float("inf")}}, "alpha_pattern is"),
        ({"loftq_config": {"loftq_bits": 4}}, "loftq_config"),
        ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_peft_settings(written(tmp_path, **changes))


def test_the_q_formers_own_weights_may_be_saved(tmp_path: Path) -> None:
    read_peft_settings(written(tmp_path, modules_to_save=["knowledge_processor"]))
    (tmp_path / "adapter_config.json").write_text("[1]")
    with pytest.raises(ValueError, match="no settings of an adapter"):
        read_peft_settings(tmp_path / "adapter_config.json")


def test_a_rank_that_is_not_what_was_said(tmp_path: Path) -> None:
    path = written(tmp_path)
    tensors = {"up.lora_A.weight": torch.zeros(3, 6), "up.lora_B.weight": torch.zeros(10, 3)}
    with pytest.raises(ValueError, match="up has rank 3, the settings say 4"):
        as_ours(path, read_peft_settings(path), tensors)
