"""Addresses of scaled pictures, and waits that hosts ask for."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest

from comem.retrieval.download.fetch import addresses, retry_after
from comem.retrieval.download.settings import THUMB_WIDTHS, DownloadSettings

ROOT = "https://upload.wikimedia.org/wikipedia"


@pytest.mark.parametrize(
    ("url", "width", "first"),
    [
        ("commons/a/ab/X%20Y.jpg", 4000, "commons/thumb/a/ab/X%20Y.jpg/500px-X%20Y.jpg"),
        ("en/a/ab/X.PNG", 501, "en/thumb/a/ab/X.PNG/500px-X.PNG"),
        ("commons/a/ab/X.svg", 0, "commons/thumb/a/ab/X.svg/500px-X.svg.png"),
        ("commons/a/ab/X.tif", 300, "commons/thumb/a/ab/X.tif/lossy-page1-500px-X.tif.jpg"),
    ],
)
def test_a_rendering_is_asked_for_first_and_the_original_after_it(url: str, width: int, first: str) -> None:
    assert addresses(f"{ROOT}/{url}", 500, width) == [f"{ROOT}/{first}", f"{ROOT}/{url}"]


@pytest.mark.parametrize(
    ("url", "width"),
    [
        (f"{ROOT}/commons/a/ab/X.jpg", 500), (f"{ROOT}/commons/a/ab/X.jpg", 0),
        (f"{ROOT}/commons/thumb/a/ab/X.jpg/40px-X.jpg", 4000), ("https://example.org/a/ab/X.svg", 0),
        (f"{ROOT}/commons/a/ab/X.webm", 4000),
    ],
)  # fmt: skip
def test_small_pictures_and_other_hosts_are_asked_as_they_are(url: str, width: int) -> None:
    assert addresses(url, 500, width) == [url]
    assert addresses(f"{ROOT}/commons/a/ab/X.svg", 0) == [f"{ROOT}/commons/a/ab/X.svg"]


def test_only_widths_that_are_served_may_be_asked_for() -> None:
    assert DownloadSettings("a@b.example", thumb_width=THUMB_WIDTHS[3]).thumb_width == 120
    with pytest.raises(ValueError, match="thumb_width 512: Wikimedia serves 20, 40"):
        DownloadSettings("a@b.example", thumb_width=512)


def test_retry_after_in_seconds_or_as_a_date() -> None:
    assert retry_after("7") == 7 and retry_after("-1") == 0 and retry_after("0") == 0
    later = format_datetime(datetime.now(tz=timezone.utc) + timedelta(seconds=90), usegmt=True)
    assert 80 < (retry_after(later) or 0) <= 90
    assert retry_after("soon") is None and retry_after(None) is None
