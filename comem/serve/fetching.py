"""Images by URL, for a server: public addresses only, small, and soon."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from comem.io.images import ImageError
from comem.retrieval.download.addresses import is_public
from comem.types import ImageRef

MAX_BYTES, SECONDS, HOPS = 20_000_000, 10.0, 3


def fetch_image(url: str) -> ImageRef:
    """Fetch an image; redirects are followed only to addresses that may be fetched from themselves.

    Raises:
        ImageError: a private address, too large, too slow, or not to be had.
    """
    import httpx

    for _ in range(HOPS):
        parts = urlsplit(url)
        try:
            host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise ImageError(f"{url[:80]}: no URL ({error})") from error
        if parts.scheme not in ("http", "https"):
            raise ImageError(f"{url[:80]}: only http and https are fetched")
        address = public_address(host, port)
        # The very address that was looked at is asked, not what the name may mean a moment later.
        shown = f"[{address}]" if ":" in address else address
        target = httpx.URL(url).copy_with(host=shown.strip("[]"))
        request = httpx.Request(
            "GET", target, headers={"host": parts.netloc.rpartition("@")[2], "accept": "image/*"},
            extensions={"sni_hostname": host, "timeout": httpx.Timeout(SECONDS).as_dict()},
        )  # fmt: skip
        try:
            with httpx.Client(trust_env=False, timeout=SECONDS) as client:
                response = client.send(request, stream=True)
                if response.is_redirect:
                    url = str(httpx.URL(url).join(response.headers["location"]))
                    continue
                response.raise_for_status()
                return ImageRef(data=_body(response, url))
        except httpx.HTTPError as error:
            raise ImageError(f"{url[:80]}: cannot be fetched ({error or type(error).__name__})") from error
    raise ImageError(f"{url[:80]}: redirected more than {HOPS} times")


def _body(response: object, url: str) -> bytes:
    data = b""
    for piece in response.iter_bytes():  # type: ignore[attr-defined]
        data += piece
        if len(data) > MAX_BYTES:
            raise ImageError(f"{url[:80]}: more than {MAX_BYTES:,} bytes; reduce the image")
    return data


def public_address(host: str, port: int) -> str:
    """An address of the host, if all that it has are public.

    Raises:
        ImageError: a private, local or reserved address among them, or none.
    """
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as error:
        raise ImageError(f"{host}: no such host ({error})") from error
    if not all(map(is_public, found)):
        raise ImageError(f"{host}: a private address; images are fetched from public ones only")
    return sorted(found)[0]
