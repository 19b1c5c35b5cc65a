"""What a cell costs by arithmetic: positions and operations, from lengths and the model's config."""

from __future__ import annotations

from typing import Any

from comem.backbones import flops
from comem.memory.lora import LoraSettings
from comem.memory.qformer_encoder import paper_flops
from comem.profiling.prompts import Lengths, patches
from comem.profiling.timing import QUERIES, Cell


def context_tokens(cell: Cell, lengths: Lengths) -> int:
    """Positions that knowledge adds to one question."""
    if cell.mode == "baseline":
        return 0
    return cell.k * (lengths.item if cell.mode == "rag" else QUERIES)


def cell_flops(cell: Cell, lengths: Lengths, config: Any) -> dict[str, float]:
    """Operations of one batch: to encode its items, to its first token, and for the tokens after it.

    Scores under the causal mask are counted once, not for the whole square (`comem.backbones.flops.decoder`).
    """
    text, prompt = config.get_text_config(), lengths.question + context_tokens(cell, lengths)
    images = vision(lengths.question_image, config)
    if cell.mode == "rag":
        images += cell.k * vision(lengths.item_image, config)
    head = flops.output_layer(text, 1).forward
    prefill = flops.decoder(text, prompt, causal=True).forward + images + head
    steps = (
        flops.decoder(text, 1, past=prompt + step, causal=True).forward + head
        for step in range(lengths.answer - 1)
    )
    encoded = (
        cell.k * item_flops(lengths, config) if cell.mode not in ("baseline", "rag", "comem-bank") else 0
    )
    found = {"encode": encoded, "prefill": prefill, "decode": sum(steps)}
    return {name: float(cell.batch * value) for name, value in found.items()}


def item_flops(lengths: Lengths, config: Any) -> float:
    """Operations to encode one item: vision tower, language model with LoRA, compressor."""
    rank = LoraSettings().rank
    text = config.get_text_config()
    reading = flops.decoder(text, lengths.item, rank=rank, causal=True)
    reading += paper_flops(text.hidden_size, lengths.item)
    return reading.forward + vision(lengths.item_image, config, rank)


def cell_bytes(cell: Cell, lengths: Lengths, config: Any, size: int) -> int:
    """About what a batch needs beside the weights: pixels, keys and values, one layer's activations.

    Args:
        cell: what is measured: mode, batch and number of items.
        lengths: tokens of questions, items and images.
        config: the model's.
        size: bytes of a number.
    """
    text, tower = config.get_text_config(), config.vision_config
    tokens = cell.batch * (lengths.question + context_tokens(cell, lengths))
    images = cell.batch * lengths.question_image
    if cell.mode not in ("baseline", "comem-bank"):
        images += cell.batch * cell.k * lengths.item_image
    pixels = 4 * images * tower.in_channels * tower.temporal_patch_size * tower.patch_size**2
    head = text.hidden_size // text.num_attention_heads
    kept = tokens * 2 * text.num_hidden_layers * text.num_key_value_heads * head
    total: int = size * (pixels + kept + 3 * tokens * text.intermediate_size)
    return total


def vision(image_tokens: int, config: Any, rank: int = 0) -> float:
    """Operations of the vision tower on one image of that many tokens."""
    side = patches(image_tokens)
    return flops.vision_tower(config.vision_config, (1, side, side), rank).forward
