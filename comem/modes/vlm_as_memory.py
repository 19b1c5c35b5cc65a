"""VLM-as-memory, training-free: keys and values of a few layers of the VLM itself (paper, Table 2)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from comem.backbones.base import Answer
from comem.backbones.chat import Conversations, item_parts
from comem.backbones.generation import evaluating
from comem.backbones.keys_values import KVMemory, check_layers, default_layers, join, read_items
from comem.backbones.specs import BackboneError
from comem.memory.lora import adapters_off
from comem.modes.base import Contexts, ItemOrder, Mode, check_order, item_lists
from comem.types import Example, KnowledgeItem, Message

_BATCH = 8  # items read at once


@dataclass(frozen=True)
class KVSettings:
    """What is kept of an item.

    Attributes:
        layers: counted from 0; empty for the paper's 17 to 19 of 28, scaled to the model's depth.
        fraction: keep this share of an item's tokens, those with most attention; 0.25 is the paper's
            "+AS".
        score_layer: the layer whose attention ranks tokens.
        scale: factor on keys and values.
        with_question: items are read with the question in front, so nothing can be read in advance.
    """

    layers: tuple[int, ...] = ()
    fraction: float = 1.0
    score_layer: int = 0
    scale: float = 1.0
    with_question: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction {self.fraction}: give more than 0 and at most 1, the share to keep")
        if not self.scale > 0:
            raise ValueError(f"scale {self.scale}: give more than 0; 1 leaves keys and values as they are")


#: What the authors' code computes, except that items follow one another instead of lying on top of each
#: other (authors_code.md 4, C13).
AUTHORS_KV = KVSettings(scale=1.5, with_question=True)


@dataclass(frozen=True)
class VlmAsMemoryMode(Mode):
    """Reads items with the frozen model, each alone, and shows a few layers their keys and values.

    Attributes:
        kv: what is kept of an item.
        item_order: "retrieval" puts the best item first, "reversed" next to the question.
    """

    name: ClassVar[str] = "vlm_as_memory"
    grounded: ClassVar[bool] = True

    kv: KVSettings = KVSettings()
    item_order: ItemOrder = "retrieval"

    def __post_init__(self) -> None:
        check_order(self.item_order)
        if not self.backbone.spec.kv_memory:
            raise BackboneError(f"{self.backbone.spec.name}: its keys and values cannot be had; use rag")
        _ = self.layers

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """The layers that hold memory."""
        model = self.backbone.model
        return check_layers(model, self.kv.layers) if self.kv.layers else default_layers(model)

    @property
    def opens_item_pictures(self) -> bool:
        return self.backbone.spec.sees_images

    def conversations(self, examples: Sequence[Example], contexts: Contexts) -> Conversations:
        rows = item_lists(examples, contexts)
        return [[self.question_turn(ex, bool(items))] for ex, items in zip(examples, rows, strict=True)]

    def answer_batch(self, examples: Sequence[Example], contexts: Contexts) -> list[Answer]:
        rows = item_lists(examples, contexts)
        start = time.perf_counter()
        memories = self.memories(examples, rows)
        seconds = (time.perf_counter() - start) / max(1, len(rows))
        answers = self.generate(self.conversations(examples, contexts), kv=memories)
        return [replace(answer, seconds=answer.seconds + seconds) for answer in answers]

    def memories(
        self, examples: Sequence[Example], rows: Sequence[tuple[KnowledgeItem, ...]]
    ) -> list[KVMemory | None]:
        """Per question its memory, or None without items; equal turns of a batch are read once."""
        step = 1 if self.item_order == "retrieval" else -1
        turns = [
            [turn for item in items[::step] if (turn := self.item_turn(example, item)).content]
            for example, items in zip(examples, rows, strict=True)
        ]
        distinct = list(dict.fromkeys(turn for row in turns for turn in row))
        known = dict(zip(distinct, self._read(distinct), strict=True))
        model, scale = self.backbone.model, self.kv.scale
        return [join(model, [known[turn] for turn in row], scale) if row else None for row in turns]

    def item_turn(self, example: Example, item: KnowledgeItem) -> Message:
        """What the model reads of an item: each is alone, so its picture is shown wherever one is taken."""
        form = replace(self.backbone.spec.rag, images=self.backbone.spec.sees_images, passage_chars=None)
        if not self.kv.with_question:
            return Message("user", item_parts(form, item))
        return Message("user", (self.ask(example, True), *item_parts(form, _given(item))))

    def _read(self, turns: Sequence[Message]) -> list[KVMemory]:
        read: dict[int, KVMemory] = {}
        groups = self.backbone.process.groups([[turn] for turn in turns]) if turns else []
        with adapters_off(self.backbone.model), evaluating(self.backbone.model):
            for group in groups:
                for start in range(0, len(group), _BATCH):
                    rows = group[start : start + _BATCH]
                    read |= zip(rows, self._read_batch([turns[row] for row in rows]), strict=True)
        return [read[row] for row in range(len(turns))]

    def _read_batch(self, turns: Sequence[Message]) -> list[KVMemory]:
        chats = [[turn] for turn in turns]
        batch = self.backbone.process(chats, add_generation_prompt=False, padding_side="right")
        inputs = self.backbone.place(batch)
        return read_items(self.backbone.model, inputs, self.layers, self.kv.fraction, self.kv.score_layer)


def _given(item: KnowledgeItem) -> KnowledgeItem:
    return replace(item, text=f"Given Information:{item.text}")  # the authors' words (authors_code.md 4)
