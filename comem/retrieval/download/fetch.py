"""One image from the network: when its host is asked, attempts, limits, and whether it is an image."""

from __future__ import annotations

import asyncio
import hashlib
import io
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from comem.io.images import ImageError, open_image
from comem.retrieval.download.addresses import PrivateAddressError, check_literal
from comem.retrieval.download.settings import DownloadSettings, Fetched

if TYPE_CHECKING:
    import aiohttp

MAX_FAILURES = 20  # in a row, after which a host counts as down for the rest of the run


class HostClosedError(Exception):
    """The host is left alone for the rest of the run; the message says why."""


class Host:
    """One host: its pace, its open requests, and until when it asked to be left alone."""

    def __init__(self, name: str, settings: DownloadSettings) -> None:
        self.name, self.settings = name, settings
        self.closed = ""
        self._slots = asyncio.Semaphore(settings.connections)
        self._next = 0.0  # on the monotonic clock
        self._failures = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits until the host may be asked once more.

        Raises:
            HostClosedError: it is closed, or closes while this waits.
        """
        async with self._slots:
            while True:
                if self.closed:
                    raise HostClosedError(self.closed)
                now = time.monotonic()
                if now >= self._next:
                    self._next = max(self._next, now - 0.5) + 1 / self.settings.rate
                    break
                await asyncio.sleep(self._next - now)
            yield

    def hold(self, seconds: float) -> None:
        """Asks nothing for so long; closes the host when that is too long."""
        if seconds > self.settings.max_wait_seconds:
            self.closed = f"{self.name} asks to wait {seconds:.0f} s; run the same command again after that"
        self._next = max(self._next, time.monotonic() + seconds)

    def failed(self) -> None:
        """A request that did not even get an answer."""
        self._failures += 1
        if self._failures >= MAX_FAILURES:
            self.closed = f"{self.name} did not answer {MAX_FAILURES} times in a row; run again later"

    def answered(self) -> None:
        """A request got an answer, of whatever kind."""
        self._failures = 0


class Hosts:
    """All hosts of a run."""

    def __init__(self, settings: DownloadSettings) -> None:
        self.settings = settings
        self.open_requests = asyncio.Semaphore(settings.concurrency)
        self._hosts: dict[str, Host] = {}

    def of(self, url: str) -> Host:
        """The host of a URL."""
        name = urlsplit(url).netloc.rpartition("@")[2].lower()  # a name and a key before it stay unsaid
        if name not in self._hosts:
            self._hosts[name] = Host(name, self.settings)
        return self._hosts[name]

    def closed(self) -> list[str]:
        """Why the hosts that are closed are."""
        return [host.closed for host in self._hosts.values() if host.closed]


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


HOST = "upload.wikimedia.org"
# https://upload.wikimedia.org/wikipedia/commons/a/ab/Name.jpg (also /wikipedia/en/…)
_ORIGINAL = re.compile(rf"https?://{re.escape(HOST)}/(wikipedia/[a-z-]+)/([0-9a-f]/[0-9a-f]{{2}})/([^/?#]+)$")
_RENDERED = {"svg": "{width}px-{name}.png", "tif": "lossy-page1-{width}px-{name}.jpg"}
_RENDERED |= {"tiff": _RENDERED["tif"]}
_RASTER = ("jpg", "jpeg", "png", "gif", "webp")


def addresses(url: str, width: int, original_width: int = 0) -> list[str]:
    """Where to ask for an image, the best address first.

    Args:
        url: as the corpus has it.
        width: of the scaled image, a standard one; 0 asks for the original.
        original_width: if known; an image is not scaled up.
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


BUSY = (429, 503)
_REDIRECTS = (301, 302, 303, 307, 308)
JPEG_QUALITY = 90


@dataclass(frozen=True)
class Answer:
    """What one attempt gave: the body, or why not and how long to wait."""

    data: bytes = b""
    reason: str = "ok"
    detail: str = ""
    final: bool = True
    wait: float | None = None
    missing: bool = False  # the address does not exist: another one may
    location: str = ""  # where it is to be asked instead


async def fetch(
    session: aiohttp.ClientSession, url: str, width: int, hosts: Hosts, settings: DownloadSettings
) -> tuple[Fetched, bytes]:
    """Fetches and checks one image; what goes wrong is in the result, not raised.

    Args:
        session: makes the requests.
        url: of the image, as the corpus has it.
        width: of the original, if known (0).
        hosts: keep the rate to each host.
        settings: of the download.

    Returns:
        What became of it, and the bytes to store (empty unless the reason is "ok").
    """
    answer = Answer(reason="no address")
    for address in addresses(url, settings.thumb_width, width):
        answer = await _attempts(session, address, hosts, settings)
        if not answer.missing:
            break
    if answer.reason != "ok":
        return Fetched(url, answer.reason, answer.detail, answer.final), b""
    return await asyncio.to_thread(check_image, url, answer.data, settings)


async def _attempts(
    session: aiohttp.ClientSession, url: str, hosts: Hosts, settings: DownloadSettings
) -> Answer:
    answer = Answer()
    for attempt in range(settings.retries + 1):
        try:
            answer, host = await _followed(session, url, hosts, settings)
        except HostClosedError as error:
            return Answer(reason="host left alone", detail=str(error), final=False)
        if answer.final or host is None:
            return answer
        host.hold(answer.wait if answer.wait is not None else settings.backoff_seconds * 2**attempt)
    return answer


async def _followed(
    session: aiohttp.ClientSession, url: str, hosts: Hosts, settings: DownloadSettings
) -> tuple[Answer, Host | None]:
    """One request and its redirects, each at the pace of the host that it goes to; None: ask nobody again."""
    import yarl

    left = settings.total_seconds
    for _ in range(settings.redirects + 1):
        try:
            host, asked = hosts.of(url), yarl.URL(url)  # as aiohttp reads it: "①" is 1
            if asked.scheme not in ("http", "https") or not asked.raw_host:
                raise ValueError(f"{url[:200]!r} is no address of the web")
            if not settings.allow_private:
                check_literal(asked.raw_host)
        except PrivateAddressError as error:
            return Answer(reason="private address", detail=str(error), final=False), None
        except ValueError as error:
            return Answer(reason="no address", detail=str(error)), None
        async with host.turn(), hosts.open_requests:
            began = time.monotonic()
            answer = await _attempt(session, url, host, settings, left)
            left -= time.monotonic() - began
        if not answer.location:
            return answer, None if answer.reason == "private address" else host
        url = answer.location
    return Answer(reason="redirects in circles", detail=f"more than {settings.redirects}"), host


async def _attempt(
    session: aiohttp.ClientSession, url: str, host: Host, settings: DownloadSettings, seconds: float
) -> Answer:
    import aiohttp

    limits = aiohttp.ClientTimeout(
        total=max(seconds, 0.001), sock_connect=settings.connect_seconds, sock_read=settings.read_seconds
    )
    try:
        async with session.get(url, allow_redirects=False, timeout=limits) as response:
            host.answered()
            if response.status in _REDIRECTS and (to := response.headers.get("Location")):
                return Answer(location=urljoin(str(response.url), to))
            return await _read(response, settings)
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, ValueError) as error:
        return Answer(reason="no address", detail=str(error))
    except aiohttp.ClientPayloadError as error:
        return Answer(reason="cut off", detail=str(error), final=False)
    except (asyncio.TimeoutError, aiohttp.ClientError, OSError) as error:
        return _unanswered(error, host)


def _unanswered(error: Exception, host: Host) -> Answer:
    """No answer came, or none was asked for."""
    if isinstance(cause := getattr(error, "os_error", error), PrivateAddressError):
        return Answer(reason="private address", detail=str(cause), final=False)
    host.failed()
    if isinstance(error, asyncio.TimeoutError):
        return Answer(reason="timeout", detail="too slow", final=False)
    return Answer(reason="no connection", detail=str(error), final=False)


async def _read(response: aiohttp.ClientResponse, settings: DownloadSettings) -> Answer:
    """The body of an answer, no more of it than is allowed."""
    status = response.status
    if status in BUSY or status >= 500:
        wait = retry_after(response.headers.get("Retry-After"))
        return Answer(reason=f"status {status}", final=False, wait=wait)
    if status != 200:
        return Answer(reason=f"status {status}", missing=status in (400, 404, 410))
    if (response.content_length or 0) > settings.max_bytes:
        return Answer(reason="too many bytes", detail=f"{response.content_length}")
    data = bytearray()
    async for block in response.content.iter_chunked(1 << 16):
        data += block
        if len(data) > settings.max_bytes:
            return Answer(reason="too many bytes", detail=f"more than {settings.max_bytes}")
    return Answer(bytes(data))


def check_image(url: str, data: bytes, settings: DownloadSettings) -> tuple[Fetched, bytes]:
    """Opens the image, whatever its headers said, and makes it smaller where that is wanted."""
    try:
        image = open_image(data, max_pixels=settings.max_pixels)
    except ImageError as error:
        return Fetched(url, "no picture", str(error).partition(": ")[2] or str(error), bytes=len(data)), b""
    if settings.max_side and max(image.size) > settings.max_side:
        image.thumbnail((settings.max_side, settings.max_side))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=JPEG_QUALITY)
        data = buffer.getvalue()
    found = Fetched(url, "ok", bytes=len(data), width=image.width, height=image.height)
    return replace(found, sha256=hashlib.sha256(data).hexdigest()), data
