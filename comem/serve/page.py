"""The page of a server: files that speak to its own routes, without a toolkit or anything from elsewhere.

A toolkit would show the same (Gradio 6.31: a wheel of 31 MB and a dozen packages more), and would need a way
of its own around the keys, limits and streams of the routes that are there; the page is three files that use
them.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import Response

_FILES = Path(__file__).parent / "page_files"
_KINDS = {"index.html": "text/html", "page.js": "text/javascript", "page.css": "text/css"}
_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def add_page(app: FastAPI) -> None:
    """Show the page at /."""

    def route(path: str, name: str) -> None:
        @app.get(path, include_in_schema=False)
        async def file() -> Response:
            return Response((_FILES / name).read_bytes(), media_type=_KINDS[name], headers=_HEADERS)

    route("/", "index.html")
    for name in ("page.js", "page.css"):
        route(f"/{name}", name)
