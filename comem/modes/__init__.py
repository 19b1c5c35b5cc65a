"""The table of modes: ways to answer a question with or without retrieved items."""

from __future__ import annotations

from typing import Protocol

from comem.backbones.base import Backbone, GenerationConfig
from comem.memory.bank import MemoryBank
from comem.memory.encoder import MemoryEncoder
from comem.modes.base import Ask, Mode, plain_question
from comem.modes.baseline import BaselineMode
from comem.modes.comem import ComemMode, ItemOrder
from comem.modes.rag import RagMode
from comem.tables import Table


class ModeBuilder(Protocol):
    """Makes a mode from what a run has; each takes what it needs and leaves the rest."""

    def __call__(
        self,
        backbone: Backbone,
        encoder: MemoryEncoder | None = None,
        bank: MemoryBank | None = None,
        prompt: Ask = plain_question,
        generation: GenerationConfig = ...,
        item_order: ItemOrder = "retrieval",
    ) -> Mode: ...


def build_baseline(
    backbone: Backbone,
    encoder: MemoryEncoder | None = None,
    bank: MemoryBank | None = None,
    prompt: Ask = plain_question,
    generation: GenerationConfig = GenerationConfig(),  # noqa: B008 (frozen)
    item_order: ItemOrder = "retrieval",
) -> Mode:
    """The backbone alone."""
    return BaselineMode(backbone, prompt, generation)


def build_rag(
    backbone: Backbone,
    encoder: MemoryEncoder | None = None,
    bank: MemoryBank | None = None,
    prompt: Ask = plain_question,
    generation: GenerationConfig = GenerationConfig(),  # noqa: B008 (frozen)
    item_order: ItemOrder = "retrieval",
    passage_first: bool = False,
) -> Mode:
    """Items in the context."""
    return RagMode(backbone, prompt, generation, passage_first, reverse=item_order == "reversed")


def build_comem(
    backbone: Backbone,
    encoder: MemoryEncoder | None = None,
    bank: MemoryBank | None = None,
    prompt: Ask = plain_question,
    generation: GenerationConfig = GenerationConfig(),  # noqa: B008 (frozen)
    item_order: ItemOrder = "retrieval",
) -> Mode:
    """Items as memory; a bank goes before the encoder."""
    return ComemMode(backbone, prompt, generation, encoder, bank, item_order)


MODES: Table[ModeBuilder] = Table(
    "mode", {"baseline": build_baseline, "rag": build_rag, "comem": build_comem}
)

__all__ = ["MODES", "Ask", "Mode", "ModeBuilder", "build_baseline", "build_comem", "build_rag"]
