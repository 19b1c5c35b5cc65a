"""Learning rate by progress, and the parameter groups of AdamW."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import nn

from comem.training.settings import OptimSettings


def run_part(step: int, total_steps: int, elapsed: float = 0.0, max_seconds: float = 0.0) -> float:
    """How far the run is, in [0, 1]: by steps, or by the clock where that is further.

    A step counts from its middle, (step + ½) / total, so neither the first nor the last one is
    wasted on a rate of zero.
    """
    by_steps = (step + 0.5) / max(total_steps, 1)
    by_clock = elapsed / max_seconds if max_seconds > 0 else 0.0
    return min(1.0, max(by_steps, by_clock))


def lr_factor(at: float, settings: OptimSettings) -> float:
    """The factor on the learning rate at progress `at`: linear warm-up, then the decay."""
    if at < settings.warmup:
        return at / settings.warmup
    rest = (at - settings.warmup) / (1.0 - settings.warmup)
    if settings.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * rest))
    return 1.0 - rest if settings.schedule == "linear" else 1.0


def _part(name: str) -> str:
    """Which learning rate a parameter follows: latents, lora or qformer."""
    if name.split(".")[-1] == "latents":
        return "latents"
    return "lora" if ".lora_" in name else "qformer"


def _decays(name: str, parameter: nn.Parameter) -> bool:
    """Matrices decay; norms, biases, scales (fewer than two dimensions) and latents do not."""
    return parameter.ndim >= 2 and _part(name) != "latents"


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], settings: OptimSettings
) -> list[dict[str, object]]:
    """AdamW groups over the trainable parameters; each keeps its names and its peak rate `base_lr`."""
    groups: dict[tuple[str, bool], dict[str, object]] = {}
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        part, decays = _part(name), _decays(name, parameter)
        lr = getattr(settings, f"{part}_lr")
        lr = settings.lr if lr is None else lr
        group = groups.setdefault(
            (part, decays),
            {
                "params": [],
                "names": [],
                "part": part,
                "lr": lr,
                "base_lr": lr,
                "weight_decay": settings.weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)  # type: ignore[attr-defined]
        group["names"].append(name)  # type: ignore[attr-defined]
    return list(groups.values())
