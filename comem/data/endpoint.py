"""Chat models behind an OpenAI-compatible address: asked politely, patiently, several requests at a time.

The requests are openai's client's. Three things are ours, as its retries know of one request only, and it
reads whatever it is sent: a pause that the host asks for holds all requests back; a reply has to be there by
a deadline and may not grow without end; a host that is down is left alone.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from comem.io.files import parse_json
from comem.io.run_folder import warn_of_open_key
from comem.retrieval.download.fetch import retry_after

log = logging.getLogger(__name__)
#: What may pass by itself: timeouts, conflicts, rate limits; and everything from 500 on.
_PASSING = (408, 409, 425, 429)
_MAX_BYTES = 1 << 20
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
        plain = self.url.rpartition("@")[2].partition("?")[0].partition("#")[0]
        if plain != self.url:
            raise ValueError(
                f"endpoint …{plain!r}: a name, a key or a query in the address would be written to files: put"
                " the key into an environment variable and name that (--api-key-env)"
            )
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
        ValueError: the key's variable is named and not set, or the package openai is missing.
    """

    def __init__(self, settings: EndpointSettings) -> None:
        self.settings = settings
        self.reasons: dict[str, int] = {}  # of attempts that failed
        key = os.environ.get(settings.key_variable, "") if settings.key_variable else ""
        if settings.key_variable and not key:
            raise ValueError(
                f"the environment variable {settings.key_variable} is not set: put the key there"
            )
        warn_of_open_key(settings.url, key)
        self._key, self._client = key, _client(settings, key)
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._not_before, self._failures = 0.0, 0

    @property
    def about(self) -> dict[str, Any]:
        """What a manifest says of it: what decides the replies, and no secret."""
        asked = self.settings
        decoding = {"temperature": asked.temperature, "max_tokens": asked.max_tokens, "seed": asked.seed}
        return {"endpoint": asked.url, "model": asked.model, "decoding": decoding}

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
                    else:
                        if reply is not None or stopped is None:
                            yield asked[future], reply
            finally:  # also when the caller stops here
                self._stop.set()
                for future in asked:
                    future.cancel()
        if stopped:
            raise stopped

    def _ask(self, text: str) -> str | None:
        try:
            return self._patiently(text)
        except EndpointError:
            self._stop.set()  # nothing more is sent, what is under way may still come in
            raise

    def _patiently(self, text: str) -> str | None:
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
        import openai

        settings, until = self.settings, time.monotonic() + self.settings.timeout
        try:
            with self._client.chat.completions.with_streaming_response.create(
                model=settings.model, messages=[{"role": "user", "content": text}],
                temperature=settings.temperature, max_tokens=settings.max_tokens, seed=settings.seed,
                extra_headers=None if settings.key_variable else {"Authorization": openai.omit},
            ) as response:  # fmt: skip
                return _reply(self._said(_read(response.http_response, until).decode("utf-8", "replace")))
        except (openai.APITimeoutError, TimeoutError):
            return _Outcome(reason="timeout")
        except (openai.APIConnectionError, _RefusedError, OSError) as error:
            cause = error.__cause__ or error  # openai 2 wraps what the hook raises
            if isinstance(cause, _RefusedError):
                return self._refused(cause)
            return _Outcome(reason=f"no answer ({self._said(str(cause))})")

    def _refused(self, error: _RefusedError) -> _Outcome:
        if error.status in _PASSING or error.status >= 500:
            wait = retry_after(error.wait)
            return _Outcome(reason=f"status {error.status}", wait=wait, busy=error.status in (429, 503))
        raise EndpointError(
            f"{self.settings.address} answers {error.status} ({self._said(str(error))[:500]}); "
            "check --endpoint, --model and --api-key-env"
        )

    def _said(self, text: str) -> str:
        """What a server says, without the key: some repeat what they were sent."""
        if len(self._key) < 6:  # a word of any reply
            return text
        for form in {self._key, quote(self._key, safe=""), json.dumps(self._key)[1:-1]}:
            text = text.replace(form, "***")
        cut = next((n for n in range(len(self._key) - 1, 3, -1) if text.endswith(self._key[:n])), 0)
        return f"{text[:-cut]}***" if cut else text  # the beginning of one at the end of what was read


class _RefusedError(Exception):
    """A status that is no success, with the beginning of what was sent along."""

    def __init__(self, response: Any) -> None:
        detail = next(response.iter_bytes(1000), b"").decode("utf-8", "replace")
        super().__init__(" ".join(detail.split()) or response.reason_phrase)
        self.status, self.wait = int(response.status_code), response.headers.get("Retry-After")


def _client(settings: EndpointSettings, key: str) -> Any:
    try:
        import openai
    except ImportError as error:
        raise ValueError("an endpoint needs the package openai: pip install 'comem[endpoints]'") from error

    def look(response: Any) -> None:
        """Refusals are read here: the client would read all of one, however long it is."""
        if response.status_code >= 300:
            raise _RefusedError(response)

    return openai.OpenAI(
        base_url=settings.address.removesuffix("/chat/completions"),
        api_key=key or "none",
        timeout=settings.timeout,
        max_retries=0,
        # a redirection is refused: the key would go to whatever host it names
        http_client=openai.DefaultHttpxClient(follow_redirects=False, event_hooks={"response": [look]}),
    )


def _read(response: Any, until: float) -> bytes:
    """The body, up to the deadline and no longer than a reply can be."""
    http = importlib.import_module(type(response).__module__.partition(".")[0])  # httpx, or its successor
    data = bytearray()
    try:
        for block in response.iter_bytes():
            data += block
            if time.monotonic() > until:
                raise TimeoutError
            if len(data) > _MAX_BYTES:
                raise OSError(f"more than {_MAX_BYTES} bytes")
    except http.TimeoutException as error:
        raise TimeoutError from error
    except http.HTTPError as error:
        raise OSError(str(error)) from error
    return bytes(data)


def _reply(body: str) -> _Outcome:
    try:
        content = parse_json(body)[0]["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        return _Outcome(reason="no chat completion")
    return _Outcome(content if isinstance(content, str) else "")
