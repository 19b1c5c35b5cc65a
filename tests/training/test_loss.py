"""Chunked cross-entropy against the plain one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from comem.training.model import summed_cross_entropy


@pytest.mark.parametrize("chunk", [1, 4, 5, 10, 99])
def test_chunks_change_neither_loss_nor_gradients(chunk: int) -> None:
    head, hidden, targets = nn.Linear(16, 50), torch.randn(10, 16), torch.randint(0, 50, (10,))

    def run(size: int) -> list[Tensor]:
        inputs = hidden.clone().requires_grad_()
        head.zero_grad()
        loss = summed_cross_entropy(head, inputs, targets, size)
        loss.backward()
        return [loss.detach(), inputs.grad, head.weight.grad.clone()]  # type: ignore[list-item, union-attr]

    for mine, plain in zip(run(chunk), run(0), strict=True):
        torch.testing.assert_close(mine, plain, atol=1e-6, rtol=1e-6)


def test_no_more_logits_than_a_chunk() -> None:
    rows: list[int] = []

    def head(hidden: Tensor) -> Tensor:
        rows.append(len(hidden))
        return hidden @ torch.ones(16, 50)

    hidden = torch.randn(10, 16, requires_grad=True)
    summed_cross_entropy(head, hidden, torch.zeros(10, dtype=torch.long), 4).backward()
    assert rows == [4, 4, 2, 2, 4, 4]  # computed again for the backward pass


def test_no_answer_at_all() -> None:
    empty = torch.zeros(0, 16, requires_grad=True)
    loss = summed_cross_entropy(nn.Linear(16, 50), empty, torch.zeros(0, dtype=torch.long), 4)
    assert loss.item() == 0
