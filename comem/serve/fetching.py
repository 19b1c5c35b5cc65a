"""Images by URL, for a server: by the downloads' own rules, of which addresses may be asked first of all."""

from __future__ import annotations

import asyncio
from typing import Any

from comem.io.images import ImageError
from comem.retrieval.download.addresses import PublicResolver
from comem.retrieval.download.fetch import Hosts, fetch
from comem.retrieval.download.settings import DownloadSettings, Fetched
from comem.types import ImageRef

#: A client waits: small, soon, and once.
_RULES = DownloadSettings(
    contact="https://arxiv.org/abs/2505.17670", rate=1000, connect_seconds=5, read_seconds=5,
    total_seconds=10, retries=0, redirects=3, max_bytes=20_000_000, thumb_width=0,
)  # fmt: skip


def fetch_image(url: str) -> ImageRef:
    """Fetch an image; redirects are followed only to addresses that may be fetched from themselves.

    Raises:
        ImageError: a private address, too large, too slow, no image, or not to be had.
    """
    found, data = asyncio.run(_fetched(url))
    if found.reason != "ok":
        why = found.reason if found.reason == "private address" else f"{found.reason} {found.detail}".rstrip()
        raise ImageError(f"{url[:80]}: {why}; images are fetched by http(s) from public addresses only")
    return ImageRef(data=data)


async def _fetched(url: str) -> tuple[Fetched, bytes]:
    import aiohttp

    resolver: Any = PublicResolver()
    connector = aiohttp.TCPConnector(resolver=resolver)
    headers = {"User-Agent": _RULES.user_agent, "Accept": "image/*"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        return await fetch(session, url, 0, Hosts(_RULES), _RULES)
