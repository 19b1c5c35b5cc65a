"""A tiny random backbone, questions of different lengths, and memories for some of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from comem.backbones.hf import HFBackbone
from comem.backbones.specs import BACKBONES
from comem.types import ImageRef, Message
from tests.conftest import build_tiny_qwen2_5_vl


@pytest.fixture(scope="module")
def backbone(tiny_processor: Any) -> HFBackbone:
    return HFBackbone(BACKBONES["qwen2_5_vl"], build_tiny_qwen2_5_vl(), tiny_processor)


@pytest.fixture()
def conversations(small_image: Any) -> list[list[Message]]:
    def turn(text: str, *images: ImageRef) -> list[Message]:
        return [Message("user", (*images, text))]

    return [
        turn("What is it?", small_image(56, 84, 1)),
        turn("No picture here, but a longer question?"),
        turn("And which?", small_image(112, 56, 2)),
        turn("Two?", small_image(56, 56, 3), small_image(84, 84, 4)),
    ]


@pytest.fixture()
def memories() -> list[Tensor | None]:
    """8, no, 24 and 16 embeddings."""
    return [None if not size else torch.randn(size, 64) for size in (8, 0, 24, 16)]
