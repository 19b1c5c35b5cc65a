"""From conversations to a batch of tensors: chat template, images, one processor call."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from torch import Tensor

from comem.backbones.specs import BackboneError, BackboneSpec, RagFormat
from comem.io.images import open_image
from comem.types import ImageRef, KnowledgeItem, Message

Conversations = Sequence[Sequence[Message]]


@dataclass(frozen=True)
class ChatProcessor:
    """Renders conversations for one model.

    Attributes:
        spec: the row that says whether the model sees images, and how many.
        processor: the model's processor, or its tokenizer if it reads text only.
        min_pixels: images are enlarged to at least this many pixels; None as the processor has it.
        max_pixels: images are reduced to at most this many pixels; None as the processor has it.
    """

    spec: BackboneSpec
    processor: Any
    min_pixels: int | None = None
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        if not self._limited:
            return
        if not self.spec.pixel_limits or not self.spec.sees_images:
            raise BackboneError(f"{self.spec.name} takes no pixel limits: leave min_pixels, max_pixels out")
        low, high = self._edges()
        if not 0 < low <= high:
            raise BackboneError(f"pixel limits {low}..{high}: give 0 < min_pixels <= max_pixels")

    @property
    def tokenizer(self) -> Any:
        return getattr(self.processor, "tokenizer", self.processor)

    @property
    def _limited(self) -> bool:
        return self.min_pixels is not None or self.max_pixels is not None

    def __call__(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        add_generation_prompt: bool = True,
        padding_side: Literal["left", "right"] = "left",
    ) -> dict[str, Tensor]:
        """One batch.

        Special tokens inside texts (a passage that quotes `<|im_end|>`) become spaces, so that data
        cannot change the structure of a conversation.

        Returns:
            `input_ids`, `attention_mask` `(b, l)` and what else the processor makes, on the CPU.

        Raises:
            BackboneError: no conversation, more images than the model takes, or conversations that do not
                go together (see `groups`).
            ImageError: an image that cannot be opened.
        """
        if not conversations:
            raise BackboneError("an empty batch: give at least one conversation")
        if len(self.groups(conversations)) > 1:
            raise BackboneError(f"{self.spec.name}: conversations with and without images do not go together")
        images = [[open_image(ref) for ref in self._images(chat)] for chat in conversations]
        texts = [
            self.processor.apply_chat_template(
                self._render(chat), tokenize=False, add_generation_prompt=add_generation_prompt
            )
            for chat in conversations
        ]
        kwargs: dict[str, Any] = {"images": images} if any(images) else {}
        if any(images) and self._limited:
            low, high = self._edges()
            kwargs["images_kwargs"] = {"size": {"shortest_edge": low, "longest_edge": high}}
        bos = self.tokenizer.bos_token
        if bos is not None and texts[0].startswith(bos):  # the template wrote it: not once more
            kwargs["add_special_tokens"] = False
        batch = self.processor(
            text=texts, padding=True, padding_side=padding_side, return_tensors="pt", **kwargs
        )
        return {name: value for name, value in batch.items() if isinstance(value, Tensor)}

    def groups(self, conversations: Conversations) -> list[list[int]]:
        """Which conversations can go in one call, as positions: all, or those with and without images."""
        rows = list(range(len(conversations)))
        if self.spec.mixed_batches:
            return [rows]
        seeing = [bool(self._images(chat)) for chat in conversations]
        return [group for sees in (True, False) if (group := [row for row in rows if seeing[row] == sees])]

    def _edges(self) -> tuple[int, int]:
        """The limits in effect, in pixels."""
        own = self.processor.image_processor.size
        low = own["shortest_edge"] if self.min_pixels is None else self.min_pixels
        high = own["longest_edge"] if self.max_pixels is None else self.max_pixels
        return int(low), int(high)

    def _images(self, chat: Sequence[Message]) -> list[ImageRef]:
        if not self.spec.sees_images:
            return []
        refs = [part for message in chat for part in message.content if isinstance(part, ImageRef)]
        if len(refs) > 1 and not self.spec.several_images:
            raise BackboneError(f"{self.spec.name} takes one image in a conversation, got {len(refs)}")
        return refs

    def _render(self, chat: Sequence[Message]) -> list[dict[str, Any]]:
        """Messages as chat templates want them: typed parts, or plain text for a text-only model."""
        turns: list[dict[str, Any]] = []
        for message in chat:
            parts = [part for part in map(self._part, message.content) if part is not None]
            if self.spec.alternates and turns and turns[-1]["role"] == message.role:
                turns[-1]["content"] += [{"type": "text", "text": "\n"}, *parts]
            else:
                turns.append({"role": message.role, "content": parts})
        if not self.spec.sees_images:
            for turn in turns:
                turn["content"] = "".join(part["text"] for part in turn["content"])
        return turns

    def _part(self, part: str | ImageRef) -> dict[str, str] | None:
        if isinstance(part, str):
            return {"type": "text", "text": self._special_tokens.sub(" ", part)}
        return {"type": "image"} if self.spec.sees_images else None

    @cached_property
    def _special_tokens(self) -> re.Pattern[str]:
        tokens = {str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        tokens |= set(self.tokenizer.all_special_tokens)
        tokens |= {getattr(self.processor, name, None) or "" for name in ("image_token", "video_token")} - {
            ""
        }
        return re.compile("|".join(re.escape(t) for t in sorted(tokens, key=len, reverse=True)) or r"(?!)")


def item_turns(form: RagFormat, items: Iterable[KnowledgeItem]) -> list[Message]:
    """One user turn per item, in order; items of which the form shows nothing (images alone) have none."""
    return [Message("user", content) for item in items if (content := item_parts(form, item))]


def item_parts(form: RagFormat, item: KnowledgeItem) -> tuple[str | ImageRef, ...]:
    """What a model is shown of an item, without empty parts."""
    image = item.image if form.images else None
    text = item.text[: form.passage_chars]
    parts: tuple[str | ImageRef | None, ...] = (text, image) if form.passage_first else (image, text)
    return tuple(part for part in parts if part)
