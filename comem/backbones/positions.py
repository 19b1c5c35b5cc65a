"""What a batch is given before it goes to the model: M-RoPE positions, and memory that a GPU can fetch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def pinned(inputs: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The batch in page-locked memory if it is for a GPU and still on the CPU; else as it is."""
    if device.type != "cuda":
        return inputs
    return {name: value if value.is_cuda else value.pin_memory() for name, value in inputs.items()}


def with_positions(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add explicit M-RoPE `position_ids` `(3, n, l)`, and the token types they follow from.

    Left to itself, a Qwen-VL model counts padding as positions in batches without images, and keeps
    `rope_deltas` for its next call, which may be another reader's. They are computed on the CPU:
    transformers' code goes through rows and pictures in Python, and on a GPU every step of it would wait
    for the device.

    Args:
        inputs: `input_ids`, `attention_mask` `(n, l)`, and `image_grid_thw` `(images, 3)` if there are any.
    """
    if "position_ids" in inputs:
        return inputs
    config: Any = model.config
    types = inputs.get("mm_token_type_ids")
    if types is None:
        types = (inputs["input_ids"] == config.image_token_id).int()
    base: Any = model.base_model
    device, grid = inputs["input_ids"].device, inputs.get("image_grid_thw")
    positions, _ = base.get_rope_index(
        inputs["input_ids"].cpu(),
        mm_token_type_ids=types.cpu(),
        image_grid_thw=None if grid is None else grid.cpu(),
        attention_mask=inputs["attention_mask"].cpu(),
    )
    return {**inputs, "mm_token_type_ids": types, "position_ids": positions.to(device)}
