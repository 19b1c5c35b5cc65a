"""The index against rank_bm25's BM25Okapi, and what it says about broken folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rank_bm25 import BM25Okapi

from comem.io.files import read_json, read_jsonl
from comem.linking.build import build_title_index
from comem.linking.index import TitleIndex, TitleIndexError
from comem.linking.titles import TOKENIZERS, Words
from tests.linking.conftest import made_up, vocabulary, write_titles


def oven_titles(oven: Path) -> list[str]:
    files = sorted(oven.glob("*.jsonl.gz"))
    return sorted({row["entity_text"] for file in files for row in read_jsonl(file)})


def assert_ranks_as_okapi(index: TitleIndex, titles: list[str], queries: list[str], k: int = 5) -> None:
    """The same best scores, and every title among them at its own score."""
    tokenize = index.tokenizer
    reference = BM25Okapi(list(tokenize(titles)))
    for query, tokens, found in zip(queries, tokenize(queries), index.search(queries, k), strict=True):
        scores = reference.get_scores(tokens)
        order = np.lexsort((np.arange(len(scores)), -np.round(scores, 9)))[:k]
        expected = [(f"Q{row}", pytest.approx(scores[row], abs=1e-9)) for row in order if scores[row] > 0]
        assert [(match.entity.id, match.score) for match in found] == expected, query


@pytest.mark.parametrize("name", ["words", "bert"])
@pytest.mark.parametrize("count", [5, 300])
def test_ranking_is_okapis(tmp_path: Path, name: str, count: int) -> None:
    titles = made_up(count)
    tokenizer = TOKENIZERS[name](vocabulary(tmp_path))
    index = build_title_index(write_titles(tmp_path, titles), tmp_path / "index", tokenizer)
    random = np.random.default_rng(1)
    pairs = [f"{a} {b}" for a, b in random.choice(titles, (40, 2))]
    queries = [*titles[:40], *pairs, "of the", "the the lake", "x"]
    assert_ranks_as_okapi(index, titles, queries)


def test_ranking_is_okapis_on_real_titles(tmp_path: Path) -> None:
    oven = Path(__file__).resolve().parents[3] / "shared" / "data" / "oven"
    if not oven.is_dir():
        pytest.skip("optional data folder ../shared/data/oven is absent")
    titles = oven_titles(oven)
    assert len(titles) > 1000
    tokenizer = TOKENIZERS["bert"](vocabulary(tmp_path))
    index = build_title_index(write_titles(tmp_path, titles), tmp_path / "index", tokenizer)
    queries = [*titles[::40], *(f"the {title} in Paris" for title in titles[::60])]
    assert_ranks_as_okapi(index, titles, queries)
    found = [matches[0].entity.title for matches in index.search(titles)]
    exact = [name == title for name, title in zip(found, titles, strict=True)]
    assert sum(exact) / len(exact) > 0.98  # every title finds itself, but for ties of its pieces


def test_titles_with_accents_ids_and_several_names(tmp_path: Path) -> None:
    path = tmp_path / "titles.tsv"
    path.write_text("Q1\tZürichhorn\nQ2\tÎle-de-France\nQ2\tParis region\nM5\t北京市\n", encoding="utf-8")
    index = build_title_index(path, tmp_path / "index", Words())
    found = index.search(["zurichhorn", "the Paris region", "ILE DE FRANCE", "北京市", "none"])
    assert [[m.entity for m in each] for each in found] == [
        [("Q1", "Zürichhorn")], [("Q2", "Paris region")], [("Q2", "Île-de-France")], [("M5", "北京市")], [],
    ]  # fmt: skip


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    build_title_index(write_titles(tmp_path, ["Paris", "Rome"]), folder, Words())
    assert read_json(folder / "titles.json")["count"] == len(TitleIndex(folder)) == 2
    data = folder / "data.csc.index.npy"
    data.write_bytes(data.read_bytes()[:-8])
    with pytest.raises(TitleIndexError, match="data.csc.index.npy.*build the index again"):
        TitleIndex(folder)
    with pytest.raises(TitleIndexError, match="make one with comem oven index"):
        TitleIndex(tmp_path / "none")


def test_the_arrays_stay_on_disk(tmp_path: Path) -> None:
    index = build_title_index(write_titles(tmp_path, ["Paris", "Rome"]), tmp_path / "index", Words())
    for array in (index._postings.rows, index._postings.values, index._titles, index._offsets):
        assert isinstance(array.base, np.memmap)
