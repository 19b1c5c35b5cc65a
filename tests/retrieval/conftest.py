"""Small pictures and an embedder without a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comem.retrieval.evaluate import RawPixels


@pytest.fixture()
def embedder() -> RawPixels:
    return RawPixels(4)


@pytest.fixture()
def corpus(tmp_path: Path) -> Callable[..., Path]:
    """`corpus(count, languages)` writes pictures of noise and a JSONL of items over them."""

    def write(count: int = 12, languages: tuple[str, ...] = ("en",)) -> Path:
        folder = tmp_path / "corpus"
        folder.mkdir(exist_ok=True)
        rows = []
        for i in range(count):
            noise = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((32, 32), Image.Resampling.NEAREST).save(folder / f"{i}.png")
            rows += [
                {"id": f"{code}{i}", "text": f"{code} text {i}", "image": f"{i}.png", "language": code}
                for code in languages
            ]
        path = folder / "items.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write
