"""Floating point operations of one micro-batch of training, from its lengths and the models' configs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from comem.flops import Flops, decoder, output_layer, qformer, vision_tower
from comem.memory.qformer import QFormerConfig
from comem.training.collator import TrainingBatch


def batch_flops(
    batch: TrainingBatch, encoder: Any, reader: Any, sizes: QFormerConfig, rank: int, recompute: bool
) -> float:
    """Operations of forward and backward: encoder with LoRA, Q-Former, reader; padding not counted.

    The reader's own pictures are seen without a backward pass, and so is what it reads without items.

    Args:
        encoder, reader: configs of transformers; the same one where one model is both.
        sizes: the Q-Former's.
        rank: LoRA's.
        recompute: whether activation checkpointing repeats the layers' forward pass.

    Raises:
        ValueError: the vision tower is of a kind whose operations are not known.
    """
    layers, rest = _pictures(encoder, batch.items, rank), Flops()
    for length in _lengths(batch.items):
        layers += decoder(encoder.get_text_config(), length, rank=rank)
        rest += qformer(sizes, length)
    embeddings = batch.embeddings or (0,) * len(batch.rows)
    memory = [
        len(row) * (count or sizes.num_queries) for row, count in zip(batch.rows, embeddings, strict=True)
    ]
    for length, more in zip(_lengths(batch.question), memory, strict=True):
        layers += decoder(reader.get_text_config(), length + more)
    rest += output_layer(reader.get_text_config(), batch.answer_tokens)
    seen = _pictures(reader, batch.question).forward
    if batch.plain is not None:
        seen += _pictures(reader, batch.plain.inputs).forward
        lengths = _lengths(batch.plain.inputs)
        seen += sum(decoder(reader.get_text_config(), length).forward for length in lengths)
    return layers.training(recompute) + rest.training() + seen


def batch_tokens(batch: TrainingBatch) -> int:
    """Tokens that encoder and reader read, padding and memory not counted."""
    return sum(_lengths(batch.items)) + sum(_lengths(batch.question))


def _lengths(inputs: Mapping[str, Tensor]) -> list[int]:
    return inputs["attention_mask"].sum(dim=1).tolist() if inputs else []


def _pictures(config: Any, inputs: Mapping[str, Tensor], rank: int = 0) -> Flops:
    """The pictures of some inputs through their model's vision tower."""
    grids = inputs.get("image_grid_thw")
    if grids is None:
        return Flops()
    return sum((vision_tower(config.vision_config, grid, rank) for grid in grids.tolist()), Flops())
