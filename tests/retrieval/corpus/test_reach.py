"""A knowledge base that came from elsewhere reaches no image, and writes none, beyond the folder above it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

import comem
from comem.bank.build import encode
from comem.bank.settings import EncodeSettings
from comem.io.images import ImageError, open_image
from comem.retrieval.corpus.build import build_corpus
from comem.retrieval.corpus.rules import CorpusItem
from comem.retrieval.corpus.sources import CorpusSettings
from comem.retrieval.corpus.table import write_knowledge_base
from comem.retrieval.download.job import download_corpus
from comem.retrieval.download.settings import DownloadSettings
from comem.retrieval.evaluate import RawPixels
from comem.retrieval.index import IndexSettings, build_index
from comem.retrieval.knowledge import KnowledgeBase, KnowledgeBaseError


@pytest.fixture()
def outside(tmp_path: Path) -> Path:
    (tmp_path / "private").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "private" / "p.png")
    return tmp_path / "private" / "p.png"


@pytest.fixture(params=["up", "absolute", "own"])
def foreign(request: pytest.FixtureRequest, tmp_path: Path, outside: Path) -> Path:
    """A knowledge base of two items, one with an image of the user's; `own`: the user's, who built it."""
    home = tmp_path / "maker" / "data" / "kb"
    home.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8), "blue").save(home.parent / "0.png")
    items = [CorpusItem("0", "zero", str(home.parent / "0.png")), CorpusItem("1", "one", str(outside))]
    write_knowledge_base(items, home)
    if request.param == "own":
        return home
    moved = tmp_path / "user" / "data"
    shutil.copytree(home.parent, moved)  # with the note that allowed it where it was made
    if request.param == "absolute":  # as a stranger would have written it
        relpath, os.path.relpath = os.path.relpath, lambda path, start="": str(path)  # type: ignore
        try:
            items[0] = CorpusItem("0", "zero", "../0.png")
            write_knowledge_base(items, moved / "kb")
        finally:
            os.path.relpath = relpath
        (moved / "kb" / ".comem_images.json").unlink()
    return moved / "kb"


def test_items_index_and_bank(foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = "maker" in str(foreign)
    first, second = KnowledgeBase(foreign).items([0, 1])
    assert open_image(first.image or b"").size == (8, 8)
    index = build_index(IndexSettings(corpus=(str(foreign),), output=foreign), embedder=RawPixels(4))
    counts = encode(EncodeSettings("toy", foreign / "bank", index=foreign, skip_faults=True))
    if allowed:
        assert open_image(second.image or b"").size == (8, 8)
        assert len(index) == counts.encoded == 2
        return
    with pytest.raises(ImageError, match="outside the data's folder; to allow it, set COMEM_IMAGES"):
        open_image(second.image or b"")
    assert len(index) == counts.encoded == 1
    assert ["outside" in fault for fault in index.manifest["faults"].values()] == [True]
    assert list(counts.faults) == ["1"]
    again = build_corpus(CorpusSettings(sources=(str(foreign),), output=foreign.parent / "new"))
    assert again.ids == ["0"]  # as a source, it is read like any file of records
    monkeypatch.setenv("COMEM_IMAGES", str(foreign.parents[2] / "private"))
    assert open_image(KnowledgeBase(foreign).items([1])[0].image or b"").size == (8, 8)


@pytest.mark.parametrize("way", ["../../../private/new.png", "../../x/../../private/new.png"])
def test_downloads_are_written_within_reach(tmp_path: Path, way: str) -> None:
    home = tmp_path / "maker" / "data" / "kb"
    item = CorpusItem("0", "zero", str(home / way), image_url="http://127.0.0.1:9/new.png")
    write_knowledge_base([item], home)
    shutil.copytree(home, tmp_path / "user" / "data" / "kb")
    settings = DownloadSettings(contact="a@example.org", allow_private=True, retries=0)
    counts = download_corpus(tmp_path / "user" / "data" / "kb", settings)
    assert counts == {"out of reach": 1}
    assert download_corpus(home, settings) == {"no connection": 1}


def test_a_reference_that_cannot_be_used_is_not_stored(tmp_path: Path) -> None:
    item = comem.KnowledgeItem("0", "zero", comem.ImageRef("../../x.png", fault="outside the data's folder"))
    with pytest.raises(KnowledgeBaseError, match="outside the data's folder"):
        write_knowledge_base([item], tmp_path / "kb")
