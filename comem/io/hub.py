"""Whether the model hub can be reached: asked once, within seconds, before anything is loaded from it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

logger = logging.getLogger(__name__)

_SECONDS = 8.0


@contextmanager
def hub_or_cache(source: str | os.PathLike[str]) -> Iterator[None]:
    """Load from the hub inside the context, or, where it does not answer, from what was downloaded before.

    Its clients would try again for minutes, file by file, before they said that there is no network; with
    HF_HUB_OFFLINE they say so at once.

    Args:
        source: a hub repository, or a folder, for which nobody is asked.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    if not os.path.isdir(source) and not hub_answers():
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@lru_cache(maxsize=1)
def hub_answers() -> bool:
    """Whether the hub answers at all; where HF_HUB_OFFLINE is set nobody is asked."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return True  # its own errors come at once
    found: list[bool] = []
    asked = threading.Thread(target=_ask, args=(constants.ENDPOINT, found), daemon=True)
    asked.start()  # a thread: looking up a name knows no time limit
    asked.join(_SECONDS)
    if not found:
        logger.warning("%s cannot be reached: only what was downloaded before is used", constants.ENDPOINT)
    return bool(found)


def _ask(endpoint: str, found: list[bool]) -> None:
    from huggingface_hub import get_session

    try:
        get_session().head(endpoint, timeout=_SECONDS)
    except Exception as error:  # of whichever client this version of the hub's library has
        logger.debug("%s: %s", endpoint, error)
    else:
        found.append(True)
