"""Knowledge items as chat turns: how plain RAG is shown them."""

from __future__ import annotations

from collections.abc import Iterable

from comem.backbones.row import RagFormat
from comem.types import ImageRef, KnowledgeItem, Message


def item_turns(form: RagFormat, items: Iterable[KnowledgeItem]) -> list[Message]:
    """One user turn per item, in order; items of which the form shows nothing (pictures alone) have none."""
    return [Message("user", content) for item in items if (content := item_parts(form, item))]


def item_parts(form: RagFormat, item: KnowledgeItem) -> tuple[str | ImageRef, ...]:
    """What a model is shown of an item, without empty parts."""
    image = item.image if form.images else None
    text = item.text[: form.passage_chars]
    parts: tuple[str | ImageRef | None, ...] = (text, image) if form.passage_first else (image, text)
    return tuple(part for part in parts if part)
