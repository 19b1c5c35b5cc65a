"""HTML pages that open without a server or a network: a template for each kind, on one base."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from comem.types import ImageRef

if TYPE_CHECKING:
    from jinja2 import Environment

# Control characters and lone surrogates (a model may write anything): not allowed in HTML, or not in UTF-8.
_NOT_HTML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def render(template: str, **data: Any) -> str:
    """A page of `comem/io/templates`; every text is escaped, and what no page may hold is shown as �.

    Args:
        template: its name, without `.html`.
        data: what it shows; a name that the template uses and that is missing raises.
    """
    return _templates().get_template(f"{template}.html").render(data)


@dataclass(frozen=True)
class Embedded:
    """An image as the source of an `img` element, or why it cannot be shown."""

    source: str = ""
    error: str = ""


def embed(image: ImageRef | bytes | None, side: int | None = None, kind: str = "PNG") -> Embedded:
    """An image inside the page, reduced so that its longer side has at most `side` pixels.

    Args:
        image: a reference, or an encoded file; without one both fields are empty.
        side: in pixels; None takes the encoded file as it is.
        kind: PNG or JPEG.
    """
    if image is None:
        return Embedded()
    if isinstance(image, bytes) and side is None:
        return Embedded(_uri(image, kind))
    from comem.io.images import ImageError, open_image  # Pillow: not for a command's --help

    try:
        opened = open_image(image).copy()  # the pixels of a reference belong to others
    except ImageError as error:
        return Embedded(error=str(error))
    if side is not None:
        opened.thumbnail((side, side))
    buffer = io.BytesIO()
    opened.save(buffer, kind)
    return Embedded(_uri(buffer.getvalue(), kind))


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data).decode('ascii')}"


@cache
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader("comem.io"), autoescape=True, undefined=StrictUndefined, finalize=_text,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    found.filters["embed"] = embed
    return found


def _text(value: Any) -> Any:
    """A text that a page may hold; what is HTML already stays."""
    return value if hasattr(value, "__html__") else _NOT_HTML.sub("\N{REPLACEMENT CHARACTER}", str(value))
