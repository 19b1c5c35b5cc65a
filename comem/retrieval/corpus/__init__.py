"""Corpora: the public WIT shards and one's own images with texts."""

from comem.retrieval.corpus.rules import CorpusError, CorpusStats, CutShardError, passage
from comem.retrieval.corpus.sources import read_corpus, read_items, unique_items
from comem.retrieval.corpus.wit import WIT_COLUMNS, read_wit

__all__ = [
    "WIT_COLUMNS", "CorpusError", "CorpusStats", "CutShardError", "passage", "read_corpus", "read_items",
    "read_wit", "unique_items",
]  # fmt: skip
