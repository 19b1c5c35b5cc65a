"""The server: who may ask, what is asked, and how it is answered."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.exceptions import HTTPException

from comem import __version__
from comem.io.images import open_image
from comem.serve import upstream
from comem.serve.batching import Batcher
from comem.serve.errors import error_body, explained
from comem.serve.limits import Counting, Limits
from comem.serve.metrics import Metrics
from comem.serve.reading import (
    Images,
    Open,
    RequestError,
    content,
    conversation,
    decision_answers,
    decisions_of,
    state_of,
)
from comem.serve.settings import ANYBODY, Keys, ServeSettings
from comem.serve.shapes import (
    AddRequest,
    ChatRequest,
    DecisionsRequest,
    MemoryOptions,
    SearchRequest,
    SystemOneRequest,
    UpdateRequest,
)
from comem.serve.upstream import Upstream, UpstreamError
from comem.store.memory import Memory
from comem.store.shapes import Ask, MemoryAnswer, MemoryItem
from comem.store.table import NoItemError
from comem.store.table import Scope as Owner
from comem.types import ImageRef

logger = logging.getLogger(__name__)

#: Asked without any.
MODES = ("comem", "rag", "baseline", "vlm_as_memory")
#: Every route may answer so, in OpenAI's shape of errors.
_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/json": {"schema": {"type": "object"}}}}
    for status, text in (
        (400, "a request that cannot be read"),
        (401, "no key, or a wrong one"),
        (403, "another user's"),
        (404, "no such item or model"),
        (408, "a body that did not come"),
        (409, "another process writes"),
        (413, "too large"),
        (502, "the upstream cannot be reached, or refuses"),
        (503, "too many at once"),
        (504, "too slow"),
        (507, "no space left"),
    )
}
_IMAGES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": {}, "application/octet-stream": {}}}
}
_NOT_DONE = ("tools", "functions", "logprobs", "audio", "response_format")
_OTHERS = ["PUT", "DELETE", "POST", "PATCH"]
_T = TypeVar("_T")
_TICK = 0.2  # seconds between two looks whether a client is still there


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Attributes:
        user: whose items a key opens; `ANYBODY` where the request may say.
    """

    user: str

    def scope(self, user_id: str | None, agent_id: str | None = None, run_id: str | None = None) -> Owner:
        """Whose items a request is about.

        Raises:
            RequestError: somebody else's.
        """
        if self.user == ANYBODY:
            return Owner(user_id, agent_id, run_id)
        if user_id not in (None, self.user):
            raise RequestError("this key opens another user's memories", "user_id", "forbidden", 403)
        return Owner(self.user, agent_id, run_id)

    def sees(self, item: MemoryItem) -> bool:
        """Whether an item is the caller's."""
        return self.user in (ANYBODY, item.user_id)


class Service:
    """What the routes share.

    Args:
        memory: what is served.
        settings: limits.
        keys: who may ask.
        fetch: fetches images by URL; None refuses them.
    """

    def __init__(
        self, memory: Memory, settings: ServeSettings, keys: Keys, fetch: Open | None = None
    ) -> None:
        self.memory, self.settings, self.keys, self.fetch = memory, settings, keys, fetch
        self.metrics = Metrics()
        self.batcher = Batcher(memory, settings.batch_size, settings.queue, self.metrics.batch)
        self.adding = asyncio.Semaphore(4)
        self.upstream: Upstream | None = None
        if settings.upstream:
            key = os.environ.get("COMEM_UPSTREAM_KEY", "")
            model, timeout = settings.upstream_model, settings.timeout
            self.upstream = Upstream(memory, settings.upstream, model, key, timeout)
        self.modes = upstream.MODES if settings.upstream else MODES

    @property
    def name(self) -> str:
        """Of the model, for clients."""
        return self.memory.models.backbone_name.rstrip("/").rpartition("/")[2] or "comem"

    def mode(self, model: str) -> str:
        """The mode that a model's name means.

        Raises:
            RequestError: 404, for a name that is none.
        """
        if model in ("", self.name, "comem"):
            return self.memory.models.default_mode
        head, _, mode = model.rpartition("/")
        if mode in self.modes and head in ("", self.name, "comem"):
            return mode
        known = ", ".join(self.model_names())
        text = f"the model {model!r} does not exist; there are {known}"
        raise RequestError(text, "model", "model_not_found", 404)

    def model_names(self) -> list[str]:
        """The model, and it in each mode."""
        return [self.name, *(f"{self.name}/{mode}" for mode in self.modes)]

    def images(self) -> Images:
        """For one request."""
        return Images(self.settings.max_images, self.fetch)

    async def work(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """A call of the memory, in a thread, within the time of a request."""
        call = asyncio.to_thread(function, *args, **options)
        return await asyncio.wait_for(call, self.settings.timeout)

    async def read(self, function: Callable[..., Any], *args: Any) -> Any:
        """What a request means: in a thread where images may have to be fetched for it."""
        return function(*args) if self.fetch is None else await self.work(function, *args)

    async def add(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """A call that changes the memory: a few at once wait for the one writer, the others here."""
        async with self.adding:
            return await self.work(function, *args, **options)

    async def own(self, item_id: str, caller: Caller) -> MemoryItem:
        """An item of the caller; that of another is as one that is not there."""
        item: MemoryItem = await self.work(self.memory.get, item_id)
        if not caller.sees(item):
            raise NoItemError(f"no item {item_id!r} in this memory; it may have been deleted")
        return item

    def ask(self, request: ChatRequest, caller: Caller) -> Ask:
        """What a chat request asks.

        Raises:
            RequestError: a field that is not heeded, or out of the limits.
        """
        extra = request.model_extra or {}
        for name in () if self.upstream else _NOT_DONE:
            if extra.get(name) not in (None, False, [], {"type": "text"}):
                raise RequestError(f"{name} is not supported here", name, "unsupported_parameter")
        if request.n != 1 and not self.upstream:
            raise RequestError("n must be 1", "n", "unsupported_parameter")
        tokens = request.max_completion_tokens or request.max_tokens or min(256, self.settings.max_tokens)
        if tokens > self.settings.max_tokens:
            raise RequestError(f"at most {self.settings.max_tokens} tokens an answer", "max_tokens")
        stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
        if len(stop) > 4 or not all(stop):
            raise RequestError("stop: at most 4 texts, none empty", "stop")
        question, image, turns = conversation(request, self.images())
        turned = sum(len(p) for turn in turns for p in turn.content if isinstance(p, str))
        self.check_size(len(question) + turned, "messages")
        return Ask(
            question, image, turns, mode=self.mode(request.model),
            **_options(request.memory, request.user, caller),
            max_tokens=tokens, temperature=request.temperature or 0.0, top_p=request.top_p or 1.0,
            seed=(request.seed or 0) % 2**63, stop=stop,
        )  # fmt: skip

    def check_size(self, size: int, field: str) -> None:
        """Refuse so many characters before a model or a search sees them; RequestError."""
        if size > self.settings.max_chars:
            text = f"{size:,} characters, at most {self.settings.max_chars:,}"
            raise RequestError(text, field, "context_length_exceeded")

    def count(self, answer: MemoryAnswer) -> None:
        """Count an answer's tokens."""
        self.metrics.tokens.labels("read").inc(answer.prompt_tokens)
        self.metrics.tokens.labels("memory").inc(answer.context_tokens)
        self.metrics.tokens.labels("made").inc(answer.completion_tokens)


def _options(given: MemoryOptions | bool | None, user: str | None, caller: Caller) -> dict[str, Any]:
    """What of a memory a question uses, as `Ask` takes it."""
    options = given if isinstance(given, MemoryOptions) else MemoryOptions(k=0 if given is False else 3)
    return {
        "k": options.k, "by": options.by, "filters": options.filters, "threshold": options.threshold,
        "attention": options.attention,
        "scope": caller.scope(options.user_id or user, options.agent_id, options.run_id),
    }  # fmt: skip


def build_app(memory: Memory, settings: ServeSettings, keys: Keys, fetch: Open | None = None) -> FastAPI:
    """The application that serves a memory, for uvicorn or a test.

    Args:
        memory: what is served; closed with the application.
        settings: limits, and whether there is a page.
        keys: who may ask; without any, everybody who reaches it.
        fetch: fetches images by URL; None refuses them.
    """
    service = Service(memory, settings, keys, fetch)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.batcher.close)
        if service.upstream is not None:
            await service.upstream.close()
        memory.close()

    app = FastAPI(
        title="CoMEM",
        version=__version__,
        lifespan=life,
        docs_url="/docs",
        redoc_url=None,
        responses=_RESPONSES,
    )
    app.state.service = service
    _add_errors(app)
    _add_health(app, service)
    _add_chat(app, service)
    _add_memories(app, service)
    _add_images(app, service)
    _add_items(app, service)
    _add_decisions(app, service)
    if settings.ui:
        from comem.serve.page import add_page

        add_page(app)
    app.add_middleware(Counting, metrics=service.metrics)
    app.add_middleware(Limits, body=settings.max_body, connections=settings.connections)
    return app


async def _caller(request: Request) -> Caller:
    """Who asks, by the key of the request.

    Raises:
        RequestError: 401, no key or a wrong one.
    """
    keys: Keys = request.app.state.service.keys
    if not keys:
        return Caller(ANYBODY)
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    key = key.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
    user = keys.user(key) if key else None
    if user is None:
        raise RequestError("a key is needed: Authorization: Bearer KEY", None, "invalid_api_key", 401)
    return Caller(user)


_KNOWN = Depends(_caller)


def _add_errors(app: FastAPI) -> None:
    """Every error in OpenAI's shape."""

    def respond(_: Request, error: Exception) -> Response:
        status, body = explained(error)
        if status >= 500:
            logger.error("%s", error, exc_info=error)
        more = {503: {"retry-after": "1"}, 401: {"www-authenticate": "Bearer"}}
        return JSONResponse(body, status, more.get(status))

    for kind in (ValueError, OSError, asyncio.TimeoutError, UpstreamError, Exception):
        app.add_exception_handler(kind, respond)
    from comem.serve.batching import BusyError

    app.add_exception_handler(BusyError, respond)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        text = f"{where}: {first['msg']}" if where else str(first["msg"])
        return JSONResponse(error_body(text, 400, None, where or None), 400)

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        return JSONResponse(
            error_body(str(error.detail), error.status_code), error.status_code, error.headers
        )


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the server answers, and how many questions wait."""
        about = {"status": "ok", "version": __version__, "model": service.name}
        return {**about, "waiting": len(service.batcher)}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics(caller: Caller = _KNOWN) -> Response:
        """Counters in Prometheus' text format, of all users together."""
        if caller.user != ANYBODY:
            raise RequestError("what is counted is of all users: a key of * sees it", None, "forbidden", 403)
        service.metrics.waiting.set(len(service.batcher))
        service.metrics.items.set(await service.work(len, service.memory))
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models", dependencies=[_KNOWN])
    async def models() -> dict[str, Any]:
        """The model, and it in each mode."""
        return {"object": "list", "data": [_model(name) for name in service.model_names()]}

    @app.get("/v1/models/{name:path}", dependencies=[_KNOWN])
    async def model(name: str) -> dict[str, Any]:
        """One of the models."""
        service.mode(name)
        return _model(name)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "comem"}


# --- chat ---


def _add_chat(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatRequest, request: Request, caller: Caller = _KNOWN) -> Response | dict[str, Any]:
        """Answer a conversation from what is remembered."""
        asked = await service.read(service.ask, body, caller)
        if service.upstream is not None:
            return await _forwarded(service, service.upstream, body, asked, request)
        about = {
            "id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()),
            "model": body.model or service.name,
        }  # fmt: skip
        gone, deadline = threading.Event(), time.monotonic() + service.settings.timeout
        asked = replace(asked, cancelled=lambda: gone.is_set() or time.monotonic() > deadline)
        if body.stream:
            usage = body.stream_options is not None and body.stream_options.include_usage
            pieces = _stream(service, asked, about, gone, usage)
            # Errors before the first piece have a status of their own.
            first = await _unless_left(asyncio.ensure_future(anext(pieces)), request, gone)
            headers = {"cache-control": "no-cache"}
            return StreamingResponse(_rest(first, pieces), media_type="text/event-stream", headers=headers)
        waiting = asyncio.wrap_future(service.batcher.submit(asked))
        answer = await _unless_left(waiting, request, gone)
        service.count(answer)
        if answer.ending == "cancelled" and not gone.is_set():
            raise asyncio.TimeoutError
        choice = {
            "index": 0, "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "finish_reason": _finish(answer), "logprobs": None,
        }  # fmt: skip
        whole = {**about, "object": "chat.completion", "choices": [choice]}
        # As it is: walking through it once more, as FastAPI would, takes longer than writing it.
        return JSONResponse({**whole, "usage": _usage(answer), "comem": _sources(answer)})


async def _forwarded(
    service: Service, upstream: Upstream, body: ChatRequest, asked: Ask, request: Request
) -> Response | dict[str, Any]:
    """The answer of the upstream, with what it comes from."""
    start, name = time.perf_counter(), body.model or service.name
    model = await upstream.model()
    sent, sources = await service.work(upstream.request, body, asked, model)

    def told(whole: dict[str, Any]) -> dict[str, Any]:
        usage = whole.get("usage") or {}
        service.metrics.tokens.labels("read").inc(usage.get("prompt_tokens") or 0)
        service.metrics.tokens.labels("made").inc(usage.get("completion_tokens") or 0)
        if whole.get("object") != "chat.completion.chunk" or any(
            choice.get("finish_reason") for choice in whole.get("choices") or ()
        ):
            whole["comem"] = {**sources, "seconds": round(time.perf_counter() - start, 4)}
        return {**whole, "model": name}

    if body.stream:
        pieces = _events(upstream.stream(sent), told)
        first = await anext(pieces)  # errors before the first piece have a status of their own
        headers = {"cache-control": "no-cache"}
        return StreamingResponse(_rest(first, pieces), media_type="text/event-stream", headers=headers)
    answer = asyncio.ensure_future(upstream.answer(sent))
    while not (await asyncio.wait({answer}, timeout=_TICK))[0]:
        if await request.is_disconnected():
            answer.cancel()
    return told(answer.result())


async def _events(
    pieces: AsyncIterator[dict[str, Any] | None], told: Callable[[dict[str, Any]], dict[str, Any]]
) -> AsyncIterator[str]:
    """Server-sent events of pieces; an error in the middle becomes the last one."""
    begun = False
    try:
        async for piece in pieces:
            yield f"data: {'[DONE]' if piece is None else json.dumps(told(piece))}\n\n"
            begun = True
    except (UpstreamError, TimeoutError) as error:
        if not begun:
            raise
        yield f"data: {json.dumps(explained(error)[1])}\n\n"


async def _unless_left(answer: asyncio.Future[_T], request: Request, gone: threading.Event) -> _T:
    """What is waited for; when the client goes, the model is told."""
    while not (await asyncio.wait({answer}, timeout=_TICK))[0]:
        if await request.is_disconnected():
            gone.set()
    return answer.result()


async def _stream(
    service: Service, asked: Ask, about: Mapping[str, Any], gone: threading.Event, usage: bool
) -> AsyncIterator[str]:
    """Server-sent events of an answer as it is made; the end says what it comes from."""
    loop, start = asyncio.get_running_loop(), time.perf_counter()
    pieces: asyncio.Queue[str | None] = asyncio.Queue()

    def put(piece: str | None) -> None:
        loop.call_soon_threadsafe(pieces.put_nowait, piece)

    answer = service.batcher.submit(replace(asked, on_text=put))
    answer.add_done_callback(lambda _: put(None))
    head = {**about, "object": "chat.completion.chunk"}

    def event(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return f"data: {json.dumps({**head, 'choices': [choice], **more})}\n\n"

    try:
        first = await pieces.get()
        if first is None and (error := answer.exception()) is not None:
            raise error
        service.metrics.first.observe(time.perf_counter() - start)
        yield event({"role": "assistant", "content": ""})
        piece = first
        while piece is not None:
            yield event({"content": piece})
            piece = await pieces.get()
        if (error := answer.exception()) is not None:
            yield f"data: {json.dumps(explained(error)[1])}\n\n"
            return
        made = answer.result()
        service.count(made)
        yield event({}, _finish(made), comem=_sources(made))
        if usage:
            yield f"data: {json.dumps({**head, 'choices': [], 'usage': _usage(made)})}\n\n"
        yield "data: [DONE]\n\n"
    finally:
        gone.set()


async def _rest(first: str, pieces: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for piece in pieces:
        yield piece


def _finish(answer: MemoryAnswer) -> str:
    return "length" if answer.ending in ("length", "cancelled") else "stop"


def _usage(answer: MemoryAnswer) -> dict[str, Any]:
    made, read = answer.completion_tokens, answer.prompt_tokens
    return {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made}


def _sources(answer: MemoryAnswer) -> dict[str, Any]:
    """What an answer comes from, beside OpenAI's fields."""
    return {
        "items": [item.as_dict() for item in answer.items], "mode": answer.mode,
        "context_tokens": answer.context_tokens, "seconds": round(answer.seconds, 4),
    }  # fmt: skip


# --- memories ---


def _add_memories(app: FastAPI, service: Service) -> None:
    memory = service.memory

    def image(url: str | None) -> ImageRef | None:
        return None if url is None else service.images()(url)

    @app.post("/v1/memories")
    async def add(body: AddRequest, caller: Caller = _KNOWN) -> dict[str, Any]:
        """Remember messages, a text, an image."""
        owner = caller.scope(body.user_id, body.agent_id, body.run_id)
        if body.id is not None and body.id.endswith(("/history", "/image")):
            raise RequestError("an id cannot end in /history or /image here", "id")
        found, shown = await service.read(_to_remember, body, service.images())
        thing = {"text": found or ""}  # a text is a text, never a path of the server
        added = await service.add(
            memory.add, thing, shown, user_id=owner.user_id, agent_id=owner.agent_id, run_id=owner.run_id,
            metadata=body.metadata, id=body.id,
        )  # fmt: skip
        items = [await service.work(memory.get, each) for each in added.ids]
        return {"results": [{"id": item.id, "memory": item.text, "event": "ADD"} for item in items]}

    @app.get("/v1/memories")
    async def listed(
        user_id: str | None = None, agent_id: str | None = None, run_id: str | None = None,
        limit: int = Query(100, ge=1, le=1000), offset: int = Query(0, ge=0, lt=2**62),
        caller: Caller = _KNOWN,
    ) -> dict[str, Any]:  # fmt: skip
        """Items, the newest first."""
        owner = caller.scope(user_id, agent_id, run_id)
        whose = {"user_id": owner.user_id, "agent_id": owner.agent_id, "run_id": owner.run_id}
        items = await service.work(memory.get_all, **whose, limit=limit, offset=offset, images=False)
        total = await service.work(memory.count, **whose)
        return {"results": [item.as_dict() for item in items], "total": total}

    @app.delete("/v1/memories")
    async def delete_all(
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        caller: Caller = _KNOWN,
    ) -> dict[str, Any]:
        """Delete all items of somebody, who must be named."""
        owner = caller.scope(user_id, agent_id, run_id)
        count = await service.add(
            memory.delete_all, user_id=owner.user_id, agent_id=owner.agent_id, run_id=owner.run_id
        )
        return {"message": f"{count} memories deleted", "count": count}

    @app.post("/v1/memories/search")
    async def search(body: SearchRequest, caller: Caller = _KNOWN) -> dict[str, Any]:
        """The items nearest to a text, an image, or both."""
        owner = caller.scope(body.user_id, body.agent_id, body.run_id)
        service.check_size(len(body.query or ""), "query")
        shown = await service.read(image, body.image)
        items = await service.work(
            memory.search, body.query, shown, k=body.top_k, filters=body.filters,
            threshold=body.threshold, user_id=owner.user_id, agent_id=owner.agent_id, run_id=owner.run_id,
        )  # fmt: skip
        return {"results": [item.as_dict() for item in items]}


def _add_images(app: FastAPI, service: Service) -> None:
    """Before the routes of items, for an id may have slashes."""

    @app.get("/v1/memories/{item_id:path}/image", response_class=Response, responses=_IMAGES)
    async def picture(
        item_id: str, side: int | None = Query(None, ge=16, le=4096), caller: Caller = _KNOWN
    ) -> Response:
        """An item's image as a JPEG, `side` pixels at most; without, as it was given."""
        item = await service.own(item_id, caller)
        if item.image is None or item.image.data is None:
            raise NoItemError(f"the item {item_id!r} has no image")
        headers = {"cache-control": "private, no-store", "x-content-type-options": "nosniff"}
        if side is None:
            return Response(item.image.data, media_type="application/octet-stream", headers=headers)
        small = await service.work(_thumbnail, item.image, side)
        return Response(small, media_type="image/jpeg", headers=headers)


def _add_items(app: FastAPI, service: Service) -> None:
    """Routes of one item each; after those of `_add_memories`, for an id may have slashes."""
    memory = service.memory

    def image(url: str | None) -> ImageRef | None:
        return None if url is None else service.images()(url)

    @app.get("/v1/memories/{item_id:path}/history")
    async def history(item_id: str, caller: Caller = _KNOWN) -> list[dict[str, Any]]:
        """What happened to an item."""
        await service.own(item_id, caller)
        found: list[dict[str, Any]] = await service.work(memory.history, item_id)
        return found

    @app.api_route("/v1/memories/{item_id:path}/history", methods=_OTHERS, include_in_schema=False)
    @app.api_route("/v1/memories/{item_id:path}/image", methods=_OTHERS, include_in_schema=False)
    async def read_only(item_id: str) -> None:
        """An item's history and image are read; without this they would be items of such ids."""
        raise HTTPException(405, "Method Not Allowed", {"allow": "GET"})

    @app.get("/v1/memories/{item_id:path}")
    async def get(item_id: str, caller: Caller = _KNOWN) -> dict[str, Any]:
        """One item."""
        return (await service.own(item_id, caller)).as_dict()

    @app.put("/v1/memories/{item_id:path}")
    async def update(item_id: str, body: UpdateRequest, caller: Caller = _KNOWN) -> dict[str, Any]:
        """Change an item; what is not given stays."""
        await service.own(item_id, caller)
        shown = await service.read(image, body.image)
        item = await service.add(memory.update, item_id, body.text, shown, body.metadata)
        return {**item.as_dict(), "event": "UPDATE"}

    @app.delete("/v1/memories/{item_id:path}")
    async def delete(item_id: str, caller: Caller = _KNOWN) -> dict[str, Any]:
        """Delete an item from every file."""
        await service.own(item_id, caller)
        await service.add(memory.delete, item_id)
        return {"message": "memory deleted", "id": item_id}


def _to_remember(body: AddRequest, images: Images) -> tuple[str | None, ImageRef | None]:
    """Content and image of an addition: of several messages one item, as mem0 without its own extraction."""
    shown = None if body.image is None else images(body.image)
    if body.messages is None:
        return body.text, shown
    if isinstance(body.messages, str):
        return body.messages, shown
    lines = []
    for message in body.messages:
        parts = content(message.get("content"), images)
        pictures = [part for part in parts if isinstance(part, ImageRef)]
        if pictures and (shown is not None or len(pictures) > 1):
            raise RequestError("one image a memory: add each by a request of its own", "messages")
        shown = pictures[0] if pictures else shown
        text = " ".join(part for part in parts if isinstance(part, str))
        lines.append(f"{message['role']}: {text}" if len(body.messages) > 1 and message.get("role") else text)
    return "\n".join(line for line in lines if line), shown


def _thumbnail(image: ImageRef, side: int) -> bytes:
    small = open_image(image).copy()
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


# --- decisions ---


def _add_decisions(app: FastAPI, service: Service) -> None:
    async def decide(state: Any, questions: dict[str, Any], assets: Any, options: dict[str, Any]) -> Any:
        if service.upstream is not None:
            raise RequestError("decisions are made by a reader here: serve without --upstream", "model")
        service.check_size(len(json.dumps([state, questions], ensure_ascii=False)), "questions")
        owner = options["scope"]
        return await service.work(
            service.memory.decide, state, questions, assets=assets, k=options["k"], by=options["by"],
            filters=options["filters"], user_id=owner.user_id, agent_id=owner.agent_id, run_id=owner.run_id,
        )  # fmt: skip

    @app.post("/v1/systemone")
    async def systemone(body: SystemOneRequest, caller: Caller = _KNOWN) -> dict[str, Any]:
        """Typed questions about a state, its images, and what is remembered."""
        service.mode(body.model)
        state, assets = await service.read(state_of, body, service.images())
        found = await decide(state, body.questions, assets, _options(body.memory, None, caller))
        return {
            "model": body.model or service.name, "answers": found.answers, "diagnostics": found.diagnostics,
            "usage": {"input_tokens": found.input_tokens, "output_tokens": 0},
            "comem": {"items": [item.as_dict() for item in found.items], "seconds": round(found.seconds, 4)},
        }  # fmt: skip

    @app.post("/v1/decisions")
    async def decisions(body: DecisionsRequest, caller: Caller = _KNOWN) -> dict[str, Any]:
        """The same in OpenAI's shape."""
        service.mode(body.model)
        state, assets, questions = await service.read(decisions_of, body, service.images())
        found = await decide(state, questions, assets, _options(body.memory, None, caller))
        usage = {
            "input_tokens": found.input_tokens, "output_tokens": 0, "total_tokens": found.input_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        }  # fmt: skip
        return {
            "model": body.model or service.name, "answers": decision_answers(body, found.answers),
            "usage": usage,
            "comem": {"items": [item.as_dict() for item in found.items], "seconds": round(found.seconds, 4)},
        }  # fmt: skip
