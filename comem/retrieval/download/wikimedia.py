"""Addresses of Wikimedia's scaled pictures: a tenth of the bytes, and SVG and TIFF as pixels."""

from __future__ import annotations

import re

HOST = "upload.wikimedia.org"
# https://upload.wikimedia.org/wikipedia/commons/a/ab/Name.jpg (also /wikipedia/en/…)
_ORIGINAL = re.compile(rf"https?://{re.escape(HOST)}/(wikipedia/[a-z-]+)/([0-9a-f]/[0-9a-f]{{2}})/([^/?#]+)$")
_RENDERED = {"svg": "{width}px-{name}.png", "tif": "lossy-page1-{width}px-{name}.jpg"}
_RENDERED |= {"tiff": _RENDERED["tif"]}
_RASTER = ("jpg", "jpeg", "png", "gif", "webp")


def addresses(url: str, width: int, original_width: int = 0) -> list[str]:
    """Where to ask for a picture, the best address first.

    Args:
        url: as the corpus has it.
        width: of the scaled picture, a standard one; 0 asks for the original.
        original_width: if known; a picture is not scaled up.
    """
    found = _ORIGINAL.match(url) if width else None
    if found is None:
        return [url]
    project, shard, name = found.groups()
    kind = name.rpartition(".")[2].lower()
    if kind in _RENDERED:
        pattern = _RENDERED[kind]
    elif kind in _RASTER and original_width > width:
        pattern = "{width}px-{name}"
    else:
        return [url]
    scaled = pattern.format(width=width, name=name)
    return [f"https://{HOST}/{project}/thumb/{shard}/{name}/{scaled}", url]
