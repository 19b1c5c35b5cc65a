"""Building the index: all or nothing, whatever stops it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import numpy as np
import pytest
from rank_bm25 import BM25Okapi

from comem.io.files import RecordError, StorageError
from comem.linking.build import build_title_index, okapi_idf
from comem.linking.index import TitleIndexError
from comem.linking.titles import TOKENIZERS, Words
from tests.linking.conftest import vocabulary, write_titles


def test_idf_is_okapis_where_tokens_are_frequent() -> None:
    documents = [["a", "b"], ["a", "c"], ["a", "b", "d"], ["a"], ["e"], ["f"]]
    reference = BM25Okapi(documents)
    occurrences = np.array([sum(token in doc for doc in documents) for token in reference.idf])
    assert okapi_idf(occurrences, len(documents)) == pytest.approx(list(reference.idf.values()))
    assert min(np.log(len(documents) - occurrences + 0.5) - np.log(occurrences + 0.5)) < 0


def test_a_second_build_finds_its_work_done_and_refuses_another(tmp_path: Path) -> None:
    titles, folder = write_titles(tmp_path, ["Paris", "Rome"]), tmp_path / "index"
    build_title_index(titles, folder, Words())
    stamp = (folder / "titles.json").stat().st_mtime_ns
    build_title_index(titles, folder, Words())
    assert (folder / "titles.json").stat().st_mtime_ns == stamp
    with pytest.raises(TitleIndexError, match="an index of another tokenizer and vocabulary_sha256"):
        build_title_index(titles, folder, TOKENIZERS["bert"](vocabulary(tmp_path)))
    titles.write_text("Q1\tLondon\n")
    with pytest.raises(TitleIndexError, match="another titles_sha256"):
        build_title_index(titles, folder, Words())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(TitleIndexError, match="holds no index of titles"):
        build_title_index(titles, tmp_path / "other", Words())


def test_a_broken_titles_file_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "titles.tsv"
    path.write_text("Q1\tParis\nbroken\n")
    with pytest.raises(RecordError, match="titles.tsv:2"):
        build_title_index(path, tmp_path / "index", Words())
    path.write_text("\n")
    with pytest.raises(TitleIndexError, match="holds no titles"):
        build_title_index(path, tmp_path / "index", Words())
    with pytest.raises(RecordError, match="no such file"):
        build_title_index(tmp_path / "gone.tsv", tmp_path / "index", Words())
    assert [each.name for each in tmp_path.iterdir()] == ["titles.tsv"]


def test_what_a_killed_build_left_is_cleared_and_two_do_not_build_at_once(tmp_path: Path) -> None:
    titles, place = write_titles(tmp_path, ["Paris", "Rome"]), tmp_path / ".index.building"
    place.mkdir()
    (place / "vocab.index.json").write_text("half")
    (place / "junk").touch()
    handle = os.open(place, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(StorageError, match="another process"):
        build_title_index(titles, tmp_path / "index", Words())
    assert (place / "junk").exists()
    os.close(handle)
    index = build_title_index(titles, tmp_path / "index", Words())
    assert index.search(["paris"])[0][0].entity.id == "Q0"
    assert not place.exists() and not (tmp_path / "index" / "junk").exists()


def test_a_build_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    class Stopping(Words):
        def __call__(self, texts: object) -> object:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_title_index(write_titles(tmp_path, ["Paris"]), tmp_path / "index", Stopping())
    assert [each.name for each in tmp_path.iterdir()] == ["titles.tsv"]


def test_a_full_disk_is_one_error_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", save)
    with pytest.raises(StorageError, match="free some space"):
        build_title_index(write_titles(tmp_path, ["Paris"]), tmp_path / "index", Words())
