"""The Q-Former: 8 learned queries read one item's hidden states and become its memory (paper, section 3).

A perceiver resampler of the IP-Adapter lineage. Parameter names and numerics are those of the
authors' released checkpoints, so their tensors load unchanged. What differs is only work saved: all
items of a batch go through in one masked call, and the keys and values of the hidden states, equal in
all iterations of a shared block, are computed once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from comem.backbones.flops import Flops, attention_flops


@dataclass(frozen=True)
class QFormerConfig:
    """Sizes of a Q-Former.

    Attributes:
        hidden_size: width `d` of the encoder's hidden states.
        num_queries: memory embeddings per item, `q`.
        depth: how often attention + MLP are applied.
        heads: attention heads.
        dim_head: width of one head; None for `hidden_size // heads`.
        ff_mult: the MLP's inner width as a multiple of `hidden_size`.
        shared: one block applied `depth` times (the paper), or `depth` blocks.
        output_size: width that the reader expects; None for `hidden_size`.
        output_scale: start value of a learned factor on the output; None for no factor, as the
            authors (whose memory has norm √d, far from that of token embeddings).
    """

    hidden_size: int
    num_queries: int = 8
    depth: int = 8
    heads: int = 16
    dim_head: int | None = None
    ff_mult: int = 4
    shared: bool = True
    output_size: int | None = None
    output_scale: float | None = None

    def __post_init__(self) -> None:
        for name in ("hidden_size", "num_queries", "depth", "heads", "ff_mult"):
            if getattr(self, name) < 1:
                raise ValueError(f"Q-Former {name}={getattr(self, name)}: must be at least 1")
        for name in ("dim_head", "output_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"Q-Former {name}={value}: must be at least 1, or None")
        if self.dim_head is None and self.hidden_size % self.heads:
            raise ValueError(
                f"Q-Former hidden_size={self.hidden_size} is not a multiple of heads={self.heads}: "
                "choose another number of heads, or give dim_head"
            )

    @property
    def head_width(self) -> int:
        """Width of an attention head."""
        return self.dim_head or self.hidden_size // self.heads

    @property
    def width_out(self) -> int:
        """Width of a memory's embeddings."""
        return self.output_size or self.hidden_size

    def flops(self, tokens: int) -> Flops:
        """Operations over one item of `tokens` hidden states; all of it is trained."""
        d, q = self.hidden_size, self.num_queries
        inner = self.heads * self.head_width
        read = 2 * d * inner * tokens * (1 if self.shared else self.depth)  # keys and values of the item
        step = q * (d * inner + 2 * d * inner + inner * d + 2 * d * d * self.ff_mult)
        products = d * d * tokens + read + self.depth * step + q * d * self.width_out
        return Flops(trained=2.0 * products) + attention_flops(self.depth * q * (tokens + q), inner)


class CrossAttention(nn.Module):
    """Queries attend to an item's hidden states and to themselves; biases only in the norms."""

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        d, inner = config.hidden_size, config.heads * config.head_width
        self.heads, self.dim_head = config.heads, config.head_width
        self.norm1 = nn.LayerNorm(d)
        self.norm2 = nn.LayerNorm(d)
        self.to_q = nn.Linear(d, inner, bias=False)
        self.to_kv = nn.Linear(d, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, d, bias=False)

    def keys_values(self, normed: Tensor) -> tuple[Tensor, Tensor]:
        """`(n, l, d)` to keys and values, each `(n, heads, l, dim_head)`."""
        k, v = self.to_kv(normed).chunk(2, dim=-1)
        return self._split(k), self._split(v)

    def read(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the hidden states `(n, l, d)`: constant over the iterations."""
        return self.keys_values(self.norm1(hidden))

    def forward(self, latents: Tensor, cached: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """One attention step.

        Args:
            latents: `(n, q, d)`.
            cached: keys and values of the hidden states, each `(n, heads, l, dim_head)`.
            mask: `(n, 1, 1, l + q)`, True where attended.

        Returns:
            `(n, q, d)`, without the residual.
        """
        normed = self.norm2(latents)
        own_k, own_v = self.keys_values(normed)
        k = torch.cat([cached[0], own_k], dim=2)
        v = torch.cat([cached[1], own_v], dim=2)
        scale = self.dim_head**-0.25  # on both sides: keeps half-precision products in range
        logits = (self._split(self.to_q(normed)) * scale) @ (k * scale).transpose(-2, -1)
        logits = logits.masked_fill(~mask, -torch.finfo(logits.dtype).max)
        weights = logits.float().softmax(dim=-1).to(logits.dtype)
        out = (weights @ v).transpose(1, 2).flatten(2)
        return cast(Tensor, self.to_out(out))

    def _split(self, x: Tensor) -> Tensor:
        parts: Tensor = x.unflatten(-1, (self.heads, self.dim_head))  # type: ignore[no-untyped-call]
        return parts.transpose(1, 2)


def _feed_forward(config: QFormerConfig) -> nn.Sequential:
    d, inner = config.hidden_size, config.hidden_size * config.ff_mult
    return nn.Sequential(
        nn.LayerNorm(d), nn.Linear(d, inner, bias=False), nn.GELU(), nn.Linear(inner, d, bias=False)
    )


class QFormer(nn.Module):
    """Compresses hidden states `(n, l, d)` to memory `(n, q, d_out)`.

    `layers` holds attention and MLP in turn: two entries when shared (`layers.0`, `layers.1`, the
    names in released checkpoints), otherwise two per iteration.
    """

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__()
        self.config = config
        d = config.hidden_size
        self.latents = nn.Parameter(torch.randn(1, config.num_queries, d) / d**0.5)
        self.proj_in = nn.Linear(d, d)
        blocks = 1 if config.shared else config.depth
        self.layers = nn.ModuleList(
            layer for _ in range(blocks) for layer in (CrossAttention(config), _feed_forward(config))
        )
        self.proj_out = nn.Linear(d, config.width_out)
        self.norm_out = nn.LayerNorm(config.width_out)
        if config.output_scale is not None:
            self.output_scale = nn.Parameter(torch.tensor(float(config.output_scale)))
        self.apply(_init_linear)

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """Read all items in one call; an item's memory does not depend on its neighbours or its padding.

        Args:
            hidden: the encoder's last hidden states `(n, l, d)`, after its final norm.
            mask: `(n, l)`, True at real tokens; None when nothing is padded.

        Returns:
            Memory `(n, q, d_out)`.

        Raises:
            ValueError: on another width, or a mask of another shape.
        """
        keys = self._key_mask(hidden, mask)
        x = self.proj_in(hidden)
        latents = self.latents.expand(len(hidden), -1, -1).to(x.dtype)
        cached = None
        for step in range(self.config.depth):
            block = 0 if self.config.shared else 2 * step
            attention, mlp = self.layers[block], self.layers[block + 1]
            if cached is None or not self.config.shared:
                cached = attention.read(x)  # type: ignore[operator]
            latents = attention(latents, cached, keys) + latents
            latents = mlp(latents) + latents
        memory: Tensor = self.norm_out(self.proj_out(latents))
        if self.config.output_scale is not None:
            memory = memory * self.output_scale.to(memory.dtype)
        return memory

    @torch.no_grad()
    def start_near_identity(self) -> None:
        """Add the identity to the way from hidden states to memory, so that each query starts as their mean.

        With the authors' start N(0, 0.02) what a query has read is small against what it is itself, and
        all queries say nearly the same whatever the item. Ours, not in the paper: at the embedded size
        it is what lets the memory be learned within minutes (docs/embedded_models.md).

        Raises:
            ValueError: if a projection on the way is not square (dim_head, or a reader of another width).
        """
        ways = [self.proj_in.weight, self.proj_out.weight]
        for attention in self.layers[::2]:
            values = attention.to_kv.weight.chunk(2)[1]  # type: ignore[union-attr, operator]
            ways += [values, attention.to_out.weight]  # type: ignore[union-attr, list-item]
        for weight in ways:
            if weight.shape[0] != weight.shape[1]:
                raise ValueError(f"a start near the identity needs square weights, not {tuple(weight.shape)}")
            weight.add_(torch.eye(len(weight), dtype=weight.dtype, device=weight.device))

    def _key_mask(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """`(n, 1, 1, l + q)`: the given mask over the item, always True over the queries themselves."""
        if hidden.ndim != 3 or hidden.shape[-1] != self.config.hidden_size:
            raise ValueError(
                f"hidden states have shape {tuple(hidden.shape)}, this Q-Former reads "
                f"(n, l, {self.config.hidden_size}): it belongs to an encoder of another width"
            )
        if mask is None:
            mask = hidden.new_ones(hidden.shape[:2], dtype=torch.bool)
        if mask.shape != hidden.shape[:2]:
            raise ValueError(
                f"mask has shape {tuple(mask.shape)}, the hidden states need {tuple(hidden.shape[:2])}"
            )
        return nn.functional.pad(mask.bool(), (0, self.config.num_queries), value=True)[:, None, None, :]


def _init_linear(module: nn.Module) -> None:
    """Linear ~ N(0, 0.02), biases 0, as the authors' start (authors_code.md 1.3)."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def token_embedding_scale(embeddings: nn.Embedding) -> float:
    """The `output_scale` with which memory starts at the mean norm of the token embeddings `(v, d)`.

    The output norm gives each memory embedding the norm √d; learning is faster when it starts near
    that of what the reader knows (design.md, "It learns at tiny size").
    """
    weight = embeddings.weight.detach().float()
    scale = float(weight.norm(dim=-1).mean() / weight.shape[-1] ** 0.5)
    if type(embeddings) is nn.Embedding:
        return scale
    ids = torch.arange(min(64, len(weight)), device=weight.device)  # a table that scales its rows (Gemma 3)
    return scale * float(embeddings(ids).detach().float().norm() / weight[ids].norm())
