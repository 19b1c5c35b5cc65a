"""Learning rate and parameter groups."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from comem.training.schedule import lr_factor, parameter_groups, run_part
from comem.training.settings import OptimSettings


def test_progress_counts_from_the_middle_of_a_step() -> None:
    assert run_part(0, 4) == 0.125
    assert run_part(3, 4) == 0.875


def test_progress_follows_the_clock_where_it_is_further() -> None:
    assert run_part(0, 100, elapsed=30, max_seconds=60) == 0.5
    assert run_part(80, 100, elapsed=30, max_seconds=60) == pytest.approx(0.805)
    assert run_part(1, 100, elapsed=90, max_seconds=60) == 1.0


@pytest.mark.parametrize("schedule, middle", [("cosine", 0.5), ("linear", 0.5), ("constant", 1.0)])
def test_lr_warms_up_then_decays(schedule: str, middle: float) -> None:
    settings = OptimSettings(warmup=0.1, schedule=schedule)  # type: ignore[arg-type]
    assert lr_factor(0.05, settings) == pytest.approx(0.5)
    assert lr_factor(0.1, settings) == pytest.approx(1.0)
    assert lr_factor(0.55, settings) == pytest.approx(middle)


def test_groups_rates_and_decay() -> None:
    class Toy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.latents = nn.Parameter(torch.zeros(1, 2, 4))
            self.proj = nn.Linear(4, 4)
            self.norm = nn.LayerNorm(4)
            self.layer = nn.Module()
            self.layer.lora_A = nn.Linear(4, 2, bias=False)
            self.frozen = nn.Linear(4, 4).requires_grad_(False)

    groups = parameter_groups(Toy().named_parameters(), OptimSettings(lr=1.0, lora_lr=2.0, latents_lr=3.0))
    found = {name: (g["lr"], g["weight_decay"]) for g in groups for name in g["names"]}  # type: ignore[attr-defined]
    assert found == {
        "latents": (3.0, 0.0),
        "proj.weight": (1.0, 0.1),
        "proj.bias": (1.0, 0.0),
        "norm.weight": (1.0, 0.0),
        "norm.bias": (1.0, 0.0),
        "layer.lora_A.weight": (2.0, 0.1),
    }


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="optim.warmup=1.5"):
        OptimSettings(warmup=1.5)
    with pytest.raises(ValueError, match="known: cosine"):
        OptimSettings(schedule="cosin")  # type: ignore[arg-type]
