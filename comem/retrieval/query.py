"""Queries by image, by text, or by both; and their hits as a page with thumbnails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from comem.io.files import write_atomic
from comem.io.page import render
from comem.retrieval.embedder import Embedder, ImageLike, load_embedder
from comem.retrieval.index import VectorIndex
from comem.retrieval.settings import QuerySettings
from comem.types import ImageRef, KnowledgeItem, RetrievedContext

_EDGE = 96  # pixels of a thumbnail


def query_vector(
    embedder: Embedder, image: ImageLike | None = None, text: str | None = None, weight: float = 0.5
) -> np.ndarray:
    """float32 `(1, d)` of length 1: the image's vector, the text's, or their weighted sum.

    Args:
        embedder: makes the vectors.
        image: the image, if there is one.
        text: the text, if there is one.
        weight: share of the image where both are given, 0 to 1.

    Raises:
        ValueError: neither is given, or a weight outside 0 to 1.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight {weight}: the image's share must be 0 to 1")
    if image is None and text is None:
        raise ValueError("a query needs an image, a text, or both")
    if text is None:
        return embedder.embed_images([image])  # type: ignore[list-item]
    if image is None:
        return embedder.embed_texts([text])
    both: np.ndarray = weight * embedder.embed_images([image]) + (1 - weight) * embedder.embed_texts([text])
    unit: np.ndarray = both / np.maximum(np.linalg.norm(both, axis=1, keepdims=True), 1e-12)
    return unit


def search_index(settings: QuerySettings) -> RetrievedContext:
    """The items nearest to an image, a text or both, best first; with `html`, as a page, too.

    Raises:
        ValueError: no such index, image or language.
    """
    index = VectorIndex(settings.index)
    embedder = load_embedder(settings.embedder or index.manifest["embedder"]["name"])
    index.check(embedder)
    image = None if settings.image is None else ImageRef(path=str(settings.image))
    query = query_vector(embedder, image, settings.text, settings.weight)
    hits = index.search(query, settings.k, settings.languages or None)
    items = tuple(index.base.items(hits.rows[0].tolist()))
    found = RetrievedContext("", items, tuple(hits.scores[0].tolist()))
    if settings.html is not None:
        write_page(settings.html, settings.text or "", found.items, found.scores, image)
    return found


def write_page(
    path: str | Path, asked: str, items: Sequence[KnowledgeItem], scores: Sequence[float],
    image: ImageRef | None = None,
) -> None:  # fmt: skip
    """Write the hits as one HTML file that needs no other: the images are inside, as small JPEGs."""
    hits = list(zip(items, scores, strict=True))
    write_atomic(path, render("search", title=asked, asked=image, hits=hits, side=_EDGE))
