"""Questions that learn what the frozen reader says without items, instead of the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Plain:
    """What the reader reads without items.

    Attributes:
        inputs: the reader's inputs for t questions, `labels` among them.
        rows: which questions of the batch these are, t of them, ascending.
    """

    inputs: Mapping[str, Tensor]
    rows: tuple[int, ...]


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher ‖ student) of each token's distributions.

    Args:
        student, teacher: logits `(a, v)`.

    Returns:
        `(a,)`, in nats; 0 where the logits are equal.
    """
    ours, theirs = student.float().log_softmax(dim=-1), teacher.float().log_softmax(dim=-1)
    return F.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=-1)
