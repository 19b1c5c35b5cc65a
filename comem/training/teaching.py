"""A teacher beside the answer: the same frozen reader, with items in its context as plain RAG has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Teaching:
    """What the teacher reads for some of a batch's questions, and how much it and the answer count.

    Attributes:
        inputs: the reader's inputs for t questions behind their items' turns, `labels` among them.
        rows: which questions of the batch these are, t of them, ascending.
        teacher_weights: weight of each question's divergence from the teacher, `(b,)`.
        answer_weights: weight of each question's cross-entropy, `(b,)`.
    """

    inputs: Mapping[str, Tensor]
    rows: tuple[int, ...]
    teacher_weights: Tensor
    answer_weights: Tensor


def divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T² · KL(teacher ‖ student) of each token's distributions, both softened by T (arXiv 1503.02531, 2).

    Args:
        student, teacher: logits `(a, v)`.

    Returns:
        `(a,)`, in nats; 0 where the logits are equal.
    """
    ours = (student.float() / temperature).log_softmax(dim=-1)
    theirs = (teacher.float() / temperature).log_softmax(dim=-1)
    return temperature**2 * F.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=-1)


def taught_rows(rows: Tensor, taught: tuple[int, ...]) -> Tensor:
    """Which answer tokens belong to questions that have a teacher.

    Args:
        rows: the question of each answer token, `(a,)`.

    Returns:
        `(a,)`, bool.
    """
    return torch.isin(rows, torch.tensor(taught, device=rows.device))
