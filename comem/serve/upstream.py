"""The gateway: questions go to a running vLLM, and what is remembered for them goes along as embeddings.

vLLM 0.22 and later take `{"type": "prompt_embeds", "data": …}` beside `image_url` in a chat's content (its
pull request 40720; `vllm serve --enable-prompt-embeds`): base64 of what `torch.save` writes of a tensor `(n,
hidden)`, whose rows stand in the prompt where the part stands in the content.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import torch
from torch import Tensor

from comem.backbones.base import item_turns, joined
from comem.backbones.specs import RagFormat
from comem.io.files import harmless
from comem.io.images import open_image
from comem.io.run_folder import warn_of_open_key
from comem.memory.injection.in_turn import SEPARATOR
from comem.serve.reading import RequestError
from comem.serve.shapes import ChatRequest
from comem.store.memory import Memory
from comem.store.shapes import Ask, MemoryItem
from comem.types import ImageRef, KnowledgeItem, Message

#: What can be asked of it.
MODES = ("comem", "rag", "baseline")
#: Whose content the template of `memory_template` writes before everything else.
ROLE = "memory"
_TEMPLATE = """{%- if messages and messages[0]['role'] == 'memory' -%}
{%- if messages[0]['content'] is string -%}
{{- messages[0]['content'] -}}
{%- else -%}
{%- for part in messages[0]['content'] -%}{{- part['text'] -}}{%- endfor -%}
{%- endif -%}
{%- set messages = messages[1:] -%}
{%- endif -%}
"""
#: What chat templates write between turns: the upstream's tokenizer would read it in a text, too.
_MARKS = re.compile(r"<\|[^<>|]{1,40}\|>|</?s>|<(?:start|end)_of_turn>|<prompt_embeds>|\[/?INST\]")
_PASSED = (400, 404, 413, 422, 429, 503)
_MIME = {b"\x89PNG": "png", b"\xff\xd8": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}


class UpstreamError(Exception):
    """The upstream cannot be reached, or refuses; `status` is what the client is told."""

    def __init__(self, message: str, status: int = 502) -> None:
        super().__init__(message)
        self.status = status


def embeds_part(memory: Tensor) -> dict[str, str]:
    """A content part with a memory `(q, d)`, as vLLM takes it.

    Example:
        >>> embeds_part(torch.zeros(8, 1024))["type"]
        'prompt_embeds'
    """
    buffer = io.BytesIO()
    torch.save(memory.detach().cpu().contiguous().clone(), buffer)  # a view would bring all of its storage
    return {"type": "prompt_embeds", "data": base64.b64encode(buffer.getvalue()).decode("ascii")}


def memory_template(template: str) -> str:
    """A chat template that writes the memory before everything else, then what the given one writes.

    An encoder that was trained with the soft prefix needs its memory there, where no content of a turn
    reaches: `vllm serve --chat-template FILE`.
    """
    return _TEMPLATE + template


def messages_of(
    ask: Ask, items: Sequence[MemoryItem], memories: Sequence[Tensor], layout: str
) -> list[dict[str, Any]]:
    """The messages of a request to vLLM: the conversation as `comem.modes` assembles it, with its memories.

    Args:
        ask: question, image, turns, mode.
        items: what was found, best first; in the rag mode they become turns.
        memories: of each item `(q, d)`; in the comem mode they become parts, in the same order.
        layout: "prefix" (a message of its own before all, for `memory_template`), or "in_turn" (at the
            beginning of the first user's turn, a blank line behind).

    Raises:
        RequestError: another layout, or an image that cannot be sent.
    """
    shown = () if ask.image is None else (ask.image,)
    turns = [*ask.turns, Message("user", (*shown, ask.question))]
    if ask.mode == "rag":
        known = [KnowledgeItem(each.id, each.text, each.image) for each in items]
        system = [turn for turn in turns if turn.role == "system"]
        rest = [turn for turn in turns if turn.role != "system"]
        turns = [*system, *item_turns(RagFormat(), known), *rest]
    messages: list[dict[str, Any]] = [
        {"role": turn.role, "content": [_part(part) for part in joined(turn.content)]} for turn in turns
    ]
    if ask.mode != "comem" or not memories:
        return messages
    parts: list[dict[str, Any]] = [embeds_part(memory) for memory in memories]
    if layout == "prefix":
        return [{"role": ROLE, "content": parts}, *messages]
    if layout == "in_turn":
        first = next(message for message in messages if message["role"] == "user")
        first["content"] = [*parts, *_behind(SEPARATOR, first["content"])]
        return messages
    raise RequestError(f"memories of the layout {layout!r} cannot be sent to vLLM: prefix and in_turn can")


def _behind(text: str, parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A text before parts, in one piece with theirs: a token must not end where two parts meet."""
    if parts and parts[0]["type"] == "text":
        return [{"type": "text", "text": text + parts[0]["text"]}, *parts[1:]]
    return [{"type": "text", "text": text}, *parts]


def _part(part: Any) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": harmless(part, _MARKS)}
    return {"type": "image_url", "image_url": {"url": _uri(part)}}


def _uri(image: ImageRef) -> str:
    """As data: the upstream fetches nothing."""
    data = image.data
    kind = next((kind for mark, kind in _MIME.items() if data and data.startswith(mark)), None)
    if data is None or kind is None:
        buffer = io.BytesIO()
        open_image(image).save(buffer, "PNG")
        data, kind = buffer.getvalue(), "png"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


class Upstream:
    """A vLLM that answers what this memory is asked.

    Args:
        memory: what is remembered; its reader is not loaded.
        url: of the OpenAI-compatible server, with or without /v1.
        model: as the upstream names it; "" for the first that it has.
        key: sent as its bearer key.
        timeout: seconds of a request.
    """

    def __init__(
        self, memory: Memory, url: str, model: str = "", key: str = "", timeout: float = 120
    ) -> None:
        self._memory, self._model = memory, model
        base = url.rstrip("/").removesuffix("/v1") + "/v1/"
        headers = {"authorization": f"Bearer {key}"} if key else {}
        warn_of_open_key(url, key)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        self._http = httpx.AsyncClient(
            base_url=base, headers=headers, timeout=timeout, limits=limits, trust_env=False
        )

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def model(self) -> str:
        """As the upstream names it.

        Raises:
            UpstreamError: it cannot be reached.
        """
        if not self._model:
            async with self._sent("GET", "models") as response:
                found = json.loads(await response.aread()).get("data") or []
            if not found:
                raise UpstreamError("the upstream serves no model")
            self._model = str(found[0]["id"])
        return self._model

    def request(self, body: ChatRequest, ask: Ask, model: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """What is sent, and what the answer comes from.

        Raises:
            ValueError: as `Memory.found`.
        """
        items, memories = self._memory.found(ask)
        layout = self._memory.models.layout(self._memory.about()) if memories else "prefix"
        messages = messages_of(ask, items, memories, layout)
        sent = body.model_dump(exclude_unset=True, exclude={"memory", "messages", "model", "user"})
        sources = {
            "items": [item.as_dict() for item in items], "mode": ask.mode,
            "context_tokens": sum(map(len, memories)),
        }  # fmt: skip
        return {**sent, "model": model, "messages": messages}, sources

    async def answer(self, sent: Mapping[str, Any]) -> dict[str, Any]:
        """The upstream's answer, whole.

        Raises:
            UpstreamError: it cannot be reached, or refuses.
        """
        async with self._sent("POST", "chat/completions", sent) as response:
            whole: dict[str, Any] = json.loads(await response.aread())
            return whole

    async def stream(self, sent: Mapping[str, Any]) -> AsyncIterator[dict[str, Any] | None]:
        """The pieces of an answer as they come, None at the end; leaving it ends the upstream's work.

        Raises:
            UpstreamError: as `answer`.
        """
        async with self._sent("POST", "chat/completions", sent) as response:
            async for line in response.aiter_lines():
                data = line.removeprefix("data:").strip()
                if line.startswith("data:") and data:
                    yield None if data == "[DONE]" else json.loads(data)

    @asynccontextmanager
    async def _sent(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> AsyncIterator[httpx.Response]:
        try:
            async with self._http.stream(method, path, json=body) as response:
                if response.status_code != 200:
                    raise _refused(response.status_code, await response.aread())
                yield response
        except httpx.TimeoutException as error:
            raise TimeoutError("the upstream took too long") from error
        except httpx.HTTPError as error:
            raise UpstreamError(
                f"the upstream cannot be reached ({error or type(error).__name__})"
            ) from error
        except json.JSONDecodeError as error:
            raise UpstreamError("the upstream does not answer as OpenAI's API does") from error


def _refused(status: int, body: bytes) -> UpstreamError:
    """Why the upstream refused: the client's doing is told as it is, the rest is ours."""
    try:
        told = json.loads(body)
        told = told.get("error", told)
        text = str(told.get("message", told)) if isinstance(told, dict) else str(told)
    except ValueError:
        text = body[:200].decode("utf-8", "replace")
    return UpstreamError(f"the upstream refused: {text[:1000]}", status if status in _PASSED else 502)
