"""What requests look like: OpenAI's, mem0's and System One's shapes, as far as they are heeded."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Lenient(BaseModel):
    """A request in somebody else's format: fields that change nothing here are let through."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


class ChatMessage(Lenient):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[dict[str, Any]] | None = None


class MemoryOptions(BaseModel):
    """What is put before the model (`"memory": {…}` beside OpenAI's fields).

    Attributes:
        k: items; 0 for none.
        by: what they are searched by: auto (the image if there is one), image, text, both.
        user_id: only theirs, as are `agent_id` and `run_id`.
        agent_id: see `user_id`.
        run_id: see `user_id`.
        filters: on metadata.
        threshold: items that score less are left out.
        attention: measure how much each was attended to.
    """

    model_config = ConfigDict(extra="forbid")

    k: int = Field(3, ge=0, le=100)
    by: Literal["auto", "image", "text", "both"] = "auto"
    user_id: str | None = None
    agent_id: str | None = None
    run_id: str | None = None
    filters: dict[str, Any] | None = None
    threshold: float | None = None
    attention: bool = False


class StreamOptions(Lenient):
    """OpenAI's options of a stream."""

    include_usage: bool = False


class ChatRequest(Lenient):
    """`POST /v1/chat/completions`."""

    model: str = ""
    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = 1
    user: str | None = None
    memory: MemoryOptions | bool | None = None


class AddRequest(Lenient):
    """`POST /v1/memories`: mem0's messages, or a text and an image."""

    messages: str | list[dict[str, Any]] | None = None
    text: str | None = None
    image: str | None = None
    user_id: str | None = None
    agent_id: str | None = None
    run_id: str | None = None
    metadata: dict[str, Any] | None = None
    id: str | None = None


class UpdateRequest(Lenient):
    """`PUT /v1/memories/{id}`."""

    text: str | None = None
    image: str | None = None
    metadata: dict[str, Any] | None = None


class SearchRequest(Lenient):
    """`POST /v1/memories/search`."""

    query: str | None = None
    image: str | None = None
    user_id: str | None = None
    agent_id: str | None = None
    run_id: str | None = None
    top_k: int = Field(10, ge=1, le=1000)
    filters: dict[str, Any] | None = None
    threshold: float | None = None


class SystemOneRequest(BaseModel):
    """`POST /v1/systemone`: typed questions about a state, its images and what is remembered."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str = ""
    state: str | dict[str, Any] | list[Any]
    questions: dict[str, dict[str, Any]] = Field(min_length=1, max_length=64)
    assets: dict[str, dict[str, Any]] = Field(default_factory=dict, max_length=8)
    images: list[str] = Field(default_factory=list, max_length=8)
    memory: MemoryOptions | bool | None = None


class DecisionsRequest(Lenient):
    """`POST /v1/decisions`: the same in OpenAI's shape."""

    model: str = ""
    input: str | list[dict[str, Any]]
    questions: list[dict[str, Any]] = Field(min_length=1, max_length=200)
    memory: MemoryOptions | bool | None = None
