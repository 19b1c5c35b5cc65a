"""The Q-Former against a plain reading of the authors' definition, and its invariances."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from comem.memory.qformer import QFormer, QFormerConfig, token_embedding_scale

SMALL = {"num_queries": 4, "depth": 3, "heads": 4}


def plain(qformer: QFormer, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """authors_code.md 1.3 word for word: one item, keys and values computed anew in every iteration."""
    config = qformer.config
    x, latents = qformer.proj_in(hidden)[None], qformer.latents
    for step in range(config.depth):
        attn, ff = (
            qformer.layers[0 if config.shared else 2 * step],
            qformer.layers[1 if config.shared else 2 * step + 1],
        )
        normed = attn.norm2(latents)
        q = attn.to_q(normed)
        k, v = attn.to_kv(torch.cat([attn.norm1(x), normed], dim=1)).chunk(2, dim=-1)
        q, k, v = (t.view(1, -1, config.heads, config.head_width).transpose(1, 2) for t in (q, k, v))
        logits = q @ k.transpose(-2, -1) / config.head_width**0.5
        keep = torch.cat([mask, torch.ones(config.num_queries, dtype=torch.bool)])
        weights = logits.masked_fill(~keep, float("-inf")).softmax(-1)
        latents = attn.to_out((weights @ v).transpose(1, 2).flatten(2)) + latents
        latents = ff(latents) + latents
    return qformer.norm_out(qformer.proj_out(latents))[0]


def lively(config: QFormerConfig) -> QFormer:
    qformer = QFormer(config)
    with torch.no_grad():
        for p in qformer.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return qformer


@pytest.mark.parametrize("shared", [True, False])
def test_masked_batch_equals_the_definition_item_by_item(shared: bool) -> None:
    qformer = lively(QFormerConfig(32, shared=shared, **SMALL))
    hidden, mask = torch.randn(3, 9, 32), torch.ones(3, 9, dtype=torch.bool)
    mask[0, :4] = mask[2, :8] = False
    memory = qformer(hidden, mask)
    for row in range(3):
        assert torch.allclose(memory[row], plain(qformer, hidden[row], mask[row]), atol=1e-5)


def test_padding_does_not_leak() -> None:
    qformer = lively(QFormerConfig(32, **SMALL))
    hidden, mask = torch.randn(1, 6, 32), torch.ones(1, 6, dtype=torch.bool)
    padded = torch.cat([torch.full((1, 5, 32), 1e4), hidden], dim=1)
    assert torch.allclose(qformer(padded, nn.functional.pad(mask, (5, 0))), qformer(hidden, mask), atol=1e-6)
    assert torch.equal(qformer(hidden), qformer(hidden, mask))


def test_keys_and_values_of_the_item_are_computed_once() -> None:
    for shared, expected in ((True, 1), (False, 3)):
        qformer = QFormer(QFormerConfig(32, shared=shared, **SMALL))
        lengths: list[int] = []
        for block in list(qformer.layers)[::2]:
            block.to_kv.register_forward_hook(lambda m, a, out, seen=lengths: seen.append(out.shape[1]))
        qformer(torch.randn(2, 9, 32))
        assert lengths.count(9) == expected


def test_names_and_sizes_are_those_of_released_checkpoints() -> None:
    """authors_code.md 7.2: 18 tensors, 179,895,296 parameters at width 3584."""
    with torch.device("meta"):
        qformer = QFormer(QFormerConfig(3584))
    shapes = {name: tuple(p.shape) for name, p in qformer.named_parameters()}
    assert len(shapes) == 18
    assert sum(p.numel() for p in qformer.parameters()) == 179_895_296
    assert shapes["latents"] == (1, 8, 3584)
    assert shapes["layers.0.to_kv.weight"] == (7168, 3584)
    assert shapes["layers.1.1.weight"] == (14336, 3584)
    assert shapes["layers.1.3.weight"] == (3584, 14336)
    assert not {"layers.0.to_q.bias", "layers.1.1.bias"} & set(shapes)


def test_other_reader_width_and_output_scale() -> None:
    table = nn.Embedding(50, 48)
    qformer = QFormer(QFormerConfig(32, output_size=48, output_scale=token_embedding_scale(table), **SMALL))
    memory = qformer(torch.randn(2, 5, 32))
    assert memory.shape == (2, 4, 48)
    assert memory.norm(dim=-1).mean().item() == pytest.approx(
        table.weight.norm(dim=-1).mean().item(), rel=0.05
    )
    memory.sum().backward()
    assert qformer.output_scale.grad is not None


def test_half_precision_stays_finite() -> None:
    qformer = QFormer(QFormerConfig(32, **SMALL)).to(torch.bfloat16)
    mask = torch.zeros(1, 5, dtype=torch.bool)  # an item of padding only: the queries attend to themselves
    assert qformer(torch.randn(1, 5, 32).bfloat16(), mask).isfinite().all()


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="heads=16"):
        QFormerConfig(100)
    with pytest.raises(ValueError, match="depth=0"):
        QFormerConfig(64, depth=0)
    qformer = QFormer(QFormerConfig(32, **SMALL))
    with pytest.raises(ValueError, match="another width"):
        qformer(torch.randn(1, 5, 64))
    with pytest.raises(ValueError, match="mask has shape"):
        qformer(torch.randn(1, 5, 32), torch.ones(1, 4, dtype=torch.bool))


def follows_the_item(qformer: QFormer) -> float:
    """How much of the memory's size changes from one item to another, at the start."""
    memory = qformer(torch.randn(2, 40, 32, generator=torch.Generator().manual_seed(0)))
    return ((memory[0] - memory[1]).norm() / memory[0].norm()).item()


@pytest.mark.parametrize("shared", [True, False])
def test_a_start_near_the_identity_shows_the_item_in_the_memory(shared: bool) -> None:
    torch.manual_seed(0)
    qformer = QFormer(QFormerConfig(32, shared=shared, heads=4, depth=4))
    before = follows_the_item(qformer)
    qformer.start_near_identity()
    assert follows_the_item(qformer) > 5 * before
    with pytest.raises(ValueError, match="square"):
        QFormer(QFormerConfig(32, output_size=48, heads=4)).start_near_identity()
