"""CoMEM: the retrieved items' memories, 8 embeddings each, in front of the question (paper, section 3)."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from comem.backbones.base import Answer
from comem.backbones.chat import Conversations
from comem.backbones.specs import BackboneError
from comem.memory.bank import Bank, MemoryBank
from comem.memory.encoder import MemoryEncoder, check_width
from comem.modes.base import Contexts, ItemOrder, Mode, check_order, item_lists
from comem.types import Example, KnowledgeItem

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ComemMode(Mode):
    """Reads memories from a bank, or makes them with an encoder, and prepends them.

    An encoder that was trained for a text-only reader also reads the question's own picture; its memory
    follows the items', next to the question: `[items][picture][question]`, as in training.

    Attributes:
        encoder: makes memories of items that are not in a bank; its time is part of the answers'.
        bank: memories made before, in RAM or in a store. It goes before the encoder: all items must be in
            it, unless it is a store that was opened with an encoder.
        item_order: see `ItemOrder`.
        embeddings: of each item (and picture), the first ones; None for all. For memories trained so
            (`elastic`).
    """

    name: ClassVar[str] = "comem"
    grounded: ClassVar[bool] = True

    encoder: MemoryEncoder | None = None
    bank: Bank | None = None
    item_order: ItemOrder = "retrieval"
    embeddings: int | None = None

    def __post_init__(self) -> None:
        if self.encoder is None and self.bank is None:
            raise ValueError("the comem mode needs an encoder or a memory bank")
        if not self.backbone.spec.soft_prefix:
            raise BackboneError(
                f"{self.backbone.spec.name} takes no memory; use the baseline or rag mode with it"
            )
        check_order(self.item_order)
        if self.encoder is not None:
            check_width(self.encoder, self.backbone.hidden_size)
        if not self.opens_question_pictures:
            logger.warning(
                "%s sees no pictures: those of questions are left out (an encoder that was trained for a "
                "text-only reader reads them; with a bank, give it too)",
                self.backbone.spec.name,
            )
        if self.bank is not None:
            _check_bank(self.bank, self.backbone.hidden_size, self.encoder)
        _check_embeddings(self.embeddings, self.encoder)

    @property
    def opens_item_pictures(self) -> bool:
        return self.bank is None or self.bank.opens_images

    def conversations(self, examples: Sequence[Example], contexts: Contexts) -> Conversations:
        rows = item_lists(examples, contexts)
        return [[self.question_turn(ex, bool(items))] for ex, items in zip(examples, rows, strict=True)]

    def ahead(self, examples: Sequence[Example], contexts: Contexts) -> None:
        super().ahead(examples, contexts)
        if self.bank is not None:
            self.bank.ahead(_distinct(item_lists(examples, contexts)))

    @property
    def opens_question_pictures(self) -> bool:
        reads = self.encoder is not None and self.encoder.form.reads_pictures
        return reads or super().opens_question_pictures

    def answer_batch(self, examples: Sequence[Example], contexts: Contexts) -> list[Answer]:
        rows = item_lists(examples, contexts)
        start = time.perf_counter()
        memories = self.prefixes(rows)
        prefixes = self._with_pictures(memories, examples)
        seconds = (time.perf_counter() - start) / max(1, len(rows))
        answers = self.generate(self.conversations(examples, contexts), prefixes)
        return [
            replace(answer, context_tokens=0 if m is None else len(m), seconds=answer.seconds + seconds)
            for answer, m in zip(answers, memories, strict=True)
        ]

    def prefixes(self, rows: Sequence[tuple[KnowledgeItem, ...]]) -> list[Tensor | None]:
        """Per question its memory `(8k, d)`, or None without items; every distinct item is encoded once.

        With `embeddings` it is `(embeddings·k, d)`.
        """
        distinct = _distinct(rows)
        if not distinct:
            return [None] * len(rows)
        memory = self._memory(distinct)
        step = 1 if self.item_order == "retrieval" else -1
        return [
            memory.select([item.id for item in items][::step]).prefix(self.embeddings) if items else None
            for items in rows
        ]

    def _with_pictures(
        self, memories: Sequence[Tensor | None], examples: Sequence[Example]
    ) -> list[Tensor | None]:
        """Each memory, behind it that of the question's own picture `(q, d)` if the encoder reads them."""
        shown = list(dict.fromkeys(ex.image for ex in examples if ex.image is not None))
        if self.encoder is None or not self.encoder.form.reads_pictures or not shown:
            return list(memories)
        read = dict(zip(shown, self.encoder.encode_pictures(shown), strict=True))
        return [
            memory if ex.image is None else _joined(memory, read[ex.image][: self.embeddings])
            for memory, ex in zip(memories, examples, strict=True)
        ]

    def _memory(self, items: Sequence[KnowledgeItem]) -> MemoryBank:
        if self.bank is not None:
            return self.bank.of(items)
        if self.encoder is None:  # __post_init__ has refused that
            raise ValueError("the comem mode needs an encoder or a memory bank")
        return self.encoder.encode(items)


def _distinct(rows: Sequence[tuple[KnowledgeItem, ...]]) -> list[KnowledgeItem]:
    """The items of all questions, each once."""
    return list({item.id: item for items in rows for item in items}.values())


def _joined(memory: Tensor | None, picture: Tensor) -> Tensor:
    """Items' memory `(m, d)` or None, and the picture's `(q, d)` behind it."""
    return picture if memory is None else torch.cat([memory, picture.to(memory)])


def _check_embeddings(embeddings: int | None, encoder: MemoryEncoder | None) -> None:
    """Refuse a number that cannot be; warn of one that the encoder was not trained for."""
    if embeddings is None:
        return
    if embeddings < 1:
        raise ValueError(f"embeddings={embeddings}: give at least 1 of an item's, or None for all")
    trained = () if encoder is None else encoder.elastic
    if encoder is not None and embeddings not in (*trained, encoder.qformer.config.num_queries):
        how = f"for {', '.join(map(str, trained))}" if trained else "with all of them only"
        logger.warning("%d embeddings an item: this memory was trained %s", embeddings, how)


def _check_bank(bank: Bank, width: int, encoder: MemoryEncoder | None) -> None:
    if bank.width != width:
        raise ValueError(
            f"the bank's memories have width {bank.width}, the backbone reads {width}: "
            "encode the items with an encoder for this backbone"
        )
    if encoder is not None and bank.fingerprint not in encoder.accepted_fingerprints():
        raise ValueError("the bank was made by another encoder than the one given: encode the items again")
