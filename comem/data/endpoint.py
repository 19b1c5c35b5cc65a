"""Chat models behind an OpenAI-compatible address: asked politely, patiently, several requests at a time."""

from __future__ import annotations

import http.client
import json
import logging
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from comem.retrieval.download.hosts import retry_after

log = logging.getLogger(__name__)
#: What may pass by itself: timeouts, conflicts, rate limits; and everything from 500 on.
_PASSING = (408, 409, 425, 429)
_MAX_BYTES = 1 << 20
_BLOCK = 1 << 16
#: So many requests in a row without an answer, each after all its attempts: the host is down.
MAX_FAILURES = 10


class EndpointError(ValueError):
    """Asking on is of no use; the message says why, and what to do."""


@dataclass(frozen=True)
class EndpointSettings:
    """Where a model is, and how it is asked.

    Attributes:
        url: the API's root, such as https://api.openai.com/v1 or http://localhost:8000/v1.
        model: its name there.
        key_variable: the environment variable that holds the key; empty sends none.
        concurrency: requests at a time.
        timeout: seconds for one request, from the connection to the last byte.
        retries: further attempts after what may pass.
        backoff: seconds before the first of them, without Retry-After; doubles each time.
        max_wait: a host that asks for a longer pause is left alone.
        temperature, max_tokens, seed: of the decoding.
    """

    url: str
    model: str
    key_variable: str = ""
    concurrency: int = 8
    timeout: float = 60.0
    retries: int = 5
    backoff: float = 1.0
    max_wait: float = 300.0
    temperature: float = 0.0
    max_tokens: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"endpoint {self.url!r}: give its address, such as https://api.openai.com/v1")
        if not self.model:
            raise ValueError("an endpoint needs the name of a model (--model)")
        if self.concurrency < 1 or self.timeout <= 0 or self.retries < 0 or self.max_tokens < 1:
            raise ValueError(
                f"concurrency {self.concurrency}, timeout {self.timeout:g}, retries {self.retries}, tokens "
                f"{self.max_tokens}: give at least 1, above 0 (seconds), at least 0, at least 1"
            )

    @property
    def address(self) -> str:
        """Where chats are completed."""
        root = self.url.rstrip("/")
        return root if root.endswith("/chat/completions") else f"{root}/chat/completions"

    def describe(self) -> dict[str, Any]:
        """What a manifest says of it: what decides the replies, and no secret."""
        decoding = {"temperature": self.temperature, "max_tokens": self.max_tokens, "seed": self.seed}
        return {"endpoint": self.url, "model": self.model, "decoding": decoding}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirection is refused: urllib would carry the key to whatever host it names."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


@dataclass(frozen=True)
class _Outcome:
    """What one attempt gave: a reply, or why there is none and how long the host asks to wait."""

    reply: str | None = None
    reason: str = ""
    wait: float | None = None
    busy: bool = False


class Endpoint:
    """Asks one address; its threads share the host's pauses.

    Raises:
        ValueError: the key's variable is named and not set.
    """

    def __init__(self, settings: EndpointSettings) -> None:
        self.settings = settings
        self.reasons: dict[str, int] = {}  # of attempts that failed
        self._key = os.environ.get(settings.key_variable, "") if settings.key_variable else ""
        if settings.key_variable and not self._key:
            raise ValueError(
                f"the environment variable {settings.key_variable} is not set: put the key there"
            )
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._not_before, self._failures = 0.0, 0

    def replies(self, prompts: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str | None]]:
        """Ids with replies, as they come; None where all attempts failed.

        Args:
            prompts: ids and texts.

        Raises:
            EndpointError: the address refuses (key, model, form), asks for too long a pause, or is down.
        """
        self._stop.clear()
        stopped: EndpointError | None = None
        with ThreadPoolExecutor(self.settings.concurrency) as pool:
            asked = {pool.submit(self._ask, text): name for name, text in prompts}
            try:
                for future in as_completed(asked):
                    try:
                        reply = future.result()
                    except EndpointError as error:
                        stopped = stopped or error
                    except CancelledError:
                        continue
                    else:
                        if reply is not None or stopped is None:
                            yield asked[future], reply
                    if stopped:  # nothing more is sent, what is under way may still come in
                        self._cancel(asked)
            finally:  # also when the caller stops here
                self._cancel(asked)
        if stopped:
            raise stopped

    def _cancel(self, asked: Iterable[Future[str | None]]) -> None:
        self._stop.set()
        for future in asked:
            future.cancel()

    def _ask(self, text: str) -> str | None:
        for attempt in range(self.settings.retries + 1):
            self._pause(self._not_before - time.monotonic())
            if self._stop.is_set():
                return None
            outcome = self._attempt(text)
            if outcome.reply is not None:
                with self._lock:
                    self._failures = 0
                return outcome.reply
            self._note(outcome)
            wait = self.settings.backoff * 2**attempt if outcome.wait is None else outcome.wait
            if outcome.busy:
                with self._lock:
                    self._not_before = max(self._not_before, time.monotonic() + wait)
            elif attempt < self.settings.retries:
                self._pause(wait)
        self._given_up()
        return None

    def _pause(self, seconds: float) -> None:
        if seconds > self.settings.max_wait:
            raise EndpointError(
                f"{self.settings.address} asks to wait {seconds:.0f} s; run the same command again after that"
            )
        if seconds > 0:
            self._stop.wait(seconds)

    def _note(self, outcome: _Outcome) -> None:
        with self._lock:
            self.reasons[outcome.reason] = self.reasons.get(outcome.reason, 0) + 1
        log.info("%s: %s", self.settings.address, outcome.reason)

    def _given_up(self) -> None:
        with self._lock:
            self._failures += 1
            failures = self._failures
        if failures >= MAX_FAILURES:
            raise EndpointError(
                f"{self.settings.address} gave no answer to {failures} requests in a row ({self.reasons}); "
                "what has come is kept: run the same command again when it is back"
            )

    def _attempt(self, text: str) -> _Outcome:
        settings = self.settings
        body = {
            "model": settings.model, "messages": [{"role": "user", "content": text}],
            "temperature": settings.temperature, "max_tokens": settings.max_tokens, "seed": settings.seed,
        }  # fmt: skip
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(settings.address, json.dumps(body).encode(), headers, method="POST")
        until = time.monotonic() + settings.timeout
        try:
            with _OPENER.open(request, timeout=settings.timeout) as response:
                return _reply(_read(response, until))
        except urllib.error.HTTPError as error:
            return self._refused(error)
        except TimeoutError:
            return _Outcome(reason="timeout")
        except (OSError, http.client.HTTPException, ValueError) as error:
            cause = getattr(error, "reason", error)  # urllib wraps what the socket raised
            late = isinstance(cause, TimeoutError)
            return _Outcome(reason="timeout" if late else f"no answer ({cause})")

    def _refused(self, error: urllib.error.HTTPError) -> _Outcome:
        if error.code in _PASSING or error.code >= 500:
            wait = retry_after(error.headers.get("Retry-After"))
            return _Outcome(reason=f"status {error.code}", wait=wait, busy=error.code in (429, 503))
        try:
            detail = error.read(500).decode("utf-8", "replace")
        except OSError:
            detail = ""
        raise EndpointError(
            f"{self.settings.address} answers {error.code} ({' '.join(detail.split()) or error.reason}); "
            "check --endpoint, --model and --api-key-env"
        )


def _read(response: Any, until: float) -> bytes:
    """The body, up to the deadline and no longer than a reply can be."""
    data = bytearray()
    while block := response.read1(_BLOCK):
        data += block
        if time.monotonic() > until:
            raise TimeoutError
        if len(data) > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES} bytes")
    return bytes(data)


def _reply(body: bytes) -> _Outcome:
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return _Outcome(reason="no chat completion")
    return _Outcome(content if isinstance(content, str) else "")
