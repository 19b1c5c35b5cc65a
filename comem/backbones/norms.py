"""RMSNorm by torch's own kernel, set on the modules of a transformers model."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def fuse_norms(model: nn.Module) -> int:
    """Compute every RMSNorm of transformers by torch's kernel: one pass instead of seven, no float32 copy.

    Returns:
        How many modules changed: none the second time.
    """
    norms = [module for module in model.modules() if _is_rms_norm(module) and "forward" not in vars(module)]
    for norm in norms:
        norm.forward = partial(_rms_norm, norm)  # type: ignore[method-assign]
    return len(norms)


def _is_rms_norm(module: nn.Module) -> bool:
    """Llama's form of it, which the Qwen models share: `weight * x / rms(x)`."""
    return type(module).__name__.endswith("RMSNorm") and {"variance_epsilon"} <= vars(module).keys()


def _rms_norm(norm: Any, hidden: Tensor) -> Tensor:
    weight = norm.weight.to(hidden.dtype)
    with torch.autocast(hidden.device.type, enabled=False):  # which would make float32 of it
        return F.rms_norm(hidden, weight.shape, weight, norm.variance_epsilon)
