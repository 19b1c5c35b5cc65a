"""What killed processes had not finished is gone after the next run, under the names of all versions."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from comem.io.files import whole_file
from comem.retrieval.corpus.build import build_corpus
from comem.retrieval.corpus.sources import CorpusSettings
from comem.retrieval.evaluate import RawPixels
from comem.retrieval.index import IndexSettings, build_index

DEAD = 2**22 + 7  # no process has this number
LEFT = [
    f".items.parquet.{DEAD}.part", f"..trained.faiss.{DEAD}.part", f".index.faiss.{DEAD}.0badf00d.tmp",
    f".refine.npy.{DEAD}.tmp", f".items.{DEAD}.tmp", f".index.json.{DEAD}.0badf00d.tmp",
    f"embeddings/img_emb/.img_emb_0.npy.{DEAD}.0badf00d.tmp", f"embeddings/shards/.img_0.json.{DEAD}.part",
    f"parts/.0123456789abcdef.parquet.{DEAD}.0badf00d.tmp",
]  # fmt: skip


def test_an_index_is_built_over_leftovers(corpus: Callable[..., Path], tmp_path: Path) -> None:
    folder, living = tmp_path / "kb", f".items.parquet.{os.getppid()}.0badf00d.tmp"
    for name in [*LEFT, living]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"half")
    settings = IndexSettings(corpus=(str(corpus()),), output=folder)
    assert len(build_index(settings, embedder=RawPixels(4))) == 12
    assert [name for name in LEFT if (folder / name).exists()] == []
    assert (folder / living).exists()  # of another process, which is at work


@pytest.mark.parametrize("name", LEFT[:5])
def test_a_corpus_is_built_over_leftovers(corpus: Callable[..., Path], tmp_path: Path, name: str) -> None:
    folder = tmp_path / "kb"
    folder.mkdir()
    (folder / name).write_bytes(b"half")
    build_corpus(CorpusSettings(sources=(str(corpus(3)),), output=folder))
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "items.json", "items.parquet"]


def test_a_file_sweeps_what_was_left_of_itself(tmp_path: Path) -> None:
    (tmp_path / f".page.html.{DEAD}.0badf00d.tmp").write_bytes(b"half")
    with whole_file(tmp_path / "page.html") as path:
        path.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
