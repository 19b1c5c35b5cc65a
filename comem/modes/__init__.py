"""The table of modes: ways to answer a question with or without retrieved items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec

from comem.backbones.base import GREEDY, Backbone, GenerationConfig
from comem.memory.bank import Bank
from comem.memory.encoder import MemoryEncoder
from comem.modes.base import Ask, ItemOrder, Mode, plain_question
from comem.modes.baseline import BaselineMode
from comem.modes.comem import ComemMode
from comem.modes.rag import RagMode
from comem.modes.vlm_as_memory import KVSettings, VlmAsMemoryMode
from comem.tables import Table

P = ParamSpec("P")


@dataclass(frozen=True)
class ModeParts:
    """What a run has; each mode takes what it needs and leaves the rest.

    Attributes:
        backbone: the model that answers.
        encoder: makes memories (comem).
        bank: memories made before (comem); it goes before the encoder.
        prompt: how an example is asked.
        generation: how answers are decoded.
        item_order: best item first, or next to the question.
        kv: what is kept of an item (vlm_as_memory).
        embeddings: how many of an item's embeddings are read, the first ones; None for all (comem).
    """

    backbone: Backbone
    encoder: MemoryEncoder | None = None
    bank: Bank | None = None
    prompt: Ask = plain_question
    generation: GenerationConfig = GREEDY
    item_order: ItemOrder = "retrieval"
    kv: KVSettings = KVSettings()
    embeddings: int | None = None


def _baseline(parts: ModeParts) -> Mode:
    return BaselineMode(parts.backbone, parts.prompt, parts.generation)


def _rag(parts: ModeParts) -> Mode:
    return RagMode(parts.backbone, parts.prompt, parts.generation, parts.item_order)


def _comem(parts: ModeParts) -> Mode:
    return ComemMode(
        parts.backbone,
        parts.prompt,
        parts.generation,
        parts.encoder,
        parts.bank,
        parts.item_order,
        parts.embeddings,
    )


def _vlm_as_memory(parts: ModeParts) -> Mode:
    return VlmAsMemoryMode(parts.backbone, parts.prompt, parts.generation, parts.kv, parts.item_order)


def _from_parts(build: Callable[[ModeParts], Mode], parts: Callable[P, ModeParts]) -> Callable[P, Mode]:
    """A row that is called with the fields of `ModeParts`: one signature for all modes."""
    return lambda *args, **kwargs: build(parts(*args, **kwargs))


MODES = Table(
    "mode",
    {
        "baseline": _from_parts(_baseline, ModeParts),
        "rag": _from_parts(_rag, ModeParts),
        "comem": _from_parts(_comem, ModeParts),
        "vlm_as_memory": _from_parts(_vlm_as_memory, ModeParts),
    },
)

__all__ = ["MODES", "Ask", "KVSettings", "Mode", "ModeParts"]
