"""Politeness: how fast, how many at a time, and when at all each host is asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from comem.retrieval.download.settings import DownloadSettings

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
        name = urlsplit(url).netloc.lower()
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
