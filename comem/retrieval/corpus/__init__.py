"""Corpora: the public WIT shards and one's own images with texts, as streams of `KnowledgeItem`."""

from comem.retrieval.corpus.wit import (
    WIT_COLUMNS,
    CorpusError,
    CorpusStats,
    CutShardError,
    passage,
    read_corpus,
    read_items,
    read_wit,
    unique_items,
)

__all__ = [
    "WIT_COLUMNS", "CorpusError", "CorpusStats", "CutShardError", "passage", "read_corpus", "read_items",
    "read_wit", "unique_items",
]  # fmt: skip
