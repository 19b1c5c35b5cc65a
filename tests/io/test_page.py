"""Pages: texts are escaped, images are embedded or say why not, and nothing is left out in silence."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from jinja2 import UndefinedError
from PIL import Image

from comem.io.page import embed, render
from comem.types import ImageRef


def test_an_image_is_embedded_reduced_and_left_as_it_was() -> None:
    pixels = Image.fromarray(np.zeros((200, 400, 3), dtype=np.uint8))
    shown = embed(ImageRef("big.png", pixels=pixels), 100, "JPEG")
    kind, _, data = shown.source.partition(",")
    with Image.open(io.BytesIO(base64.b64decode(data))) as small:
        assert kind == "data:image/jpeg;base64" and small.format == "JPEG" and small.size == (100, 50)
    assert pixels.size == (400, 200), "the caller's image was reduced"
    assert embed(None, 100).source == "" == embed(None, 100).error
    assert embed(b"PNG as it is").source.endswith(base64.b64encode(b"PNG as it is").decode())
    assert "gone.png: no such image file" in embed(ImageRef("gone.png"), 100).error


def test_texts_are_escaped_and_missing_data_is_an_error() -> None:
    page = render("search", title="<b>\x00&", asked=None, hits=[], side=96)
    assert "<title>&lt;b&gt;\ufffd&amp;</title>" in page and "<b>" not in page
    with pytest.raises(UndefinedError, match="hits"):
        render("search", title="", asked=None, side=96)
