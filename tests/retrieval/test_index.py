"""Knowledge base and index: order, ties, resuming, and everything that is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comem.config import ConfigError, load_config
from comem.io.files import StorageError, one_writer
from comem.retrieval.corpus.rules import CorpusError, CutShardError
from comem.retrieval.corpus.table import write_knowledge_base
from comem.retrieval.evaluate import RawPixels
from comem.retrieval.index import (
    LOCK,
    FaissSettings,
    IndexFolderError,
    IndexSettings,
    VectorIndex,
    build_index,
    index_base,
    is_current,
    read_items,
    verify_index,
)
from comem.retrieval.knowledge import KnowledgeBase, KnowledgeBaseError
from comem.types import ImageRef, KnowledgeItem

Corpus = Callable[..., Path]
CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs" / "retrieval").glob("*.yaml"))


def built(corpus: Path, folder: Path, embedder: RawPixels, **index: object) -> VectorIndex:
    settings = FaissSettings(**index)  # type: ignore[arg-type]
    return build_index(of(corpus, folder, index=settings), embedder=embedder)


def of(corpus: Path, folder: Path, **settings: object) -> IndexSettings:
    return IndexSettings(corpus=(str(corpus),), output=folder, **settings)  # type: ignore[arg-type]


def test_order_is_the_ranking(corpus: Corpus, tmp_path: Path, embedder: RawPixels) -> None:
    index = built(corpus(40), tmp_path / "kb", embedder)
    vectors = embedder.embed_images([ImageRef(path=path) for path in index.base.images()])
    hits = index.search(vectors[:5], 10)
    exact = vectors[:5] @ vectors.T
    for query in range(5):
        assert hits.rows[query].tolist() == np.argsort(-exact[query], kind="stable")[:10].tolist()
        assert hits.scores[query] == pytest.approx(np.sort(exact[query])[::-1][:10], abs=1e-5)
        assert (np.diff(hits.scores[query]) <= 0).all()


@pytest.mark.parametrize("k", [1, 7, 20, 200])
def test_ties_come_in_the_order_of_the_rows(tmp_path: Path, embedder: RawPixels, k: int) -> None:
    Image.new("RGB", (8, 8), (200, 10, 10)).save(tmp_path / "same.png")
    items = [KnowledgeItem(f"i{i}", "t", ImageRef(path=str(tmp_path / "same.png"))) for i in range(60)]
    base = write_knowledge_base(items, tmp_path / "kb")
    index = index_base(base, embedder)
    query = embedder.embed_images([ImageRef(path=str(tmp_path / "same.png"))])
    assert index.search(query, k).rows[0].tolist() == list(range(min(k, 60)))


def test_language_filter_still_gives_k_items(corpus: Corpus, tmp_path: Path, embedder: RawPixels) -> None:
    index = built(corpus(30, ("en", "ru", "zh")), tmp_path / "kb", embedder)
    query = embedder.embed_images([ImageRef(path=index.base.images()[0])])
    hits = index.search(query, 25, ["ru"])
    items = index.base.items(hits.rows[0].tolist())
    assert len(items) == 25 and {item.language for item in items} == {"ru"} and items[0].id == "ru0"
    with pytest.raises(ValueError, match="no item is in de; languages here: en, ru, zh"):
        index.search(query, 1, ["de"])


def test_items_come_back_as_they_were(corpus: Corpus, tmp_path: Path, embedder: RawPixels) -> None:
    path = corpus(3, ("en", "ru"))
    index = built(path, tmp_path / "kb", embedder)
    again = VectorIndex(tmp_path / "kb", embedder)
    assert len(again) == len(index) == 6
    item = again.base.by_ids(["ru2"])[0]
    assert (item.id, item.text, item.language) == ("ru2", "ru text 2", "ru")
    assert item.image is not None and Path(str(item.image)) == path.parent / "2.png"


def test_another_embedder_is_refused(corpus: Corpus, tmp_path: Path, embedder: RawPixels) -> None:
    built(corpus(), tmp_path / "kb", embedder)
    with pytest.raises(IndexFolderError, match="made by the embedder 'raw 4 x 4 pixels'.*not by.*8 x 8"):
        VectorIndex(tmp_path / "kb", RawPixels(8))


@pytest.mark.parametrize("name", ["index.faiss", "rows.npy", "items.parquet"])
def test_a_cut_file_is_refused(corpus: Corpus, tmp_path: Path, embedder: RawPixels, name: str) -> None:
    built(corpus(), tmp_path / "kb", embedder)
    path = tmp_path / "kb" / name
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises((IndexFolderError, KnowledgeBaseError), match=f"{name}.*build it again"):
        VectorIndex(tmp_path / "kb", embedder)


def test_a_knowledge_base_built_anew_is_refused(corpus: Corpus, tmp_path: Path, embedder: RawPixels) -> None:
    built(corpus(12), tmp_path / "kb", embedder)
    read_items(of(corpus(13), tmp_path / "kb"))
    with pytest.raises(IndexFolderError, match="built anew"):
        VectorIndex(tmp_path / "kb", embedder)


def test_verify_reads_every_byte(corpus: Corpus, tmp_path: Path, embedder: RawPixels) -> None:
    path, noise = corpus(), random.Random(0)
    rows = [
        json.loads(line) | {"text": noise.randbytes(9000).hex()} for line in path.read_text().splitlines()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))  # opening reads the last 64 kB only
    built(path, tmp_path / "kb", embedder)
    assert verify_index(tmp_path / "kb") == []
    for name, place in (("items.parquet", 200), ("rows.npy", -1), ("index.faiss", -1)):
        path = tmp_path / "kb" / name
        data = bytearray(path.read_bytes())
        data[place] ^= 1
        path.write_bytes(data)
    wrong = verify_index(tmp_path / "kb")
    assert len(wrong) == 3 and all(name in " ".join(wrong) for name in ("rows.npy", "index.faiss"))
    assert "items.parquet: not what was built" in wrong[-1]


def test_two_builds_at_once_are_refused(corpus: Corpus, tmp_path: Path, embedder: RawPixels) -> None:
    path = corpus()
    with one_writer(tmp_path / "kb" / LOCK), pytest.raises(StorageError, match="another process"):
        built(path, tmp_path / "kb", embedder)
    with (
        one_writer(tmp_path / "kb" / "embeddings" / ".lock"),
        pytest.raises(StorageError, match="another process"),
    ):
        built(path, tmp_path / "kb", embedder)
    assert len(built(path, tmp_path / "kb", embedder)) == 12


def test_an_index_is_current_while_its_files_are_the_same(
    corpus: Corpus, tmp_path: Path, embedder: RawPixels
) -> None:
    path = corpus()
    kb = tmp_path / "kb"
    assert not is_current([path], kb)
    built(path, kb, embedder)
    assert is_current([path], kb) and is_current([path], kb, embedder.name)
    assert not is_current([path], kb, "toy") and not is_current([path, path], kb)
    path.write_text(path.read_text().replace("text 3", "text three"))
    assert not is_current([path], kb)
    built(path.parent, kb, embedder)  # the folder: read by another way, and compared by its files
    assert is_current([path.parent], kb)
    (path.parent / "0.png").touch()
    assert is_current([path.parent], kb)  # its table names the pictures; they are the bank's to compare


def test_unfinished_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(IndexFolderError, match="no finished index"):
        VectorIndex(tmp_path)
    with pytest.raises(KnowledgeBaseError, match="no knowledge base"):
        KnowledgeBase(tmp_path)


def test_bad_queries(corpus: Corpus, tmp_path: Path, embedder: RawPixels) -> None:
    index = built(corpus(), tmp_path / "kb", embedder)
    with pytest.raises(ValueError, match="k = 0"):
        index.search(np.zeros((1, 48), dtype=np.float32), 0)
    with pytest.raises(ValueError, match=r"the index takes \(b, 48\)"):
        index.search(np.zeros((1, 7), dtype=np.float32), 1)
    with pytest.raises(KnowledgeBaseError, match="'nobody'"):
        index.base.by_ids(["en1", "nobody"])


def test_a_bad_factory_string(corpus: Corpus, tmp_path: Path, embedder: RawPixels) -> None:
    with pytest.raises(IndexFolderError, match="FAISS cannot build 'Flatt'"):
        built(corpus(), tmp_path / "kb", embedder, factory="Flatt")
    assert len(built(corpus(), tmp_path / "kb", embedder, factory="HNSW8")) == 12


def test_unreadable_pictures_are_counted_not_fatal(
    corpus: Corpus, tmp_path: Path, embedder: RawPixels
) -> None:
    path = corpus(5, ("en", "ru"))
    (path.parent / "1.png").write_bytes(b"")
    (path.parent / "3.png").write_bytes((path.parent / "3.png").read_bytes()[:40])
    index = built(path, tmp_path / "kb", embedder)
    assert len(index) == 6 and index.manifest["items_without_picture"] == 4
    assert sorted(Path(name).name for name in index.manifest["faults"]) == ["1.png", "3.png"]
    query = embedder.embed_images([ImageRef(path=str(path.parent / "4.png"))])
    assert index.base.items(index.search(query, 1).rows[0].tolist())[0].id == "en4"
    for name in ("0", "2", "4"):
        (path.parent / f"{name}.png").unlink()
    with pytest.raises(IndexFolderError, match="none of the 10 items has a readable image"):
        built(path, tmp_path / "other", embedder)


class Interrupting(RawPixels):
    """Stops after some pictures, as Ctrl-C does; counts what it embedded."""

    def __init__(self, stop_after: int) -> None:
        super().__init__(4)
        self.left, self.embedded = stop_after, 0

    def embed_images(self, images, batch_size=64):  # type: ignore[no-untyped-def]
        if self.left <= 0:
            raise KeyboardInterrupt
        self.left -= len(images)
        self.embedded += len(images)
        return super().embed_images(images, batch_size)


def test_an_interrupted_build_goes_on(corpus: Corpus, tmp_path: Path, embedder: RawPixels) -> None:
    path, folder = corpus(20), tmp_path / "kb"
    with pytest.raises(KeyboardInterrupt):
        built(path, folder, Interrupting(9), shard_size=4, batch_size=4)
    with pytest.raises(IndexFolderError, match="no finished index"):
        VectorIndex(folder)
    second = Interrupting(1000)
    index = built(path, folder, second, shard_size=4, batch_size=4)
    assert second.embedded == 20 - 12  # three shards were finished
    once = built(path, tmp_path / "once", embedder)
    query = embedder.embed_images([ImageRef(path=index.base.images()[7])])
    assert index.search(query, 20).rows[0].tolist() == once.search(query, 20).rows[0].tolist()


def test_shards_of_another_embedder_are_not_used(corpus: Corpus, tmp_path: Path, embedder: RawPixels) -> None:
    built(corpus(), tmp_path / "kb", embedder)
    index = built(corpus(), tmp_path / "kb", RawPixels(8))
    assert index.manifest["dimension"] == 192


def test_half_precision_shards_find_the_same(corpus: Corpus, tmp_path: Path, embedder: RawPixels) -> None:
    index = built(corpus(), tmp_path / "kb", embedder, half=True)
    assert (
        np.load(tmp_path / "kb" / "embeddings" / "img_emb" / "img_emb_0.npy", allow_pickle=False).dtype
        == np.float16
    )
    query = embedder.embed_images([ImageRef(path=index.base.images()[7])])
    assert index.search(query, 1).rows[0].tolist() == [7]


def test_a_cut_shard_keeps_what_was_read(tmp_path: Path, embedder: RawPixels, flags_dir: Path) -> None:
    whole = (flags_dir / "wit_flags.tsv.gz").read_bytes()
    path = tmp_path / "cut.tsv.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CutShardError, match="--keep-partial"):
        read_items(of(path, tmp_path / "kb", images=flags_dir))
    base = KnowledgeBase(tmp_path / "kb")
    assert base.manifest["complete"] is False and 100 < len(base) < 1200
    kept = read_items(of(path, tmp_path / "kb2", images=flags_dir, keep_partial=True))
    assert kept.ids == base.ids


def test_repeated_ids_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    path = corpus(2)
    with open(path, "a") as file:
        file.write(json.dumps({"id": "en0", "text": "again", "image": "0.png"}) + "\n")
    with pytest.raises(CorpusError, match="'en0' repeats"):
        read_items(of(path, tmp_path / "kb"))
    base = read_items(of(path, tmp_path / "kb", on_duplicate="drop"))
    assert base.ids == ["en0", "en1"] and base.manifest["rows"]["dropped"] == {"repeated id": 1}


def test_images_in_memory_have_no_address(tmp_path: Path) -> None:
    with pytest.raises(KnowledgeBaseError, match="in memory"):
        write_knowledge_base([KnowledgeItem("a", "t", ImageRef(data=b"x"))], tmp_path)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads(path: Path) -> None:
    assert load_config(IndexSettings, path, ["corpus=[wit.tsv]", "output=wit"]).embedder


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("index:\n  factroy: Flat\n")
    with pytest.raises(ConfigError, match="factory"):
        load_config(IndexSettings, tmp_path / "x.yaml")
