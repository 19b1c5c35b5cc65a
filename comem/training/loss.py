"""Cross-entropy over the vocabulary, in chunks of tokens where the logits would be too large."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def summed_cross_entropy(
    head: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, chunk: int = 0
) -> Tensor:
    """Summed cross-entropy of `targets` `(a,)` under `head(hidden)`, hidden `(a, d)`.

    Args:
        head: hidden states to logits over the vocabulary `(a, v)`.
        chunk: tokens whose logits exist at a time, forward and backward: each chunk's are computed again for
            the backward pass. At 7B a token's logits, their float32 copy and gradient take 1.5 MB. 0: all.
    """
    if not chunk or len(targets) <= chunk:
        return _summed(head, hidden, targets)
    parts = zip(hidden.split(chunk), targets.split(chunk), strict=True)
    losses = [checkpoint(_summed, head, *part, use_reentrant=False) for part in parts]
    return torch.stack(losses).sum()


def _summed(head: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(head(hidden).float(), targets, reduction="sum")
