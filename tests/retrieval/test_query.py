"""Queries by picture, text and both, and the page of hits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comem.retrieval.query import query_vector, write_page
from comem.types import ImageRef, KnowledgeItem


class TwoDirections:
    """A picture is (1, 0), a text is (0, 1)."""

    def embed_images(self, images: object, batch_size: int = 1) -> np.ndarray:
        return np.array([[1.0, 0.0]], dtype=np.float32)

    def embed_texts(self, texts: object, batch_size: int = 1) -> np.ndarray:
        return np.array([[0.0, 1.0]], dtype=np.float32)


@pytest.mark.parametrize(
    ("image", "text", "weight", "expected"),
    [("i", None, 0.2, (1, 0)), (None, "t", 0.9, (0, 1)), ("i", "t", 0.5, (0.5**0.5, 0.5**0.5)),
     ("i", "t", 1.0, (1, 0)), ("i", "t", 0.0, (0, 1)), ("i", "t", 0.75, (3 / 10**0.5, 1 / 10**0.5))],
)  # fmt: skip
def test_fusion(image: str | None, text: str | None, weight: float, expected: tuple[float, float]) -> None:
    ref = None if image is None else ImageRef(path=image)
    found = query_vector(TwoDirections(), ref, text, weight)  # type: ignore[arg-type]
    assert found == pytest.approx(np.array([expected]), abs=1e-6)


def test_bad_queries() -> None:
    with pytest.raises(ValueError, match="weight 1.5"):
        query_vector(TwoDirections(), None, "t", 1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs an image, a text, or both"):
        query_vector(TwoDirections())  # type: ignore[arg-type]


def test_the_page_is_one_file_and_escapes(tmp_path: Path) -> None:
    Image.new("RGB", (300, 200), (10, 200, 30)).save(tmp_path / "a.png")
    picture = ImageRef(path=str(tmp_path / "a.png"))
    items = [
        KnowledgeItem("<1>", "a & <script>alert(1)</script>", picture, language="bg"),
        KnowledgeItem("2", "no picture", None),
        KnowledgeItem("3", "gone", ImageRef(path=str(tmp_path / "gone.png"))),
    ]
    write_page(tmp_path / "page.html", "what <is> this?", items, [0.9, 0.8, 0.7], picture)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>" not in page and "&lt;1&gt;" in page and "what &lt;is&gt; this?" in page
    assert page.count("data:image/jpeg;base64,") == 2 and "no such image file" in page
    assert page.index("&lt;1&gt;") < page.index("no picture") < page.index(">gone")
