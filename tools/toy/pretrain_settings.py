"""What the embedded backbone's training depends on: its settings, its optimizers and their learning rates."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Settings:
    """Everything that a run depends on."""

    steps: int = 3000
    vision_steps: int = 600
    lr: float = 2e-3
    muon_lr: float = 3e-3
    vision_scale: float = 0.1
    warmup: int = 40
    weight_decay: float = 0.02
    hidden: int = 128
    layers: int = 5
    entities: int = 4500
    views: int = 8
    seed: int = 0


def make_optimizers(model: nn.Module, settings: Settings) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for the rest; the vision tower, which can see by now, goes slower."""
    s, parts = settings, defaultdict[str, list[nn.Parameter]](list)
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim == 2 and "embed" not in name
        parts[("seeing" if "visual" in name else "reading") + (" matrix" if matrix else "")].append(parameter)
    words: list[dict[str, Any]] = [
        {"params": parts["reading"]},
        {"params": parts["seeing"], "lr": s.lr * s.vision_scale / 3},
    ]
    matrices: list[dict[str, Any]] = [
        {"params": parts["reading matrix"]},
        {"params": parts["seeing matrix"], "lr": s.muon_lr * s.vision_scale},
    ]
    decay, rule = s.weight_decay, "match_rms_adamw"
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(words, lr=s.lr, betas=(0.9, 0.98), weight_decay=decay),
        torch.optim.Muon(matrices, lr=s.muon_lr, weight_decay=decay, adjust_lr_fn=rule),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["start"] = group["lr"]
    return optimizers


def set_rates(optimizers: Sequence[torch.optim.Optimizer], settings: Settings, step: int) -> None:
    """Warm up, then fall along a cosine to a fiftieth at the last step."""
    share = min(step / settings.steps, 1.0)
    scale = min(1.0, (step + 1) / settings.warmup) * (0.5 + 0.5 * math.cos(math.pi * share))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["start"] * max(scale, 0.02)
