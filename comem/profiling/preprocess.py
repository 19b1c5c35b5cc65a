"""What stands before the model: a picture opened, resized and cut into patches; text made tokens."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from comem.profiling.prompts import Lengths, patches
from comem.types import ImageRef, Message

_REPEAT, _SIDE = 5, 14  # runs; pixels of a patch


def preprocess_seconds(process: Any, lengths: Lengths) -> dict[str, float]:
    """Median seconds on the CPU for one question and for one item, picture included.

    Pictures are JPEG files of noise, of the pixels that give the picture's tokens; words are one letter each.

    Args:
        process: the backbone's `ChatProcessor`.
    """
    sizes = {
        "question": (lengths.question, lengths.question_image), "item": (lengths.item, lengths.item_image)
    }  # fmt: skip
    return {name: _median(_one(process, *size)) for name, size in sizes.items()}


def _one(process: Any, length: int, image_tokens: int) -> Callable[[], Any]:
    side = _SIDE * patches(image_tokens)
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    words = " ".join("a" * (length - image_tokens))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    turn = Message("user", (ImageRef(data=file.getvalue()), words))
    return lambda: process([[turn]])


def _median(call: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(_REPEAT + 1):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])  # the first warms up
