"""Queries by picture, by text, or by both; and their hits as a page with thumbnails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from comem.io.files import write_atomic
from comem.io.page import render
from comem.retrieval.embedder import Embedder, Picture
from comem.types import ImageRef, KnowledgeItem

_EDGE = 96  # pixels of a thumbnail


def query_vector(
    embedder: Embedder, image: Picture | None = None, text: str | None = None, weight: float = 0.5
) -> np.ndarray:
    """float32 `(1, d)` of length 1: the picture's vector, the text's, or their weighted sum.

    Args:
        weight: share of the picture where both are given, 0 to 1.

    Raises:
        ValueError: neither is given, or a weight outside 0 to 1.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight {weight}: the picture's share must be 0 to 1")
    if image is None and text is None:
        raise ValueError("a query needs a picture, a text, or both")
    if text is None:
        return embedder.embed_images([image])  # type: ignore[list-item]
    if image is None:
        return embedder.embed_texts([text])
    both = weight * embedder.embed_images([image]) + (1 - weight) * embedder.embed_texts([text])
    return both / np.maximum(np.linalg.norm(both, axis=1, keepdims=True), 1e-12)


def write_page(
    path: str | Path, asked: str, items: Sequence[KnowledgeItem], scores: Sequence[float],
    image: ImageRef | None = None,
) -> None:  # fmt: skip
    """Write the hits as one HTML file that needs no other: the pictures are inside, as small JPEGs."""
    hits = list(zip(items, scores, strict=True))
    write_atomic(path, render("search", title=asked, asked=image, hits=hits, side=_EDGE))
