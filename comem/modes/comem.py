"""CoMEM: the retrieved items' memories, 8 embeddings each, before the question (paper, section 3)."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from comem.backbones.base import Answer, Injection
from comem.memory.bank import Bank, MemoryBank
from comem.memory.encoder import MemoryEncoder, check_width, injection_name
from comem.memory.injection import INJECTIONS
from comem.modes.base import Contexts, Items, Mode, item_lists
from comem.types import Example, KnowledgeItem

logger = logging.getLogger(__name__)


class ComemMode(Mode):
    """Reads memories from a bank, or makes them with an encoder, and puts them before the model.

    An encoder that was trained for a text-only reader also reads the question's own image; its memory
    follows the items', next to the question: `[items][image][question]`, as in training.
    """

    name: ClassVar[str] = "comem"

    def check(self) -> None:
        """As `Mode.check`: a bank or an encoder, of the backbone's width, and an injection of vectors."""
        encoder, bank = self.settings.encoder, self.settings.bank
        if encoder is None and bank is None:
            raise ValueError("the comem mode needs an encoder or a memory bank")
        self.injection.check(self.backbone.spec)
        if self.injection.takes != "vectors":
            raise ValueError(f"the injection {self.injection.name} takes no vectors: this mode makes them")
        self.refuse_undeclared("soft prefix")
        if encoder is not None:
            check_width(encoder, self.backbone.hidden_size)
        if not self.opens_question_images:
            logger.warning(
                "%s sees no images: those of questions are left out (an encoder that was trained for a "
                "text-only reader reads them; with a bank, give it too)",
                self.backbone.spec.name,
            )
        if bank is not None:
            _check_bank(bank, self.backbone.hidden_size, encoder)
        _check_embeddings(self.settings.embeddings, encoder)

    @cached_property
    def injection(self) -> Injection:
        """What the settings name, else what the encoder was trained with, else the soft prefix."""
        encoder = self.settings.encoder
        return self.settings.injection or INJECTIONS[injection_name(encoder)](self.backbone, encoder)

    def record(self) -> dict[str, Any]:
        """How many embeddings of an item are used, if not all."""
        count = self.settings.embeddings
        return {} if count is None else {"embeddings": count}

    @property
    def opens_item_images(self) -> bool:
        """Whether the bank opens them; an encoder without a bank does."""
        return self.settings.bank is None or self.settings.bank.opens_images

    @property
    def opens_question_images(self) -> bool:
        """As `Mode.opens_question_images`, or because the encoder reads them."""
        return self._reads_images or super().opens_question_images

    @property
    def _reads_images(self) -> bool:
        """Whether the encoder reads the questions' own images."""
        return self.settings.encoder is not None and self.settings.encoder.reads_images

    def remembered(self, items: Items) -> Items:
        """Those of a question's items that become memory: all of them."""
        return items

    def ahead(self, examples: Sequence[Example], contexts: Contexts) -> None:
        """As `Mode.ahead`; the bank prepares the memories, too."""
        super().ahead(examples, contexts)
        if self.settings.bank is not None:
            self.settings.bank.ahead(_distinct(self._rows(examples, contexts)))

    def answer_batch(self, examples: Sequence[Example], contexts: Contexts) -> list[Answer]:
        """As `Mode.answer_batch`; the context counts a memory's embeddings."""
        start = time.perf_counter()
        memories = self.memories(self._rows(examples, contexts))
        with_images = self._with_images(memories, examples)
        answers = self.generate(self.conversations(examples, contexts), with_images, start)
        return [
            replace(answer, context_tokens=0 if memory is None else len(memory))
            for answer, memory in zip(answers, memories, strict=True)
        ]

    def memories(self, rows: Sequence[Items]) -> list[Tensor | None]:
        """Per question its memory `(q·k, d)`, or None without items; every distinct item is encoded once.

        With `embeddings` it is `(embeddings·k, d)`.
        """
        distinct = _distinct(rows)
        if not distinct:
            return [None] * len(rows)
        known = self._known(distinct)
        return [
            known.select([item.id for item in self.ordered(items)]).prefix(self.settings.embeddings)
            if items
            else None
            for items in rows
        ]

    def _rows(self, examples: Sequence[Example], contexts: Contexts) -> list[Items]:
        return [self.remembered(items) for items in item_lists(examples, contexts)]

    def _with_images(
        self, memories: Sequence[Tensor | None], examples: Sequence[Example]
    ) -> list[Tensor | None]:
        """Each memory, behind it that of the question's own image `(q, d)` if the encoder reads them."""
        encoder, count = self.settings.encoder, self.settings.embeddings
        shown = list(dict.fromkeys(ex.image for ex in examples if ex.image is not None))
        if encoder is None or not self._reads_images or not shown:
            return list(memories)
        read = dict(zip(shown, encoder.encode_images(shown), strict=True))
        return [
            memory if ex.image is None else _joined(memory, read[ex.image][:count])
            for memory, ex in zip(memories, examples, strict=True)
        ]

    def _known(self, items: Sequence[KnowledgeItem]) -> MemoryBank:
        if self.settings.bank is not None:
            return self.settings.bank.of(items)
        assert self.settings.encoder is not None  # `check` has refused that
        return self.settings.encoder.encode(items).checked()


def _distinct(rows: Sequence[Items]) -> list[KnowledgeItem]:
    """The items of all questions, each once."""
    return list({item.id: item for items in rows for item in items}.values())


def _joined(memory: Tensor | None, image: Tensor) -> Tensor:
    """Items' memory `(m, d)` or None, and the image's `(q, d)` behind it."""
    return image if memory is None else torch.cat([memory, image.to(memory)])


def _check_embeddings(embeddings: int | None, encoder: MemoryEncoder | None) -> None:
    """Refuse a number that cannot be; warn of one that the encoder was not trained for."""
    if embeddings is None:
        return
    if embeddings < 1:
        raise ValueError(f"embeddings={embeddings}: give at least 1 of an item's, or None for all")
    if encoder is not None and embeddings not in (*encoder.elastic, encoder.num_vectors):
        trained = ", ".join(map(str, encoder.elastic))
        how = f"for {trained}" if trained else "with all of them only"
        logger.warning("%d embeddings an item: this memory was trained %s", embeddings, how)


def _check_bank(bank: Bank, width: int, encoder: MemoryEncoder | None) -> None:
    if bank.width != width:
        raise ValueError(
            f"the bank's memories have width {bank.width}, the backbone reads {width}: "
            "encode the items with an encoder for this backbone"
        )
    if encoder is not None and bank.fingerprint not in encoder.accepted_fingerprints():
        raise ValueError("the bank was made by another encoder than the one given: encode the items again")
