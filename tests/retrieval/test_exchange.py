"""Knowledge bases, indexes and results in the forms that the field's repositories exchange."""

from __future__ import annotations

import csv
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from comem.benchmarks import BENCHMARKS
from comem.cli import main
from comem.io.files import RecordError
from comem.retrieval.corpus.articles import article_rows, read_articles
from comem.retrieval.corpus.rules import CorpusError, CorpusStats, CutShardError
from comem.retrieval.evaluate import RawPixels, evaluate_retrieval
from comem.retrieval.exchange import (
    ImportSettings,
    article_recall,
    import_index,
    read_int_list,
    vector_articles,
    write_entries,
)
from comem.retrieval.index import IndexFolderError, VectorIndex
from comem.retrieval.knowledge import KnowledgeBase
from comem.retrieval.retriever import PrecomputedRetriever, read_queries
from comem.retrieval.settings import RecallSettings
from comem.types import Example, KnowledgeItem, RetrievedContext

WIKI = "https://en.wikipedia.org/wiki/"
MILL, BARE, TOWER = (WIKI + name for name in ("Old_Mill", "Bare", "Tower"))


def article(title: str, texts: list[str], images: list[int]) -> dict[str, Any]:
    """An article of Encyclopedic-VQA's knowledge base; `images`: the section of each picture."""
    return {
        "title": title, "url": WIKI + title.replace(" ", "_"),
        "image_urls": [f"https://upload.example/{title[0]}{n}.jpg" for n in range(len(images))],
        "image_reference_descriptions": [f"view {n} of it" for n in range(len(images))],
        "image_section_indices": images, "section_titles": [title, "History", "Use"][: len(texts)],
        "section_texts": texts,
    }  # fmt: skip


ARTICLES = {
    MILL: article("Old Mill", ["A mill.", "Built in 1204.", "It ground rye."], [0, 2]),
    BARE: article("Bare", ["Nothing to see."], []),
    TOWER: article("Tower", ["", "Raised in 1380."], [0, 1, 1]),
}


@pytest.fixture()
def knowledge(tmp_path: Path) -> Path:
    path = tmp_path / "encyclopedic_kb_wiki.json"
    path.write_text(json.dumps(ARTICLES))
    return path


def rows_at(path: Path) -> dict[str, str]:
    return {row["id"]: row["text"] for _, row in article_rows(path, CorpusStats())}


def test_a_byte_order_mark_is_no_fault(knowledge: Path) -> None:
    before = rows_at(knowledge)
    knowledge.write_bytes(b"\xef\xbb\xbf" + knowledge.read_bytes())
    assert rows_at(knowledge) == before


@pytest.mark.parametrize("packed", ["json", "gz", "zip"])
def test_an_article_is_an_item_for_each_image_and_for_each_section_without(
    knowledge: Path, packed: str
) -> None:
    path = knowledge
    if packed == "gz":
        import gzip

        path = knowledge.with_suffix(".json.gz")
        path.write_bytes(gzip.compress(knowledge.read_bytes()))
    if packed == "zip":
        path = knowledge.with_suffix(".zip")
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(knowledge, "encyclopedic_kb_wiki.json")
    assert rows_at(path) == {
        f"{MILL}#image0": "A mill.", f"{MILL}#image1": "Use: It ground rye.",
        f"{MILL}#section1": "History: Built in 1204.", f"{BARE}#section0": "Nothing to see.",
        # A picture of an empty section goes with the first section that says something.
        f"{TOWER}#image0": "History: Raised in 1380.", f"{TOWER}#image1": "History: Raised in 1380.",
        f"{TOWER}#image2": "History: Raised in 1380.",
    }  # fmt: skip


def test_omgms_tables_say_where_pictures_lie(knowledge: Path, tmp_path: Path) -> None:
    """Thirteen tables in output/, of which two stand here; what they do not name stays on the network."""
    (tmp_path / "output").mkdir()
    head = "wiki_title,image_URL,img_path,caption\n"
    for part, rows in {
        1: "Old Mill,https://upload.example/O0.jpg,full/wiki_image_split/wiki_entity_image_1/a.jpg,a mill\n"
        "Old Mill,https://upload.example/O0.jpg,full/wiki_image_split/wiki_entity_image_1/again.jpg,again\n",
        13: 'Tower,https://upload.example/T2.jpg,full/wiki_image_split/wiki_entity_image_13/t.png,"a, b"\n',
    }.items():
        (tmp_path / "output" / f"wiki_image_url_part_{part}_processed.csv").write_text(head + rows)
    rows = {row["id"]: row for _, row in article_rows(knowledge, CorpusStats())}
    mill, second = rows[f"{MILL}#image0"], rows[f"{MILL}#image1"]
    assert mill["image"] == "full/wiki_image_split/wiki_entity_image_1/a.jpg" and "image_url" not in mill
    assert second["image_url"] == "https://upload.example/O1.jpg" and "image" not in second
    assert rows[f"{TOWER}#image2"]["image"].endswith("wiki_entity_image_13/t.png")
    picture = tmp_path / "full" / "wiki_image_split" / "wiki_entity_image_1" / "a.jpg"
    picture.parent.mkdir(parents=True)
    Image.new("RGB", (5, 4)).save(picture)
    out = tmp_path / "kb"
    assert main(["corpus", "build", str(knowledge), "--output", str(out), "--text-only"]) == 0
    base = KnowledgeBase(out)
    items = {item.id: item for item in base.items(base.rows_of(MILL))}
    image = items[f"{MILL}#image0"].image
    assert image is not None and Path(str(image.path)).samefile(picture)
    (tmp_path / "wiki_image_url_part_2_processed.csv").write_text("title,url\nx,y\n")
    with pytest.raises(CorpusError, match=r"wiki_image_url_part_2_processed\.csv:1: no column image_URL"):
        list(article_rows(knowledge, CorpusStats()))


def test_reflectivas_knowledge_base(tmp_path: Path) -> None:
    path = tmp_path / "Wiki100k_ver_1_0-all.json"
    path.write_text(json.dumps({MILL: {"wikipedia_content": "A mill of 1204.", "wikidata_id": "Q1"}}))
    ((_, row),) = article_rows(path, CorpusStats())
    assert (row["id"], row["text"], row["page_title"]) == (MILL, "A mill of 1204.", "Old Mill")


def test_corpus_build_reads_articles(knowledge: Path, tmp_path: Path) -> None:
    out = tmp_path / "kb"
    assert main(["corpus", "build", str(knowledge), "--output", str(out), "--text-only"]) == 0
    base = KnowledgeBase(out)
    assert len(base) == 7
    items = {item.id: item for item in base.items(base.rows_of(MILL))}
    assert set(items) == {f"{MILL}#image0", f"{MILL}#image1", f"{MILL}#section1"}
    assert items[f"{MILL}#section1"].text == "Old Mill: History: Built in 1204."
    assert items[f"{MILL}#section1"].image is None and items[f"{MILL}#image0"].image is not None
    assert base.rows_of(WIKI + "Elsewhere") == []


@pytest.mark.parametrize(
    "broken",
    [
        {"image_section_indices": [0]},
        {"section_titles": ["one"]},
        {"section_texts": 7},
        {"image_section_indices": ["x", "y"]},
    ],
)
def test_an_article_of_another_form_is_counted_and_passed_over(
    tmp_path: Path, broken: dict[str, Any]
) -> None:
    path, stats = tmp_path / "kb.json", CorpusStats()
    path.write_text(json.dumps({MILL: ARTICLES[MILL] | broken, BARE: ARTICLES[BARE]}))
    assert [row["id"] for _, row in article_rows(path, stats)] == [f"{BARE}#section0"]
    assert sum(stats.dropped.values()) == 1


def test_what_is_no_knowledge_base_is_named(tmp_path: Path, knowledge: Path) -> None:
    path = tmp_path / "other.json"
    for text in ("[1, 2]", "{}", "", '"x"', '{"a": {"b": 1}}', "no JSON"):
        path.write_text(text)
        with pytest.raises(CorpusError, match=r"other\.json"):
            list(article_rows(path, CorpusStats()))
    path.write_bytes(knowledge.read_bytes()[:-40])
    with pytest.raises(CutShardError, match="after article 2"):
        list(read_articles(path))
    packed = tmp_path / "two.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.json", "{}")
        archive.writestr("b.json", "{}")
    with pytest.raises(CorpusError, match="holds 2 JSON files"):
        list(read_articles(packed))


def test_a_large_knowledge_base_is_streamed(tmp_path: Path) -> None:
    """Reading 20 MB of articles takes no more memory than a few of them."""
    import tracemalloc

    path = tmp_path / "large.json"
    with open(path, "w", encoding="utf-8") as file:
        file.write("{")
        for n in range(2000):
            text = json.dumps(article(f"A{n}", ["x" * 10_000], [0]))
            file.write(f"{', ' * bool(n)}{json.dumps(WIKI + str(n))}: {text}")
        file.write("}")
    tracemalloc.start()
    assert sum(1 for _ in article_rows(path, CorpusStats())) == 2000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 << 20


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickled_list_of_ints_is_read_without_unpickling(tmp_path: Path, protocol: int) -> None:
    numbers = [0, 1, 255, 256, 70_000, 2**31, 2**40, 3] + list(range(2500))
    path = tmp_path / "kb_index_ids.pkl"
    path.write_bytes(pickle.dumps(numbers, protocol))
    assert read_int_list(path).tolist() == numbers


class Evil:
    """Its pickle would write a file."""

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, ("pwned", "w")


def test_anything_else_that_is_pickled_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "ids.pkl"
    for value in ([1, Evil()], {"a": 1}, ["x"], [[1], [2]], 7, np.arange(3)):
        path.write_bytes(pickle.dumps(value))
        with pytest.raises(RecordError, match=r"ids\.pkl"):
            read_int_list(path)
    path.write_bytes(b"\x80\x04garbage")
    with pytest.raises(RecordError, match=r"ids\.pkl"):
        read_int_list(path)
    assert not Path("pwned").exists()


def write_vectors(path: Path, vectors: np.ndarray) -> None:
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    faiss.write_index(index, str(path))


def unit(count: int, width: int = 8) -> np.ndarray:
    vectors = np.random.default_rng(0).standard_normal((count, width)).astype(np.float32)
    normed: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return normed


@pytest.fixture()
def echosight(knowledge: Path, tmp_path: Path) -> ImportSettings:
    """Vectors of both pictures of article 0, and of two of article 2's three: which ones nobody wrote."""
    write_vectors(tmp_path / "kb_index.faiss", unit(4))
    (tmp_path / "kb_index_ids.pkl").write_bytes(pickle.dumps([0, 0, 2, 2]))
    return ImportSettings(
        vectors=tmp_path / "kb_index.faiss", ids=tmp_path / "kb_index_ids.pkl", knowledge=knowledge,
        output=tmp_path / "index", embedder="eva-clip-8b",
    )  # fmt: skip


def test_echosights_index_names_the_picture_where_that_is_known(echosight: ImportSettings) -> None:
    index = import_index(echosight)
    vectors = unit(4)
    first = [index.base.items(rows[:1])[0].id for rows in index.search(vectors, 1).rows]
    assert first == [f"{MILL}#image0", f"{MILL}#image1", f"{TOWER}#article", f"{TOWER}#article"]
    assert index.base.items(index.search(vectors[2:3], 1).rows[0])[0].image is None
    # Two vectors of one item: it is found once, with the better score.
    hits = index.search(vectors[2:3], 4)
    assert sorted(index.base.ids[row] for row in hits.rows[0]) == sorted(
        [f"{MILL}#image0", f"{MILL}#image1", f"{TOWER}#article"]
    )
    assert hits.scores[0][0] == pytest.approx(1.0, abs=1e-5)


def test_an_imported_index_takes_the_embedder_that_was_named(echosight: ImportSettings) -> None:
    index = import_index(echosight)
    with pytest.raises(IndexFolderError, match="eva-clip-8b"):
        index.check(RawPixels(4))
    named = RawPixels(4)
    named.name = "eva-clip-8b"
    VectorIndex(echosight.output, named)


def test_reflectivas_index_names_articles_by_url(knowledge: Path, tmp_path: Path) -> None:
    write_vectors(tmp_path / "knn.index", unit(3))
    (tmp_path / "knn.json").write_text(json.dumps({"values": [[TOWER, 1], [MILL, 0], [MILL, 0]]}))
    assert vector_articles(tmp_path / "knn.json") == [TOWER, MILL, MILL]
    words = ["--vectors", tmp_path / "knn.index", "--ids", tmp_path / "knn.json", "--knowledge", knowledge,
             "--output", tmp_path / "index", "--embedder", "clip"]  # fmt: skip
    assert main(["index", "import", *map(str, words)]) == 0
    index = VectorIndex(tmp_path / "index")
    found = [index.base.ids[rows[0]] for rows in index.search(unit(3), 1).rows]
    assert found == [f"{TOWER}#article", f"{MILL}#image0", f"{MILL}#image1"]


def test_ids_that_do_not_fit_are_refused(echosight: ImportSettings) -> None:
    for ids, said in ([0, 0, 2], "3 ids for 4 vectors"), ([0, 0, 2, 9], "1 vectors of articles"):
        echosight.ids.write_bytes(pickle.dumps(ids))
        with pytest.raises(RecordError, match=said):
            import_index(echosight)
        assert not (echosight.output / "index.json").exists()
    echosight.ids.with_suffix(".json").write_text('{"values": "x"}')
    with pytest.raises(RecordError, match="neither a list"):
        vector_articles(echosight.ids.with_suffix(".json"))


def test_only_inner_products_are_taken(echosight: ImportSettings) -> None:
    import faiss

    index = faiss.IndexFlatL2(8)
    index.add(unit(4))
    faiss.write_index(index, str(echosight.vectors))
    with pytest.raises(ValueError, match="inner products"):
        import_index(echosight)


@pytest.mark.parametrize("fault", ["NaN", "inf", "long", "zero"])
def test_vectors_of_no_use_are_refused(echosight: ImportSettings, fault: str) -> None:
    vectors = unit(4)
    vectors[2] = {"NaN": np.nan, "inf": np.inf, "long": 9.0, "zero": 0.0}[fault]
    write_vectors(echosight.vectors, vectors)
    with pytest.raises(ValueError, match="vector 2: its vector has"):
        import_index(echosight)
    assert not echosight.output.exists()


@pytest.mark.parametrize("lacking", ["vectors", "ids", "knowledge"])
def test_a_missing_file_is_named(echosight: ImportSettings, lacking: str) -> None:
    getattr(echosight, lacking).unlink()
    with pytest.raises(RecordError, match="no such file; check the path"):
        import_index(echosight)


def test_an_import_that_fails_leaves_no_index_that_opens(echosight: ImportSettings) -> None:
    import_index(echosight)
    echosight.ids.write_bytes(pickle.dumps([0, 0, 2, 9]))
    with pytest.raises(RecordError, match="vectors of articles"):
        import_index(echosight)
    with pytest.raises(IndexFolderError, match="no finished index"):
        VectorIndex(echosight.output)
    echosight.ids.write_bytes(pickle.dumps([0, 0, 2, 2]))
    assert len(import_index(echosight)) == 4


def questions(path: Path, rows: list[dict[str, str]]) -> Path:
    names = ["question", "answer", "dataset_image_ids", "dataset_name", "question_type", "wikipedia_url"]
    names += ["data_id"] * any("data_id" in row for row in rows)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def question(url: str, kind: str = "automatic", **more: str) -> dict[str, str]:
    return {"question": "When?", "answer": "1204", "question_type": kind, "wikipedia_url": url, **more}


def test_recall_by_url_worked_by_hand(tmp_path: Path) -> None:
    """EchoSight's rule, with repeated articles, a redirect, a tie and a question of two hops."""
    file = questions(
        tmp_path / "test.csv",
        [
            question(MILL),  # E-VQA_0: second article, third in the list: found at 5, not at 1
            question(WIKI + "Mill_(old)"),  # E-VQA_1: a redirect to MILL is another page: never found
            question(f"{MILL}|{BARE}", "2_hop"),  # left out, and not numbered
            question(TOWER, "templated"),  # E-VQA_2: first
            question(BARE, "multi_answer"),  # E-VQA_3: sixth article, though found by eleven pictures
        ],
    )
    others = [WIKI + f"Other_{n}" for n in range(5)]
    contexts = {
        "E-VQA_0": [TOWER, TOWER, MILL], "E-VQA_1": [MILL], "E-VQA_2": [TOWER, MILL],
        "E-VQA_3": [url for url in others for _ in range(2)] + [BARE],
    }  # fmt: skip
    found = article_recall(contexts, file)
    assert found == {"recall@1": 0.25, "recall@5": 0.5, "recall@10": 0.75, "recall@20": 0.75}
    del contexts["E-VQA_2"]
    with pytest.raises(RecordError, match="E-VQA_2"):
        article_recall(contexts, file)


def test_recall_by_the_command(tmp_path: Path, knowledge: Path) -> None:
    file = questions(tmp_path / "test.csv", [question(MILL, "infoseek", data_id="infoseek_1")])
    entries = tmp_path / "results.json"
    entries.write_text(json.dumps({"infoseek_1": {"retrieved_entries": [BARE, MILL]}}))
    out = tmp_path / "recall.json"
    words = ["index", "evaluate", "--relevant", str(file), "--output", str(out)]
    assert main([*words, "--contexts", str(entries)]) == 0
    by_entries = json.loads(out.read_text())["numbers"]
    assert by_entries["recall@1"] == 0.0 and by_entries["recall@5"] == 1.0
    main(["corpus", "build", str(knowledge), "--output", str(tmp_path / "kb"), "--text-only"])
    lines = tmp_path / "results.jsonl"
    ids = [f"{BARE}#section0", f"{MILL}#image1"]
    lines.write_text(json.dumps({"example_id": "infoseek_1", "ids": ids, "scores": [1.0, 0.5]}) + "\n")
    assert main([*words, "--contexts", str(lines), "--knowledge", str(tmp_path / "kb")]) == 0
    assert json.loads(out.read_text())["numbers"] == by_entries


def test_questions_of_a_csv_are_retrieved_and_their_recall_told(tmp_path: Path, knowledge: Path) -> None:
    main(["corpus", "build", str(knowledge), "--output", str(tmp_path / "kb"), "--text-only"])
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "pictures" / "7.png")
    asked = {"question": "What ground rye?", "dataset_image_ids": "7|8"}
    rows = [question(f"{MILL}|{BARE}", "2_hop"), {**question(MILL), **asked}, question(TOWER)]
    file = questions(tmp_path / "test.csv", rows)
    first, second = read_queries(file, tmp_path / "pictures")
    assert (first.id, second.id, second.image) == ("E-VQA_0", "E-VQA_1", None)
    assert str(first.image).endswith("pictures/7.png")
    entries, out = tmp_path / "results.json", tmp_path / "recall.json"
    words = ["retrieve", "--retriever", "bm25", "--index", str(tmp_path / "kb"), "--questions", str(file)]
    assert main([*words, "-k", "2", "--entries", str(entries), "--images", str(tmp_path / "pictures")]) == 0
    words = ["index", "evaluate", "--contexts", str(entries), "--relevant", str(file), "--output", str(out)]
    assert main(words) == 0 and json.loads(out.read_text())["numbers"]["recall@1"] >= 0.5


def test_results_are_written_and_read_as_echosight_does(tmp_path: Path, knowledge: Path) -> None:
    main(["corpus", "build", str(knowledge), "--output", str(tmp_path / "kb"), "--text-only"])
    base = KnowledgeBase(tmp_path / "kb")
    ids = [f"{TOWER}#image0", f"{TOWER}#image1", f"{MILL}#image0"]
    context = RetrievedContext("q", tuple(base.by_ids(ids)), (0.9, 0.8, 0.7))
    path = tmp_path / "results.json"
    write_entries(path, {"q": context})
    assert json.loads(path.read_text()) == {
        "q": {"retrieved_entries": [TOWER, MILL], "retrieval_similarities": [0.9, 0.7]}
    }
    found = PrecomputedRetriever(path, base).retrieve([Example("q", "When?", None)], 5)["q"]
    assert [(item.source, score) for item, score in zip(found.items, found.scores, strict=True)] == [
        (TOWER, 0.9), (MILL, 0.7),
    ]  # fmt: skip


def test_reranked_sections_come_first(tmp_path: Path, knowledge: Path) -> None:
    main(["corpus", "build", str(knowledge), "--output", str(tmp_path / "kb"), "--text-only"])
    section = "# Wiki Article: Old Mill\n## Section Title: History\nBuilt in 1204."
    row = {"retrieved_entries": [TOWER, MILL], "retrieval_similarities": [0.9, 0.7],
           "reranked_sections": [section]}  # fmt: skip
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"q": row}))
    found = PrecomputedRetriever(path, KnowledgeBase(tmp_path / "kb")).retrieve([Example("q", "", None)], 1)
    assert [item.id for item in found["q"].items] == [f"{MILL}#section1"]
    for broken in (
        {"retrieved_entries": "x"}, {**row, "retrieval_similarities": [1]}, [], 1, {"retrieved_entries": [1]},
        {**row, "retrieval_similarities": ["x", "y"]},
    ):  # fmt: skip
        path.write_text(json.dumps({"q": broken}))
        with pytest.raises(RecordError, match="'q'"):
            PrecomputedRetriever(path, KnowledgeBase(tmp_path / "kb"))
        with pytest.raises(RecordError, match="'q'"):
            evaluate_retrieval(RecallSettings(contexts=path, relevant=tmp_path / "test.csv"))
    path.write_text("[]")
    with pytest.raises(RecordError, match="no results by data_id"):
        evaluate_retrieval(RecallSettings(contexts=path, relevant=tmp_path / "test.csv"))


def test_results_for_evqa_are_found_by_the_number_that_they_go_by(tmp_path: Path, knowledge: Path) -> None:
    """The benchmark numbers all rows, EchoSight those without two hops."""
    main(["corpus", "build", str(knowledge), "--output", str(tmp_path / "kb"), "--text-only"])
    file = questions(tmp_path / "test.csv", [question(MILL, "2_hop"), question(TOWER)])
    hop, one = BENCHMARKS["evqa"].load(file)
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"E-VQA_0": {"retrieved_entries": [TOWER]}}))
    results = PrecomputedRetriever(path, KnowledgeBase(tmp_path / "kb"))
    assert one.id == "evqa_test_0000001"
    assert [item.source for item in results.retrieve([one], 5)[one.id].items] == [TOWER]
    with pytest.raises(ValueError, match="evqa_test_0000000"):
        results.retrieve([hop], 5)


def test_items_without_a_source_are_articles_of_their_own() -> None:
    from comem.retrieval.exchange import once_each

    items = [
        KnowledgeItem("a", "x", None, MILL),
        KnowledgeItem("b", "y", None),
        KnowledgeItem("c", "z", None),
    ]
    assert [item.id for item, _ in once_each([*items, items[0]], [4.0, 3.0, 2.0, 1.0])] == ["a", "b", "c"]
