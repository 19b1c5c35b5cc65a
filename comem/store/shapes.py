"""What a memory is asked and what it gives: items, questions, answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from comem.backbones.base import GenerationConfig
from comem.retrieval.corpus.videos import clock
from comem.store.table import Found, Scope
from comem.types import ImageRef, KnowledgeItem, Message

MAX_TOKENS = 65_536  # of an answer, whose room is made at once
By = Literal["auto", "image", "text", "both"]


@dataclass(frozen=True)
class MemoryItem:
    """What a memory keeps of one thing.

    Attributes:
        id: unique in the memory.
        text: the passage, or "".
        image: as it was given, or None; `comem.io.images.open_image` opens it.
        user_id: whose it is, as are `agent_id` and `run_id`.
        agent_id: see `user_id`.
        run_id: see `user_id`.
        metadata: what was given with it.
        created_at: seconds since 1970.
        updated_at: seconds since 1970.
        score: how well it fits what was looked for, 1 at the best; None if nothing was.
        attention: the share of the answer's attention that its memory got; None if that was not measured.
    """

    id: str
    text: str
    image: ImageRef | None = field(default=None, repr=False)
    user_id: str | None = None
    agent_id: str | None = None
    run_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    created_at: float = 0.0
    updated_at: float = 0.0
    score: float | None = None
    attention: float | None = None

    @property
    def when(self) -> str:
        """Of a stretch of a video when it is shown there, as in "1:20 to 1:30"; else ""."""
        start, end = self.metadata.get("start"), self.metadata.get("end")
        if isinstance(start, (int, float)) and isinstance(end, (int, float)) and 0 <= start <= end:
            return f"{clock(start)} to {clock(end)}"
        return ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values in the shape of mem0's memories; the image apart."""
        found = {"id": self.id, "memory": self.text, "has_image": self.image is not None}
        found |= {"when": self.when} if self.when else {}
        found |= {name: value for name in ("user_id", "agent_id", "run_id") if (value := getattr(self, name))}
        found |= {"metadata": dict(self.metadata)}
        found |= {name: _iso(getattr(self, name)) for name in ("created_at", "updated_at")}
        shown = ((name, getattr(self, name)) for name in ("score", "attention"))
        return found | {name: round(value, 6) for name, value in shown if value is not None}


@dataclass(frozen=True)
class MemoryAnswer:
    """An answer, and where it comes from.

    Attributes:
        text: the answer.
        items: what was put before the model, best first, with scores and, where measured, attention.
        seconds: from the question to the answer, the search included.
        mode: how it was asked.
        prompt_tokens: positions that the model read, memories included.
        context_tokens: of these, what the items took.
        completion_tokens: made by the model.
        ending: "stop", "length" (of the most tokens), or "cancelled".
    """

    text: str
    items: tuple[MemoryItem, ...] = ()
    seconds: float = 0.0
    mode: str = ""
    prompt_tokens: int = 0
    context_tokens: int = 0
    completion_tokens: int = 0
    ending: str = "stop"


@dataclass(frozen=True)
class Added:
    """What `add` did.

    Attributes:
        ids: of the items that are new or changed, in order.
        unchanged: items of a folder that were there already.
        skipped: what could not be added, each with the reason.
    """

    ids: tuple[str, ...] = ()
    unchanged: int = 0
    skipped: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Of the first item; ValueError if nothing was added."""
        if not self.ids:
            raise ValueError(f"nothing was added: {self.skipped[0] if self.skipped else 'all was there'}")
        return self.ids[0]


@dataclass(frozen=True)
class Ask:
    """One question with everything that decides its answer; what `Memory.ask_many` takes.

    Attributes:
        question: the text.
        image: shown with it, and searched with.
        turns: of the conversation before it.
        mode: a row of `comem.MODES`; "" for comem, or rag where no embeddings are kept.
        k: items at most; 0 asks without.
        by: what the items are searched by: the image if there is one, else the text ("auto"), or both.
        scope: whose items.
        filters: conditions on the metadata (`Memory.search`).
        threshold: items that score less are left out.
        max_tokens: the longest answer.
        temperature: 0 is greedy.
        top_p: as usual.
        repetition_penalty: 1 is none.
        seed: of sampling.
        stop: texts before which the answer ends.
        attention: measure how much each memory was attended to, in one more pass.
        on_text: is given the answer piece by piece.
        cancelled: asked at each token whether nobody waits any longer.
    """

    question: str
    image: ImageRef | None = None
    turns: tuple[Message, ...] = ()
    mode: str = ""
    k: int = 3
    by: By = "auto"
    scope: Scope = Scope()
    filters: Mapping[str, Any] | None = None
    threshold: float | None = None
    max_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    attention: bool = False
    on_text: Callable[[str], object] | None = None
    cancelled: Callable[[], bool] | None = None

    def __post_init__(self) -> None:
        if not text_of(self.question) and self.image is None:
            raise ValueError("an empty question: give a text, an image, or both")
        check_amount(self.k)
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        if not all(self.stop):
            raise ValueError("stop: texts before which the answer ends, none of them empty")
        if self.max_tokens > MAX_TOKENS:
            raise ValueError(f"max_tokens={self.max_tokens}: at most {MAX_TOKENS:,}")
        if self.by not in ("auto", "image", "text", "both"):
            raise ValueError(f"by={self.by!r}: search by auto, image, text or both")
        if self.by in ("image", "both") and self.image is None:
            raise ValueError(f"by={self.by!r}, but the question has no image")
        _ = self.generation

    @property
    def generation(self) -> GenerationConfig:
        """How it is decoded."""
        return GenerationConfig(
            self.max_tokens, self.temperature, self.top_p, self.repetition_penalty, self.seed
        )

    @property
    def batch(self) -> tuple[Any, ...]:
        """Questions of which this is equal can be answered in one batch; sampled ones go alone."""
        greedy = self.temperature == 0
        return (self.mode, greedy, self.repetition_penalty, None if greedy else id(self))


def text_of(value: Any) -> str:
    """A text without what stands around it; "" for None."""
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{value!r:.80}: give a text")
    return (value or "").strip()


def check_amount(k: Any) -> None:
    """Refuse a number of items that is none."""
    if not isinstance(k, int) or k < 0:
        raise ValueError(f"k={k!r}: how many items at most, a whole number; 0 for none")


@dataclass(frozen=True)
class Hit:
    """An item that was found, with what is needed to show it to the model."""

    found: Found
    image: bytes | None
    memory: bytes | None
    score: float

    @cached_property
    def item(self) -> KnowledgeItem:
        """For a mode."""
        reference = None if self.image is None else ImageRef(data=self.image)
        return KnowledgeItem(self.found.id, self.found.text, reference)


def as_item(
    found: Found, image: bytes | None, score: float | None = None, attention: float | None = None
) -> MemoryItem:
    """An item as people get it."""
    scope = found.scope
    reference = None if image is None else ImageRef(data=image)
    return MemoryItem(
        found.id, found.text, reference, scope.user_id, scope.agent_id, scope.run_id, found.metadata,
        found.created, found.updated, score, attention,
    )  # fmt: skip


def _iso(seconds: float) -> str:
    from datetime import datetime, timezone

    return datetime.fromtimestamp(seconds, timezone.utc).isoformat()
