"""Photographs of banners."""

from __future__ import annotations

import random

import torch

from comem.retrieval.embedder import load_embedder
from tools.toy.clip_banners import random_banner
from tools.toy.clip_images import camera, draw_banner
from tools.toy.clip_model import to_pixels


def test_the_camera_gives_what_the_model_takes() -> None:
    rng = random.Random(0)
    image = draw_banner(random_banner(rng))
    shots = [camera(image, rng, 64), camera(image, rng, 64, 0.0)]
    assert all(shot.size == (64, 64) for shot in shots)
    pixels = to_pixels(shots)
    assert pixels.shape == (2, 3, 64, 64)
    preprocess = load_embedder("toy")._preprocess
    assert torch.allclose(preprocess(image), to_pixels([camera(image, rng, 64, 0.0)])[0], atol=0.02)
