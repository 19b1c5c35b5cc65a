"""A resampler whose vectors each start over a stretch of their own: for readers that nobody taught.

A pretrained language model reads means of its own token embeddings at once, as long as each covers few
tokens, and reads nothing of vectors that all start alike (docs/pretrained_readers.md). So vector `j` of `q`
starts as the mean of the token embeddings of the j-th of q equal stretches of the item, brought to the norm
of the reader's own embeddings; what the blocks add to it starts at zero, and each of their heads looks at the
stretch's surroundings to another distance. The same weights write any number of vectors: few can be learned
by way of many.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comem.backbones.flops import Flops, attention_flops

#: How much a head's attention falls with each stretch of distance, from the nearest head to the widest.
SLOPES = (4.0, 4.0, 4.0, 2.0, 1.0, 0.5, 0.2, 0.0, 0.0)
_HIDDEN = -1e9  # added to the logits of what is not to be seen


@dataclass(frozen=True)
class StretchConfig:
    """Sizes of a `StretchFormer`.

    Attributes:
        hidden_size: width `d` of the encoder's hidden states.
        num_queries: vectors of an item, `q`, unless another number is asked for.
        depth: blocks of attention and MLP.
        heads: attention heads.
        ff_mult: the MLP's inner width as a multiple of `hidden_size`.
        output_size: width that the reader expects; None for `hidden_size`, and no projection.
        output_scale: what a vector of norm √d is multiplied with, to have the norm of a token embedding.
        most: the largest number of vectors, and the farthest distance to a stretch's end that counts.
        layers: so many of the model's lowest layers read the item; 0 for all.
    """

    hidden_size: int
    num_queries: int = 8
    depth: int = 2
    heads: int = 9
    ff_mult: int = 2
    output_size: int | None = None
    output_scale: float = 1.0
    most: int = 64
    layers: int = 0

    def __post_init__(self) -> None:
        for name in ("hidden_size", "num_queries", "depth", "heads", "ff_mult", "most"):
            if getattr(self, name) < 1:
                raise ValueError(f"stretches: {name}={getattr(self, name)}: must be at least 1")
        if self.hidden_size % self.heads:
            raise ValueError(
                f"stretches: hidden_size={self.hidden_size} is not a multiple of heads={self.heads}: "
                "set qformer.heads to a divisor"
            )
        if self.num_queries > self.most:
            raise ValueError(f"stretches: num_queries={self.num_queries} is above most={self.most}")

    @property
    def width_out(self) -> int:
        """Width of a memory's vectors."""
        return self.output_size or self.hidden_size

    def flops(self, tokens: int) -> Flops:
        """Operations over one item of `tokens` hidden states; all of it is trained."""
        d, q, pairs = self.hidden_size, self.num_queries, self.num_queries * tokens
        step = q * (2 + 2 * self.ff_mult) * d * d + 2 * (tokens + q) * d * d
        products = 2 * tokens * d * d + 2 * pairs * d + q * d * d + self.depth * step
        products += q * d * (self.output_size or 0)
        return Flops(trained=2.0 * products) + attention_flops(self.depth * q * (tokens + q), d)


class Block(nn.Module):
    """The vectors attend to the item's tokens and to themselves, then an MLP; both start by adding zero."""

    def __init__(self, config: StretchConfig) -> None:
        super().__init__()
        d, inner = config.hidden_size, config.hidden_size * config.ff_mult
        self.heads = config.heads
        self.norm_q, self.norm_mlp = nn.LayerNorm(d), nn.LayerNorm(d)
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(d, d, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(d, inner), nn.Linear(inner, d, bias=False)
        nn.init.zeros_(self.to_out.weight)
        nn.init.zeros_(self.down.weight)

    def forward(self, vectors: Tensor, tokens: Tensor, bias: Tensor) -> Tensor:
        """One step.

        Args:
            vectors: `(n, q, d)`.
            tokens: the item's, `(n, l, d)`.
            bias: added to the logits, `(n, heads, q, l + q)`.

        Returns:
            `(n, q, d)`.
        """
        normed = self.norm_q(vectors)
        read = torch.cat([tokens, normed], dim=1)
        q, k, v = self._split(self.to_q(normed)), self._split(self.to_k(read)), self._split(self.to_v(read))
        logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        weights = (logits.float() + bias).softmax(-1).to(v.dtype)
        vectors = vectors + self.to_out((weights @ v).transpose(1, 2).flatten(2))
        changed: Tensor = vectors + self.down(F.gelu(self.up(self.norm_mlp(vectors))))
        return changed

    def _split(self, x: Tensor) -> Tensor:
        parts: Tensor = x.unflatten(-1, (self.heads, -1))  # type: ignore[no-untyped-call]
        return parts.transpose(1, 2)


class StretchFormer(nn.Module):
    """Hidden states and token embeddings `(n, l, d)` to memory `(n, q, d_out)`, for any q up to `most`."""

    def __init__(self, config: StretchConfig) -> None:
        super().__init__()
        self.config = config
        d = config.hidden_size
        self.norm_hidden, self.norm_embedded = nn.LayerNorm(d), nn.LayerNorm(d)
        self.from_hidden, self.from_embedded = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)
        self.place = nn.Parameter(torch.randn(config.most, d) * 0.02)  # by the distance to the stretch's end
        self.skip = nn.Linear(d, d, bias=False)  # from the mean of a stretch's hidden states
        nn.init.zeros_(self.skip.weight)
        self.latents = nn.Parameter(torch.zeros(config.most, d))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.project = None if config.output_size is None else nn.Linear(d, config.output_size, bias=False)
        self.slopes = tuple(SLOPES[head * len(SLOPES) // config.heads] for head in range(config.heads))

    def forward(self, hidden: Tensor, embedded: Tensor, mask: Tensor, count: int = 0) -> Tensor:
        """Read all items in one call; an item's memory does not depend on its neighbours or its padding.

        Args:
            hidden: the encoder's last hidden states `(n, l, d)`.
            embedded: what its first layer was given, `(n, l, d)`.
            mask: `(n, l)`, True at the tokens that are to be remembered.
            count: vectors of an item; 0 for `num_queries`.

        Returns:
            Memory `(n, q, d_out)`.

        Raises:
            ValueError: on a count beyond `most`, another width, or shapes that do not go together.
        """
        config, q = self.config, count or self.config.num_queries
        if hidden.shape != embedded.shape or mask.shape != hidden.shape[:2]:
            raise ValueError(
                f"hidden states {tuple(hidden.shape)}, embeddings {tuple(embedded.shape)} and mask "
                f"{tuple(mask.shape)} do not go together"
            )
        if hidden.shape[-1] != config.hidden_size:
            raise ValueError(
                f"hidden states of width {hidden.shape[-1]}, this memory reads {config.hidden_size}"
            )
        if not 1 <= q <= config.most:
            raise ValueError(f"{q} vectors an item: this memory writes 1 to {config.most}")
        own, end = stretches(mask, q)  # (n, l) each
        share = F.one_hot(own, q).float() * mask[..., None]  # (n, l, q)
        share = (share / share.sum(1, keepdim=True).clamp(min=1)).transpose(1, 2).to(embedded.dtype)
        normed = self.norm_hidden(hidden)
        place = self.place[end.clamp(0, config.most - 1)].to(embedded.dtype)
        tokens = self.from_hidden(normed) + self.from_embedded(self.norm_embedded(embedded)) + place
        start = share @ embedded
        norm = start.float().norm(dim=-1, keepdim=True).clamp(min=1e-3).to(start.dtype)
        vectors = start / norm * config.hidden_size**0.5
        vectors = vectors + self.skip(share @ normed) + self.latents[:q].to(vectors.dtype)
        bias = self._bias(own, mask, q)
        for block in self.blocks:
            vectors = block(vectors, tokens, bias)
        vectors = vectors * config.output_scale
        memory: Tensor = vectors if self.project is None else self.project(vectors)
        return memory

    def _bias(self, own: Tensor, mask: Tensor, q: int) -> Tensor:
        """By the distance between a vector's stretch and what it looks at, `(n, heads, q, l + q)`."""
        slopes = torch.tensor(self.slopes, device=own.device)[:, None, None]
        queries = torch.arange(q, device=own.device)
        to_tokens = (own[:, None, :] - queries[:, None]).abs()  # (n, q, l)
        between = (queries[None] - queries[:, None]).abs().expand(len(own), -1, -1)  # (n, q, q)
        bias = -slopes * torch.cat([to_tokens, between], dim=-1)[:, None]
        return bias.masked_fill(~F.pad(mask, (0, q), value=True)[:, None, None], _HIDDEN)


def stretches(mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Which of `count` equal stretches each token of a row lies in, and how far it is from that one's end.

    Args:
        mask: `(n, l)`, True at the tokens that count; padding may lie on either side.
        count: of the stretches; those beyond a row's tokens are empty.

    Returns:
        Two `(n, l)` of integers; arbitrary where the mask is False.
    """
    at = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
    length = mask.sum(dim=1, keepdim=True).clamp(min=1)
    own = (at * count // length).clamp(max=count - 1)
    return own, ((own + 1) * length + count - 1) // count - 1 - at
