"""Corpora: the public WIT shards and one's own images with texts."""

from comem.retrieval.corpus.base import CorpusError, CorpusStats, CutShardError
from comem.retrieval.corpus.items import read_corpus, read_items, unique_items
from comem.retrieval.corpus.passage import passage
from comem.retrieval.corpus.wit import WIT_COLUMNS, read_wit

__all__ = [
    "WIT_COLUMNS", "CorpusError", "CorpusStats", "CutShardError", "passage", "read_corpus", "read_items",
    "read_wit", "unique_items",
]  # fmt: skip
