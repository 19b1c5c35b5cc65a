"""Queries by picture, by text, or by both; and their hits as a page with thumbnails."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from comem.io.files import write_atomic
from comem.io.images import ImageError, open_image
from comem.retrieval.embedder import Embedder, Picture
from comem.types import ImageRef, KnowledgeItem

_EDGE = 96  # pixels of a thumbnail
_STYLE = (
    "body{font:15px sans-serif;margin:2em}td,th{padding:.4em .8em;text-align:left;vertical-align:top;"
    "border-bottom:1px solid #ddd}p{max-width:50em}"
)


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
    rows = [
        f"<tr><td>{rank}<td>{score:.3f}<td>{_thumbnail(item.image)}<td>{html.escape(item.id)}"
        f"<td>{html.escape(item.language)}<td>{html.escape(item.text)}"
        for rank, (item, score) in enumerate(zip(items, scores, strict=True), start=1)
    ]
    head = "<tr><th>rank<th>score<th>picture<th>id<th>language<th>passage"
    page = (
        f"<!doctype html><meta charset=utf-8><title>comem index search</title><style>{_STYLE}</style>"
        f"<p>{html.escape(asked)} {_thumbnail(image)}</p><table>{head}{''.join(rows)}</table>\n"
    )
    write_atomic(path, page)


def _thumbnail(image: ImageRef | None) -> str:
    """An img element, or why there is none."""
    if image is None:
        return ""
    try:
        picture = open_image(image)
    except ImageError as error:
        return f"<small>{html.escape(str(error))}</small>"
    picture.thumbnail((_EDGE, _EDGE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="" src="data:image/jpeg;base64,{data}">'
