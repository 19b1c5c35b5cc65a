"""Every command reads the same sources, wherever it is called and however they are named."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import comem
from comem.cli import main
from comem.retrieval.corpus.build import build_corpus
from comem.retrieval.corpus.rules import CorpusRules, CorpusStats
from comem.retrieval.corpus.sources import CorpusSettings, find_sources, read_corpus
from comem.retrieval.evaluate import RawPixels
from comem.retrieval.index import IndexSettings, build_index, is_current


@pytest.fixture()
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: `pics` with images and texts, and tables that name them."""
    (tmp_path / "here" / "pics").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    rows = []
    for i in range(3):
        Image.new("RGB", (8, 8), (80 * i, 10, 200 - 50 * i)).save(f"pics/{i}.png")
        Path(f"pics/{i}.txt").write_text(f"text {i}")
        rows.append({"id": str(i), "text": f"text {i}", "image": f"pics/{i}.png"})
    Path("items.csv").write_text("id,text,image\n" + "".join(",".join(row.values()) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), "items.parquet")
    return tmp_path / "here"


@pytest.mark.parametrize("source", ["pics", "items.csv", "items.parquet"])
@pytest.mark.parametrize("how", ["{}", "./{}", "../here/{}", "{here}/{}"])
def test_any_path_works_in_every_command(here: Path, source: str, how: str) -> None:
    word = how.format(source, here=here)
    for output in ("mine", f"{here}/other"):
        base = build_corpus(CorpusSettings(sources=(word,), output=Path(output)))
        assert base.texts() == ["text 0", "text 1", "text 2"]
        assert [os.path.abspath(path) for path in base.images()] == [f"{here}/pics/{i}.png" for i in range(3)]
        assert len(build_index(indexing(output, output), embedder=RawPixels(4))) == 3
    assert len(build_index(indexing(word, "index"), embedder=RawPixels(4))) == 3
    assert is_current([word], "index") and is_current([here / source], here / "index")
    items = list(read_corpus(find_sources([word])))  # comem encode, comem bank build
    assert [str(item.image) for item in items] == [f"{here}/pics/{i}.png" for i in range(3)]


def test_a_home_that_no_shell_has_put_in_is_found(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here.parent))
    (here / "c.yaml").write_text("sources: [~/here/items.csv]\noutput: ~/here/yaml\nimages: ~/here\n")
    for words in (
        ["~/here/pics", "--output=~/here/flag"],
        ["-c", "c.yaml"],
        ["~/here/pics", "output=~/here/key"],
    ):
        assert main(["corpus", "build", *words]) == 0
    for name in ("flag", "yaml", "key"):
        found = read_corpus(find_sources([f"~/here/{name}"]))
        assert [os.path.abspath(str(item.image)) for item in found] == [
            f"{here}/pics/{i}.png" for i in range(3)
        ]
    assert not (here / "~").exists()


def indexing(word: str, output: str) -> IndexSettings:
    return IndexSettings(corpus=(word,), output=Path(output))


def test_a_corpus_folder_is_a_source_like_others(here: Path) -> None:
    table = "id,text,image\n0,zero,pics/0.png\n1,one,https://example.org/1.png\n"
    Path("items.csv").write_text(table)
    base = build_corpus(CorpusSettings(sources=("items.csv",), output=Path("kb")))
    found = list(read_corpus(find_sources(["kb"])))
    assert [os.path.relpath(str(item.image)) for item in found] == base.images()
    assert [item.text for item in found] == base.texts() == ["zero", "one"]


def test_downloaded_images_lie_where_the_user_says(here: Path) -> None:
    Path("items.csv").write_text("id,text,image\n0,zero,https://h/a/0.png\n1,one,https://h/a/9.png?x=1\n")
    settings = CorpusSettings(sources=("items.csv",), output=Path("kb"), images=Path("pics"))
    first, second = build_corpus(settings).images()
    assert first == "pics/0.png" and second.startswith("kb/images/")
    stats = CorpusStats()
    assert not list(read_corpus(find_sources(["items.csv"]), CorpusRules(), stats))
    assert dict(stats.dropped) == {"no local image": 2}


def test_images_in_a_table_stay_in_memory_where_nothing_is_written(here: Path) -> None:
    rows = [{"id": "0", "text": "zero", "image": {"bytes": Path("pics/0.png").read_bytes(), "path": None}}]
    pq.write_table(pa.Table.from_pylist(rows), "items.parquet")
    (item,) = read_corpus(find_sources(["items.parquet"]))
    assert item.image is not None and item.image.data == rows[0]["image"]["bytes"]  # type: ignore[index]


def test_texts_stand_for_paths_and_one_source_for_several(here: Path) -> None:
    base = comem.build_corpus(comem.CorpusSettings(sources="pics", output="kb"))
    settings = comem.IndexSettings(corpus="kb", output="kb")
    assert len(comem.build_index(settings, embedder=RawPixels(4))) == len(base) == 3
    Path("q.jsonl").write_text('{"id": "a", "question": "text 2?", "image": "pics/2.png"}\n')
    asked = comem.RetrieveSettings(index="kb", questions="q.jsonl", retriever="bm25", k=1)
    assert [item.id for item in comem.retrieve(asked)["a"].items] == ["2.png"]
    assert comem.open_index("kb").base.ids == base.ids
