"""What every embedder is, and what embedders share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from PIL import Image

from comem.types import ImageRef

MAX_CHARS = 20_000  # of a text, of which 77 tokens are read: CLIP's tokenizer is slow on long words
PRECISIONS = ("fp32", "bf16", "fp16")
ImageLike = ImageRef | Image.Image


class EmbedderError(ValueError):
    """A model that cannot be loaded as an embedder."""


class Embedder(Protocol):
    """What the index and the retrievers need."""

    name: str
    dimension: int

    @property
    def fingerprint(self) -> str:
        """Equal exactly when two embedders give the same vectors."""

    def embed_images(self, images: Sequence[ImageLike], batch_size: int = 64) -> np.ndarray:
        """float32 (n, d), each row of length 1."""

    def embed_texts(self, texts: Sequence[str], batch_size: int = 256) -> np.ndarray:
        """float32 (n, d), each row of length 1."""
