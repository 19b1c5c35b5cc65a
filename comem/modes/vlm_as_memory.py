"""VLM-as-memory, training-free: keys and values of a few layers of the VLM itself (paper, Table 2)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any, ClassVar

from comem.backbones.base import Answer, Injection, item_parts
from comem.backbones.prepared import evaluating
from comem.memory.injection.keys_values import (
    KeysValues,
    KVMemory,
    check_layers,
    default_layers,
    join,
    read_items,
)
from comem.memory.lora import adapters_off
from comem.memory.settings import KVSettings
from comem.modes.base import Contexts, Items, Mode, item_lists
from comem.types import Example, KnowledgeItem, Message

_BATCH = 8  # items read at once

#: What the authors' code computes, except that items follow one another instead of lying on top of each
#: other (authors_code.md 4, C13).
AUTHORS_KV = KVSettings(scale=1.5, with_question=True)


class VlmAsMemoryMode(Mode):
    """Reads items with the frozen model, each alone, and shows a few layers their keys and values."""

    name: ClassVar[str] = "vlm_as_memory"

    def check(self) -> None:
        """As `Mode.check`: an injection of keys and values, and layers that the model has."""
        self.injection.check(self.backbone.spec)
        if self.injection.takes != "keys_values":
            raise ValueError(f"the injection {self.injection.name} takes memory as embeddings only")
        _ = self.layers
        self.refuse_undeclared("keys and values")

    @cached_property
    def injection(self) -> Injection:
        """In front of what the layers attend to, unless the settings name another."""
        return self.settings.injection or KeysValues()

    def record(self) -> dict[str, Any]:
        """The settings of keys and values."""
        return {"kv": asdict(self.settings.kv)}

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """The layers that hold memory."""
        model, layers = self.backbone.model, self.settings.kv.layers
        return check_layers(model, layers) if layers else default_layers(model)

    @property
    def opens_item_images(self) -> bool:
        """Whether the backbone sees images."""
        return self.backbone.spec.sees_images

    def answer_batch(self, examples: Sequence[Example], contexts: Contexts) -> list[Answer]:
        """As `Mode.answer_batch`; reading the items counts as time of the answers."""
        start = time.perf_counter()
        memories = self.memories(examples, item_lists(examples, contexts))
        return self.generate(self.conversations(examples, contexts), memories, start)

    def memories(self, examples: Sequence[Example], rows: Sequence[Items]) -> list[KVMemory | None]:
        """Per question its memory, or None without items; equal turns of a batch are read once."""
        turns = [
            [turn for item in self.ordered(items) if (turn := self.item_turn(example, item)).content]
            for example, items in zip(examples, rows, strict=True)
        ]
        distinct = list(dict.fromkeys(turn for row in turns for turn in row))
        known = dict(zip(distinct, self._read(distinct), strict=True))
        model, scale = self.backbone.model, self.settings.kv.scale
        return [join(model, [known[turn] for turn in row], scale) if row else None for row in turns]

    def item_turn(self, example: Example, item: KnowledgeItem) -> Message:
        """What the model reads of an item: each is alone, so its image is shown wherever one is taken."""
        form = replace(self.backbone.spec.rag, images=self.backbone.spec.sees_images, passage_chars=None)
        if not self.settings.kv.with_question:
            return Message("user", item_parts(form, item))
        given = replace(item, text=f"Given Information:{item.text}")  # the authors' words (authors_code.md 4)
        return Message("user", (self.settings.ask(example, True), *item_parts(form, given)))

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
        kv, inputs = self.settings.kv, self.backbone.place(batch)
        return read_items(self.backbone.model, inputs, self.layers, kv.fraction, kv.score_layer)
