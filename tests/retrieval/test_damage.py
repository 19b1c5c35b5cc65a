"""Changed bytes and numbers that are none: in vectors, tables and indexes they are found, not searched."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comem.retrieval.embed import embed_corpus, verify_shards
from comem.retrieval.evaluate import RawPixels
from comem.retrieval.index import FaissSettings, IndexSettings, VectorIndex, build_index, verify_index
from comem.retrieval.knowledge import KnowledgeBase
from comem.retrieval.retriever import VectorRetriever
from comem.retrieval.settings import EmbedSettings
from comem.types import Example, ImageRef

Corpus = Callable[..., Path]


class Odd(RawPixels):
    """Makes the vectors of the third, fifth … image NaN, infinite, too long or nothing at all."""

    odd: dict[int, float] = {}
    made = 0

    def embed_images(self, images: Sequence[Any], batch_size: int = 64) -> np.ndarray:
        vectors = super().embed_images(images, batch_size)
        for place in range(len(images)):
            if self.made + place in self.odd:
                vectors[place] *= self.odd[self.made + place]
        self.made += len(images)
        return vectors


def built(corpus: Path, folder: Path, embedder: Any = None, **settings: Any) -> VectorIndex:
    wanted = IndexSettings(corpus=(str(corpus),), output=folder, index=FaissSettings(**settings))
    return build_index(wanted, embedder=embedder or RawPixels(4))


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 27.0, 0.0, 0.5])
def test_numbers_that_are_none_are_faults_of_their_images(
    corpus: Corpus, tmp_path: Path, factor: float, caplog: pytest.LogCaptureFixture
) -> None:
    odd = type("These", (Odd,), {"odd": {2: factor, 7: factor}})(4)
    with np.errstate(all="ignore"), caplog.at_level(logging.WARNING):
        index = built(corpus(), tmp_path / "kb", odd)
    assert len(index) == 10 and index.manifest["items_without_picture"] == 2
    faults = index.manifest["faults"]
    assert len(faults) == 2 and all("its vector has" in fault for fault in faults.values())
    assert sum("not indexed: " in record.message for record in caplog.records) == 2
    found = index.search(RawPixels(4).embed_images([ImageRef(path=index.base.images()[0])]), 10)
    assert found.scores[0].max() <= 1.00001 and np.isfinite(found.scores[0]).all()


def test_if_all_are_none_the_reason_is_said(corpus: Corpus, tmp_path: Path) -> None:
    odd = type("These", (Odd,), {"odd": dict.fromkeys(range(12), 3.0)})(4)
    with pytest.raises(
        ValueError, match="none of the 12 items has a readable image: .*the length 3 instead of 1"
    ):
        built(corpus(), tmp_path / "kb", odd)


def test_a_question_whose_vector_is_none_gets_nothing(corpus: Corpus, tmp_path: Path) -> None:
    index = built(corpus(), tmp_path / "kb")
    images = index.base.images()
    examples = [Example(f"q{n}", "what?", ImageRef(path=images[n])) for n in range(3)]
    odd = type("These", (Odd,), {"odd": {1: float("nan")}})(4)
    found = VectorRetriever(index, odd).retrieve(examples, 2)
    assert [len(found[f"q{n}"].items) for n in range(3)] == [2, 0, 2]
    assert found["q2"].items[0].image == ImageRef(path=images[2])
    with pytest.raises(ValueError, match="query 0: its vector has the length 0"):
        index.search(np.zeros((1, 48), np.float32), 1)


def flipped(path: Path, place: int) -> bytes:
    whole = bytearray(path.read_bytes())
    whole[place] ^= 1 << place % 8
    return bytes(whole)


@pytest.mark.parametrize(
    "name", ["index.faiss", "rows.npy", "languages.npy", "index.json", "items.json", "items.parquet"]
)
def test_a_changed_byte_of_an_index(corpus: Corpus, tmp_path: Path, name: str) -> None:
    """Opening says so, or nothing wrong is found; verify always says so."""
    built(corpus(), tmp_path / "kb", factory="HNSW8")
    path = tmp_path / "kb" / name
    whole = path.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 12)):
        path.write_bytes(flipped(path, place))
        assert verify_index(tmp_path / "kb"), place
        try:
            index = VectorIndex(tmp_path / "kb")
            index.search(RawPixels(4).embed_images([ImageRef(path=index.base.images()[0])]), 3)
        except ValueError as error:
            assert "kb" in str(error)
        path.write_bytes(whole)
    assert verify_index(tmp_path / "kb") == []


@pytest.mark.parametrize("factory", ["Flat", "IVF2,Flat"])
def test_an_index_file_of_another_making(corpus: Corpus, tmp_path: Path, factory: str) -> None:
    """What FAISS makes of changed headers, where nothing vouches for the file (0.1)."""
    built(corpus(), tmp_path / "kb", factory=factory)
    from comem.retrieval.faiss_index import FaissIndex

    path = tmp_path / "kb" / "index.faiss"
    whole = path.read_bytes()
    for place in range(40):
        path.write_bytes(flipped(path, place))
        try:
            FaissIndex(tmp_path / "kb")
        except ValueError as error:
            assert "index.faiss" in str(error)
        path.write_bytes(whole)


def test_a_damaged_page_is_told_when_it_is_read(corpus: Corpus, tmp_path: Path) -> None:
    base = built(corpus(), tmp_path / "kb").base
    path = base.folder / "items.parquet"
    whole = path.read_bytes()
    wrong = 0
    for place in range(4, len(whole) - 600, 40):
        path.write_bytes(flipped(path, place))
        try:
            items = list(KnowledgeBase(base.folder))
        except ValueError as error:
            wrong += "items.parquet" in str(error)
        else:
            assert [item.text for item in items] == [f"en text {n}" for n in range(12)]
        path.write_bytes(whole)
    assert wrong


def test_a_damaged_shard_of_vectors_is_made_again(corpus: Corpus, tmp_path: Path) -> None:
    base = built(corpus(), tmp_path / "kb").base
    settings = EmbedSettings(corpus=base.folder, embedder="raw", shard_size=5)
    folder = base.folder / "embeddings"
    for path in folder.rglob("*.*"):
        path.unlink()
    counting = partial(Odd, 4)
    before = embed_corpus(settings, loader=counting)["images"].vectors
    assert verify_shards(folder) == ([], 0)
    for name in (
        "img_emb/img_emb_1.npy", "metadata/metadata_0.parquet", "shards/img_2.json", "img_plan.json",
    ):  # fmt: skip
        path = folder / name
        whole = path.read_bytes()
        for content in (flipped(path, len(whole) // 2), flipped(path, 5), whole[:-3], b""):
            path.write_bytes(content)
            assert len(verify_shards(folder)[0]) == 1
            assert np.array_equal(embed_corpus(settings, loader=counting)["images"].vectors, before)
            assert verify_shards(folder) == ([], 0)


KINDS = "Flat SQ8 PQ4x4 PQ4x4fs IVF2,Flat IVF2,SQ8 IVF2,PQ4x4 IVF2,PQ4x4fs HNSW4 HNSW4,Flat HNSW4_SQ8".split()
KINDS += "PCA16,Flat PCAR16,IVF2,Flat RR48,SQfp16 L2norm,Flat".split()


@pytest.mark.parametrize("factory", KINDS)
def test_every_kind_that_is_taken_is_searched(corpus: Corpus, tmp_path: Path, factory: str) -> None:
    """In all languages, and in one."""
    index = built(corpus(20, ("en", "de")), tmp_path / "kb", factory=factory)
    queries = RawPixels(4).embed_images([ImageRef(path=path) for path in index.base.images()[:6]])
    for languages in (None, ["de"]):
        found = VectorIndex(tmp_path / "kb").search(queries, 4, languages)
        assert [len(rows) for rows in found.rows] == [4] * 6
        items = index.base.items(found.rows[0].tolist())
        assert languages is None or {item.language for item in items} == {"de"}


REFUSED = (
    "IDMap,Flat IDMap2,HNSW8 NSG16 NSG16,Flat NNDescent8,Flat IVF0,Flat IVF-1,Flat HNSW0 PQ0 LSH Flat,RFlat"
)
REFUSED += " Flat,Refine(Flat) ITQ8,LSH IVF2 Flatt auto,Flat IVF2,PQ4x0 SPQ flat HNSW1"
REFUSED += " HNSW1,PQ4x4 IVF2_HNSW1,Flat IMI2x1,Flat IVF1e3,Flat PCA0,Flat RaBitQ FLAT 索引"


@pytest.mark.parametrize("factory", ["", *REFUSED.split()])
def test_kinds_that_cannot_be_searched_are_refused_before_the_work(tmp_path: Path, factory: str) -> None:
    with pytest.raises(
        ValueError, match=f"FAISS cannot build '{re.escape(factory)}', .* take 'auto', 'Flat'"
    ):
        built(tmp_path / "no file at all", tmp_path / "kb", factory=factory)


def test_an_index_that_finds_nothing_is_none(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comem.retrieval import index as module

    class Empty:
        def __init__(self, *_: Any) -> None: ...

        def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            return np.full((len(queries), k), -np.inf), np.full((len(queries), k), -1)

    monkeypatch.setattr(module, "FaissIndex", Empty)
    with pytest.raises(ValueError, match="does not find its own vectors"):
        built(corpus(), tmp_path / "kb")
