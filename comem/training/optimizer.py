"""The optimizer of a run: AdamW, and Muon for the compressor's matrices where the settings ask for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from comem.training.settings import OptimSettings

#: Momentum and iterations of Muon; four of these are as good as five at this size, and a fifth cheaper.
_MUON = {"momentum": 0.9, "ns_steps": 4, "adjust_lr_fn": "original"}


class Together:
    """Optimizers of different parameters, used as one.

    Attributes:
        parts: the optimizers.
    """

    def __init__(self, *parts: Optimizer) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Of all of them, the very dictionaries."""
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        """One step of each."""
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As of an optimizer."""
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)


AnyOptimizer = Optimizer | Together


def parts(optimizer: AnyOptimizer) -> Sequence[Optimizer]:
    """The optimizers in one; itself if it is one alone."""
    return optimizer.parts if isinstance(optimizer, Together) else (optimizer,)


def make_optimizer(groups: Sequence[dict[str, Any]], settings: OptimSettings) -> AnyOptimizer:
    """The optimizer for `comem.training.schedule.parameter_groups`; groups marked `muon` go to Muon."""
    plain = [group for group in groups if not group["muon"]]
    matrices = [group for group in groups if group["muon"]]
    betas = (settings.beta1, settings.beta2)
    if not matrices:
        return torch.optim.AdamW(plain, betas=betas, eps=settings.eps)
    muon = torch.optim.Muon(matrices, **_MUON)  # type: ignore[arg-type]
    return (
        Together(torch.optim.AdamW(plain, betas=betas, eps=settings.eps), muon) if plain else Together(muon)
    )


def state_of(optimizer: AnyOptimizer, parameter: Tensor) -> dict[str, Any]:
    """What an optimizer keeps of a parameter; empty before its first step."""
    return next((part.state[parameter] for part in parts(optimizer) if parameter in part.state), {})
