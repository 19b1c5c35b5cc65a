"""A tiny LLaVA-OneVision whose frames have four patches, and a memory on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from comem.backbones.hf import HFBackbone
from comem.backbones.specs import BACKBONES
from comem.memory.video.encoder import VideoMemoryEncoder, build_encoder
from comem.memory.video.settings import VideoMemorySettings
from comem.types import VideoRef
from tests.backbones import tiny


def frames_of(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28, 3), dtype=np.uint8)


def clip(count: int, seed: int = 0) -> VideoRef:
    return VideoRef(frames=frames_of(count, seed))


@pytest.fixture(scope="session")
def tiny_reader() -> HFBackbone:
    return make_reader()


def make_reader() -> HFBackbone:
    torch.manual_seed(0)
    model, processor = tiny.llava_onevision("llava_onevision")
    processor.video_processor.size = {"height": 28, "width": 28}
    return HFBackbone(BACKBONES["llava_onevision"], model.eval().requires_grad_(False), processor)


def encoder_on(backbone: HFBackbone, **changes: Any) -> VideoMemoryEncoder:
    torch.manual_seed(1)
    sizes: dict[str, Any] = {"slots": 2, "heads": 2, "segment": 4, "kept": 3, "layers": 1, "fill": "tail"}
    encoder = build_encoder(backbone, video=VideoMemorySettings(**{**sizes, **changes}))
    for parameter in encoder.memory.parameters():
        parameter.data.mul_(5)  # far from the start, at which all videos are almost alike
    return encoder.eval()
