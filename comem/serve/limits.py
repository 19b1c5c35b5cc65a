"""What is refused before it is read: too many at once, too large, too slow, too deep."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from comem.serve.errors import error_body
from comem.serve.metrics import Metrics

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

DEPTH = 40  # of JSON
_BODY_SECONDS = 30.0  # in which a whole body must have come
_LONG = 1 << 20  # bytes of a body that others do not wait for
_METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS")
_MARKS = b'"[]{}'
_OTHERS = bytes(each for each in range(256) if each not in _MARKS)


def depth(body: bytes) -> int:
    """How deep a JSON text nests, without parsing it."""
    marks = body.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _OTHERS)
    deepest = now = 0
    for outside in marks.split(b'"')[::2]:
        for mark in outside:
            now += 1 if mark in b"[{" else -1
            deepest = max(deepest, now)
    return deepest


async def _depth(body: bytes) -> int:
    return depth(body) if len(body) < _LONG else await asyncio.to_thread(depth, body)


class Limits:
    """An ASGI layer that reads bodies whole, within limits, before anything else sees the request.

    Args:
        app: what is behind it.
        body: bytes of a body.
        connections: requests at once.
    """

    def __init__(self, app: App, body: int, connections: int) -> None:
        self._app, self._body, self._connections, self._now = app, body, connections, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._now >= self._connections:
            await _refuse(send, 503, "too many requests at once; come again in a moment", "overloaded")
            return
        self._now += 1
        try:
            await self._within(scope, receive, send)
        finally:
            self._now -= 1

    async def _within(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        try:
            said = int(headers.get(b"content-length", b"0"))
        except ValueError:
            said = 0
        if said > self._body:
            await self._too_large(send)
            return
        try:
            body = await asyncio.wait_for(self._read(receive), _BODY_SECONDS)
        except asyncio.TimeoutError:
            await _refuse(send, 408, f"the body did not come within {_BODY_SECONDS:.0f} s", "timeout")
            return
        if body is None:  # the client has gone in the middle of it: nobody is left to tell
            return
        if len(body) > self._body:
            await self._too_large(send)
            return
        if b"json" in headers.get(b"content-type", b"json") and await _depth(body) > DEPTH:
            await _refuse(send, 400, f"JSON nested more than {DEPTH} deep", "invalid_request_error")
            return
        given = False

        async def replay() -> MutableMapping[str, Any]:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)

    async def _read(self, receive: Receive) -> bytes | None:
        """The whole body, or a little more than is allowed; None if the client left."""
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._body or not message.get("more_body", False):
                return b"".join(parts)

    async def _too_large(self, send: Send) -> None:
        await _refuse(send, 413, f"a request may have {self._body:,} bytes; send smaller images", "too_large")


class Counting:
    """An ASGI layer that counts requests by route, method and status, and their seconds.

    Args:
        app: what is behind it.
        metrics: where they are counted.
    """

    def __init__(self, app: App, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def watch(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in _METHODS else "other"  # what clients make up grows
            self._metrics.requests.labels(route, method, status).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - start)


async def _refuse(send: Send, status: int, message: str, code: str) -> None:
    body = json.dumps(error_body(message, status, code)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(b"connection", b"close")] + ([(b"retry-after", b"1")] if status == 503 else [])
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
