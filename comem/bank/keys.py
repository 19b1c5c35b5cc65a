"""Memories as their own keys: the bank's vectors find items, in place of CLIP's."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from comem.memory.bank import Bank, MemoryBank
from comem.memory.encoder import MemoryEncoder, load_encoder
from comem.retrieval.knowledge import KnowledgeBase
from comem.retrieval.retriever import OWN, Retriever
from comem.types import Example, KnowledgeItem, RetrievedContext

if TYPE_CHECKING:
    from comem.retrieval.settings import RetrieverSettings

_TOGETHER = 256  # items whose memories are read at once


class MemoryRetriever(Retriever):
    """Memories as their own keys: the nearest by cosine of their means, the question read as an item.

    Args:
        base: of the items.
        bank: holds a memory of every item.
        encoder: reads the question's image (and words) as it reads items.
        words: whether it reads the words, too.
    """

    name = "memory"

    def __init__(self, base: KnowledgeBase, bank: Bank, encoder: MemoryEncoder, words: bool = False) -> None:
        super().__init__(base)
        self.encoder, self.words = encoder, words
        starts = range(0, len(base), _TOGETHER)
        some = (base.items(range(start, min(start + _TOGETHER, len(base)))) for start in starts)
        self._keys = np.concatenate([_means(bank.of(items)) for items in some])  # (n, d)
        self._languages = np.asarray(base.languages)

    def retrieve(
        self, examples: Sequence[Example], k: int, languages: Collection[str] | None = None
    ) -> dict[str, RetrievedContext]:
        """As `Retriever.retrieve`."""
        asked = [
            KnowledgeItem(example.id, example.question if self.words else "", example.image)
            for example in examples
        ]
        scores = _means(self.encoder.encode(asked)) @ self._keys.T  # (b, n)
        found = {}
        for example, row in zip(examples, scores, strict=True):
            own = languages is not None and tuple(languages) == OWN
            wanted = [example.language] if own else self._languages if languages is None else list(languages)
            allowed = np.where(np.isin(self._languages, wanted), row, -np.inf)
            order = np.argsort(-allowed, kind="stable")[:k]
            order = order[np.isfinite(allowed[order])]
            found[example.id] = self._context(example.id, order, row[order])
        return found

    def describe(self) -> dict[str, Any]:
        """Knowledge base and encoder."""
        return {**super().describe(), "encoder": self.encoder.fingerprint(), "words": self.words}


def _means(memories: MemoryBank) -> np.ndarray:
    """Unit vectors `(n, d)`: means of the vectors of each memory."""
    means: np.ndarray = memories.embeddings.float().mean(dim=1).cpu().numpy()
    unit: np.ndarray = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    return unit


def open_memory(settings: RetrieverSettings) -> Retriever:
    """The items of an index or corpus folder by their memories.

    `retriever_options`: encoder (a folder, or toy), bank (of that encoder; without one all items are encoded
    first), words (true: the question's words are read with its image).

    Raises:
        ValueError: no encoder is named, or the bank was made by another one.
    """
    from comem.bank.serve import LiveBank, open_bank

    options = settings.retriever_options
    if not options.get("encoder"):
        raise ValueError("the retriever memory needs an encoder: retriever_options.encoder=DIR (or toy)")
    encoder = load_encoder(str(options["encoder"]))
    bank = open_bank(Path(str(options["bank"])), encoder) if options.get("bank") else LiveBank(encoder)
    return MemoryRetriever(
        KnowledgeBase(settings.index_folder), bank, encoder, str(options.get("words", "")).lower() == "true"
    )
