"""In which number format a run computes."""

from __future__ import annotations

import torch


def use_bf16(precision: str) -> bool:
    """Whether to compute in bf16: on a GPU that can, unless the settings say otherwise."""
    if precision == "auto":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return precision == "bf16"
