"""The same results from milvus-lite as from FAISS, and its guards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from comem.retrieval.corpus.sources import find_sources, read_corpus
from comem.retrieval.corpus.table import write_knowledge_base
from comem.retrieval.evaluate import RawPixels
from comem.retrieval.index import FaissSettings, IndexFolderError, index_base
from comem.retrieval.knowledge import KnowledgeBase
from comem.retrieval.retriever import VectorRetriever
from comem.types import Example, ImageRef

pytest.importorskip("pymilvus", reason="pymilvus is not installed")
pytest.importorskip("milvus_lite", reason="milvus-lite is not installed")

from comem.retrieval.milvus import MilvusError, MilvusIndex, push  # noqa: E402

pytestmark = pytest.mark.slow
Corpus = Callable[..., Path]


@pytest.fixture()
def base(corpus: Corpus, tmp_path: Path) -> KnowledgeBase:
    return write_knowledge_base(read_corpus(find_sources([corpus(30, ("en", "de"))])), tmp_path / "kb")


def test_milvus_finds_what_faiss_finds(base: KnowledgeBase, embedder: RawPixels, tmp_path: Path) -> None:
    exact = index_base(base, embedder, FaissSettings(factory="Flat"))
    uri = str(tmp_path / "milvus.db")
    assert push(base, embedder, uri) == len(exact) == 60
    examples = [Example(str(i), "?", ImageRef(path=path)) for i, path in enumerate(base.images()[:20])]
    for languages, temperature in ((None, None), (["de"], None), (None, 0.1)):
        index = MilvusIndex(base.folder, uri)
        retriever = VectorRetriever(index, embedder, temperature=temperature)
        expected = VectorRetriever(exact, embedder, temperature=temperature)
        expected = expected.retrieve(examples, 5, languages).values()
        found = retriever.retrieve(examples, 5, languages).values()
        assert [[item.id for item in each.items] for each in found] == [
            [item.id for item in each.items] for each in expected
        ]
        np.testing.assert_allclose(
            [each.scores for each in found], [each.scores for each in expected], atol=1e-5
        )
        assert retriever.describe()["retriever"] == "milvus"
        index.close()


def test_pushing_again_replaces_the_collection(base: KnowledgeBase, tmp_path: Path) -> None:
    uri = str(tmp_path / "milvus.db")
    push(base, RawPixels(4), uri)
    push(base, RawPixels(8), uri)
    index = MilvusIndex(base.folder, uri)
    index.check(RawPixels(8))
    with pytest.raises(IndexFolderError, match="made by the embedder"):
        index.check(RawPixels(4))
    index.close()


def test_another_knowledge_base_and_missing_collections_are_refused(
    base: KnowledgeBase, embedder: RawPixels, corpus: Corpus, tmp_path: Path
) -> None:
    uri = str(tmp_path / "milvus.db")
    with pytest.raises(MilvusError, match="no collection 'comem'.*index push"):
        MilvusIndex(base.folder, uri)
    push(base, embedder, uri)
    other = write_knowledge_base(read_corpus(find_sources([corpus(5)])), tmp_path / "other")
    with pytest.raises(MilvusError, match="another knowledge base"):
        MilvusIndex(other.folder, uri)
