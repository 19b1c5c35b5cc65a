"""How images are fetched, and what became of each."""

from __future__ import annotations

from dataclasses import dataclass

from comem import __version__
from comem.config import option

THUMB_WIDTHS = (20, 40, 60, 120, 250, 330, 500, 960, 1280, 1920, 3840)  # others get 429 (w.wiki/GHai)


@dataclass(frozen=True)
class DownloadSettings:
    """What decides how polite, how patient and how strict a download is.

    Attributes:
        contact: the user's e-mail address or web page, in the user agent of every request, as the user
            agent policy of Wikimedia and good manners ask for.
        rate: requests a second to one host.
        connections: requests at the same time to one host.
        concurrency: requests at the same time in all.
        connect_seconds: to open a connection.
        read_seconds: without a byte arriving.
        total_seconds: for one image with all its redirects.
        retries: further attempts after what may pass (timeouts, cuts, 429, 5xx).
        backoff_seconds: pause of a host after a failure without Retry-After; doubles with each attempt.
        max_wait_seconds: a host that asks for more (Retry-After) is left alone for the rest of the run.
        redirects: followed for one image.
        max_bytes: of one image.
        max_pixels: of one image.
        max_side: larger images are made smaller and stored as JPEG; 0 stores what was sent.
        allow_private: fetch from private networks and this machine, too. Otherwise a URL, a redirect or a
            name that leads there is refused: who wrote the corpus could reach what only this machine can.
        thumb_width: from Wikimedia ask for this width instead of the original; 0 asks for originals.
    """

    contact: str = option(metavar="MAIL")
    rate: float = 10.0
    connections: int = 4
    concurrency: int = 64
    connect_seconds: float = 10.0
    read_seconds: float = 20.0
    total_seconds: float = 120.0
    retries: int = 3
    backoff_seconds: float = 2.0
    max_wait_seconds: float = 600.0
    redirects: int = 5
    max_bytes: int = 32 << 20
    max_pixels: int = 64_000_000  # io.images.MAX_PIXELS, which is heavy to import
    max_side: int = 0
    thumb_width: int = 500
    allow_private: bool = False

    def __post_init__(self) -> None:
        if "@" not in self.contact and not self.contact.startswith(("http://", "https://")):
            raise ValueError(
                f"contact {self.contact!r}: give your e-mail address or web page (--contact you@example.org);"
                " it tells the hosts whom to ask, and they slow down or block requests without one"
            )
        if not (self.contact.isascii() and self.contact.isprintable()):
            raise ValueError(f"contact {self.contact!r}: only plain ASCII characters can stand in a header")
        if self.rate <= 0 or self.connections < 1 or self.concurrency < 1:
            raise ValueError(
                f"rate {self.rate}, connections {self.connections} and concurrency {self.concurrency} must"
                " all be above 0"
            )
        if self.thumb_width and self.thumb_width not in THUMB_WIDTHS:
            raise ValueError(
                f"thumb_width {self.thumb_width}: Wikimedia serves {', '.join(map(str, THUMB_WIDTHS))};"
                " 0 asks for originals"
            )

    @property
    def user_agent(self) -> str:
        """Who asks, and how to reach the person who does."""
        import aiohttp

        return f"comem/{__version__} ({self.contact}) aiohttp/{aiohttp.__version__}"


@dataclass(frozen=True)
class Fetched:
    """What became of one URL: a line of the record.

    Attributes:
        reason: "ok", or why there is no image; one of a small vocabulary, so that it can be counted.
        detail: more about it.
        final: a further attempt would end the same way.
    """

    url: str
    reason: str
    detail: str = ""
    final: bool = True
    bytes: int = 0
    width: int = 0
    height: int = 0
    sha256: str = ""
