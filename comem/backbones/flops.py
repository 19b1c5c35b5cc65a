"""Floating point operations of models, counted from their configs alone.

A multiplication with its addition is two operations, as everywhere in the literature and in torch's
`FlopCounterMode`; norms, activations and rotations are left out (below 1 % at 7B). Nothing is measured here
and no model is built: a config of transformers and lengths are enough. Torch's counter needs a forward pass,
which a plan does not have; the tests hold both side by side. Supported are decoders with gated MLPs (Qwen2,
Qwen2.5, Llama…) and the vision towers of Qwen2-VL and Qwen2.5-VL, window attention included; and InternViT,
for CoMemo.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

Grid = Sequence[int]  # (t, h, w) of an image, in patches


@dataclass(frozen=True)
class Flops:
    """Operations of one forward pass, by how their backward pass counts.

    Attributes:
        frozen: products with weights that are not trained: backward once more, for the inputs.
        trained: products with weights that are: backward twice more, for inputs and weights.
        attention: products of activations with each other: backward twice more.
        inputs: frozen weights that read pixels, which nobody differentiates: no backward.
    """

    frozen: float = 0.0
    trained: float = 0.0
    attention: float = 0.0
    inputs: float = 0.0

    def __add__(self, other: Flops) -> Flops:
        return Flops(*map(sum, zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, times: float) -> Flops:
        return Flops(*(part * times for part in astuple(self)))

    @property
    def forward(self) -> float:
        """Operations of the forward pass alone."""
        return self.frozen + self.trained + self.attention + self.inputs

    @property
    def learning(self) -> Flops:
        """The same with weights that are trained, those that read pixels included."""
        return Flops(trained=self.frozen + self.trained + self.inputs, attention=self.attention)

    def training(self, recompute: bool = False) -> float:
        """Forward and backward; `recompute` adds the forward that activation checkpointing repeats."""
        back = self.frozen + 2 * self.trained + 2 * self.attention
        again = self.forward - self.inputs if recompute else 0.0
        return self.forward + back + again


def linear(fan_in: int, fan_out: int, rows: float, rank: int = 0) -> Flops:
    """A linear layer over `rows` vectors, with a LoRA of that rank beside it (0: none)."""
    return Flops(frozen=2.0 * fan_in * fan_out * rows, trained=2.0 * rank * (fan_in + fan_out) * rows)


def decoder(config: Any, tokens: int, past: int = 0, rank: int = 0, causal: bool = False) -> Flops:
    """A language model's layers over one sequence, without the output layer.

    Args:
        config: the text config (`config.get_text_config()`).
        tokens: positions that go through; 1 for a step of decoding.
        past: positions that the cache holds already.
        rank: of LoRA on every linear layer; 0 for none.
        causal: count only the scores that the causal mask leaves, as kernels that skip the others
            compute; by default all of them, which is the convention of PaLM and of torch's counter.
    """
    width, heads = config.hidden_size, config.num_attention_heads
    size = getattr(config, "head_dim", None) or width // heads
    keys, inner = (getattr(config, "num_key_value_heads", None) or heads) * size, config.intermediate_size
    shapes = [(width, heads * size), (width, keys), (width, keys), (heads * size, width)]
    shapes += [(width, inner), (width, inner), (inner, width)]
    layer = sum((linear(*shape, tokens, rank) for shape in shapes), Flops())
    pairs = tokens * past + (tokens * (tokens + 1) / 2 if causal else tokens * tokens)
    layers: int = config.num_hidden_layers
    return (layer + attention_flops(pairs, heads * size)) * layers


def output_layer(config: Any, rows: int) -> Flops:
    """Logits over the vocabulary for `rows` positions (text config)."""
    return linear(config.hidden_size, config.vocab_size, rows)


def vision_tower(config: Any, grid: Grid, rank: int = 0) -> Flops:
    """One image through the vision tower (`config.vision_config`), its merger included.

    Args:
        config: the vision tower's.
        grid: (t, h, w) in patches, a row of `image_grid_thw`.
        rank: of LoRA on every linear layer; 0 for none.

    Raises:
        ValueError: the vision tower is of another kind.
    """
    kind = getattr(config, "model_type", "")
    if kind not in ("qwen2_5_vl", "qwen2_5_vl_vision", "qwen2_vl", "qwen2_vl_vision"):
        raise ValueError(f"vision tower {kind!r}: operations are known for qwen2_vl and qwen2_5_vl")
    gated = kind.startswith("qwen2_5")
    width = config.hidden_size if gated else config.embed_dim
    inner = config.intermediate_size if gated else int(width * config.mlp_ratio)
    out = config.out_hidden_size if gated else config.hidden_size
    patches, merged = math.prod(grid), config.spatial_merge_size**2
    shapes = [(width, 3 * width), (width, width), (width, inner), (inner, width)]
    shapes += [(width, inner)] if gated else []
    blocks: Flops = sum((linear(*shape, patches, rank) for shape in shapes), Flops()) * config.depth
    full = len(config.fullatt_block_indexes) if gated else config.depth
    pairs = full * grid[0] * (grid[1] * grid[2]) ** 2
    pairs += (config.depth - full) * _window_pairs(config, grid) if gated else 0
    pixels = config.in_channels * config.temporal_patch_size * config.patch_size**2
    merger = linear(width * merged, width * merged, patches / merged, rank)
    merger += linear(width * merged, out, patches / merged, rank)
    return Flops(inputs=2.0 * pixels * width * patches) + blocks + attention_flops(pairs, width) + merger


def tile_tower(config: Any, tiles: int, rank: int = 0) -> Flops:
    """Tiles through InternViT, without the projector (`config.vision_config` of InternVL)."""
    width, inner = config.hidden_size, config.intermediate_size
    high, wide = (size // patch for size, patch in zip(config.image_size, config.patch_size, strict=True))
    tokens = high * wide + 1
    shapes = [*[(width, width)] * 4, (width, inner), (inner, width)]
    layer: Flops = sum((linear(*shape, tokens, rank) for shape in shapes), Flops())
    pixels = config.num_channels * math.prod(config.patch_size)
    layers: Flops = (layer + attention_flops(tokens * tokens, width)) * config.num_hidden_layers
    return (Flops(inputs=2.0 * pixels * width * high * wide) + layers) * tiles


def attention_flops(pairs: float, width: int) -> Flops:
    """Scores and weighted sums for that many pairs of query and key, heads side by side."""
    return Flops(attention=4.0 * pairs * width)


def _window_pairs(config: Any, grid: Grid) -> int:
    """Pairs of patches that see each other under window attention; windows at the edge are smaller."""
    merge = config.spatial_merge_size
    side: int = config.window_size // merge // config.patch_size  # merged cells a window

    def squares(cells: int) -> int:
        whole, rest = divmod(cells, side)
        return whole * side**2 + rest**2

    return int(grid[0] * squares(grid[1] // merge) * squares(grid[2] // merge) * merge**4)
