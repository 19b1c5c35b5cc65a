"""The index against rank_bm25's BM25Okapi, and what it says about broken folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rank_bm25 import BM25Okapi

from comem.linking.index import TitleIndex, TitleIndexError, build_title_index, okapi_idf
from comem.linking.tokenizers import TOKENIZERS, Words
from comem.records import RecordError, read_json, read_jsonl

PIECES = [
    "[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "(", ")", ",", "-", "of", "the",
    *"abcdefghijklmnopqrstuvwxyz0123456789", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz0123456789"),
    "##er", "##in", "##land", "##ing", "bridge", "palace", "river", "church", "saint", "lake",
]  # fmt: skip


def write_titles(folder: Path, titles: list[str]) -> Path:
    path = folder / "titles.tsv"
    path.write_text("".join(f"Q{i}\t{title}\n" for i, title in enumerate(titles)), encoding="utf-8")
    return path


def made_up(count: int) -> list[str]:
    random = np.random.default_rng(5)
    parts = [
        "Saint",
        "Lake",
        "River",
        "of",
        "the",
        "Church",
        "Palace",
        "Bridge",
        "(band)",
        "Zürich",
        "Northern",
    ]
    names = [
        "".join(random.choice(list("aeioubcdfgrt"), size=random.integers(3, 8))).title() for _ in range(80)
    ]
    words = np.array(parts + names)
    return [" ".join(random.choice(words, size=random.integers(1, 6))) for _ in range(count)]


def vocabulary(folder: Path) -> Path:
    path = folder / "vocab.txt"
    path.write_text("\n".join(PIECES), encoding="utf-8")
    return path


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
    index = build_title_index(write_titles(tmp_path, titles), tmp_path / "index", tokenizer, progress=False)
    random = np.random.default_rng(1)
    queries = [
        *titles[:40],
        *(f"{a} {b}" for a, b in random.choice(titles, (40, 2))),
        "of the",
        "the the lake",
        "x",
    ]
    assert_ranks_as_okapi(index, titles, queries)


def test_ranking_is_okapis_on_real_titles(tmp_path: Path) -> None:
    oven = Path(__file__).resolve().parents[3] / "shared" / "data" / "oven"
    if not oven.is_dir():
        pytest.skip("optional data folder ../shared/data/oven is absent")
    titles = oven_titles(oven)
    assert len(titles) > 1000
    tokenizer = TOKENIZERS["bert"](vocabulary(tmp_path))
    index = build_title_index(write_titles(tmp_path, titles), tmp_path / "index", tokenizer, progress=False)
    queries = [*titles[::40], *(f"the {title} in Paris" for title in titles[::60])]
    assert_ranks_as_okapi(index, titles, queries)
    exact = [
        found[0].entity.title == title for title, found in zip(titles, index.search(titles), strict=True)
    ]
    assert sum(exact) / len(exact) > 0.98  # every title finds itself, but for ties of its pieces


def test_idf_is_okapis_where_tokens_are_frequent() -> None:
    documents = [["a", "b"], ["a", "c"], ["a", "b", "d"], ["a"], ["e"], ["f"]]
    reference = BM25Okapi(documents)
    occurrences = np.array([sum(token in doc for doc in documents) for token in reference.idf])
    assert okapi_idf(occurrences, len(documents)) == pytest.approx(list(reference.idf.values()))
    assert min(np.log(len(documents) - occurrences + 0.5) - np.log(occurrences + 0.5)) < 0


def test_titles_with_accents_ids_and_several_names(tmp_path: Path) -> None:
    path = tmp_path / "titles.tsv"
    path.write_text("Q1\tZürichhorn\nQ2\tÎle-de-France\nQ2\tParis region\nM5\t北京市\n", encoding="utf-8")
    index = build_title_index(path, tmp_path / "index", Words(), progress=False)
    found = index.search(["zurichhorn", "the Paris region", "ILE DE FRANCE", "北京市", "none"])
    assert [[m.entity for m in each] for each in found] == [
        [("Q1", "Zürichhorn")], [("Q2", "Paris region")], [("Q2", "Île-de-France")], [("M5", "北京市")], [],
    ]  # fmt: skip


def test_a_second_build_finds_its_work_done_and_refuses_another(tmp_path: Path) -> None:
    titles, folder = write_titles(tmp_path, ["Paris", "Rome"]), tmp_path / "index"
    build_title_index(titles, folder, Words(), progress=False)
    stamp = (folder / "titles.json").stat().st_mtime_ns
    build_title_index(titles, folder, Words(), progress=False)
    assert (folder / "titles.json").stat().st_mtime_ns == stamp
    with pytest.raises(TitleIndexError, match="an index of another tokenizer and vocabulary_sha256"):
        build_title_index(titles, folder, TOKENIZERS["bert"](vocabulary(tmp_path)), progress=False)
    titles.write_text("Q1\tLondon\n")
    with pytest.raises(TitleIndexError, match="another titles_sha256"):
        build_title_index(titles, folder, Words(), progress=False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(TitleIndexError, match="holds no index of titles"):
        build_title_index(titles, tmp_path / "other", Words(), progress=False)


def test_a_broken_titles_file_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "titles.tsv"
    path.write_text("Q1\tParis\nbroken\n")
    with pytest.raises(RecordError, match="titles.tsv:2"):
        build_title_index(path, tmp_path / "index", Words(), progress=False)
    path.write_text("\n")
    with pytest.raises(TitleIndexError, match="holds no titles"):
        build_title_index(path, tmp_path / "index", Words(), progress=False)
    with pytest.raises(RecordError, match="no such file"):
        build_title_index(tmp_path / "gone.tsv", tmp_path / "index", Words(), progress=False)
    assert [each.name for each in tmp_path.iterdir()] == ["titles.tsv"]


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    build_title_index(write_titles(tmp_path, ["Paris", "Rome"]), folder, Words(), progress=False)
    assert read_json(folder / "titles.json")["count"] == len(TitleIndex(folder)) == 2
    data = folder / "data.csc.index.npy"
    data.write_bytes(data.read_bytes()[:-8])
    with pytest.raises(TitleIndexError, match="data.csc.index.npy.*build the index again"):
        TitleIndex(folder)
    with pytest.raises(TitleIndexError, match="make one with comem oven index"):
        TitleIndex(tmp_path / "none")


def test_the_arrays_stay_on_disk(tmp_path: Path) -> None:
    index = build_title_index(
        write_titles(tmp_path, ["Paris", "Rome"]), tmp_path / "index", Words(), progress=False
    )
    for array in (index._postings.rows, index._postings.values, index._titles, index._offsets):
        assert isinstance(array.base, np.memmap)
