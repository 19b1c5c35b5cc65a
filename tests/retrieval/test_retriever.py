"""Retrievers and their result files."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from comem.io.files import RecordError
from comem.registry import UnknownNameError
from comem.retrieval.evaluate import RawPixels
from comem.retrieval.index import IndexSettings, build_index
from comem.retrieval.knowledge import KnowledgeBaseError
from comem.retrieval.retriever import (
    OWN,
    RETRIEVERS,
    PrecomputedRetriever,
    RetrieverSettings,
    VectorRetriever,
    load_contexts,
    open_retriever,
    read_queries,
    retrieve_all,
)
from comem.types import Example, ImageRef


@pytest.fixture()
def retriever(corpus: Callable[..., Path], tmp_path: Path, embedder: RawPixels) -> VectorRetriever:
    settings = IndexSettings(corpus=(str(corpus(12, ("en", "ru"))),), output=tmp_path / "kb")
    return VectorRetriever(build_index(settings, embedder=embedder), embedder)


@pytest.fixture()
def examples(retriever: VectorRetriever) -> list[Example]:
    paths = sorted(set(retriever.base.images()))
    return [Example(f"q{i}", "?", ImageRef(path=path)) for i, path in enumerate(paths)]


def test_the_nearest_item_comes_first(retriever: VectorRetriever, examples: list[Example]) -> None:
    found = retriever.retrieve(examples, 3, ["en"]).values()
    for example, context in zip(examples, found, strict=True):
        assert context.example_id == example.id and len(context.items) == 3
        assert str(context.items[0].image) == str(example.image)
        assert list(context.scores) == sorted(context.scores, reverse=True)
        assert context.scores[0] == pytest.approx(1.0, abs=1e-5)


def test_items_in_the_language_of_each_question(retriever: VectorRetriever, examples: list[Example]) -> None:
    asked = [replace(example, language=("en", "ru")[n % 2]) for n, example in enumerate(examples)]
    for example, context in zip(asked, retriever.retrieve(asked, 3, OWN).values(), strict=True):
        assert context == retriever.retrieve([example], 3, [example.language])[example.id]
        assert {item.language for item in context.items} == {example.language}
    with pytest.raises(ValueError, match="no item is in fr; languages here: en, ru"):
        retriever.retrieve([replace(asked[0], language="fr")], 1, OWN)


def test_softmax_over_scores(retriever: VectorRetriever, examples: list[Example]) -> None:
    soft = VectorRetriever(retriever.index, retriever.embedder, temperature=0.1)
    (context,) = soft.retrieve(examples[:1], 5).values()
    assert sum(context.scores) == pytest.approx(1.0, abs=1e-5) and context.scores[0] > context.scores[4]
    with pytest.raises(ValueError, match="above 0"):
        VectorRetriever(retriever.index, retriever.embedder, temperature=0)


def test_a_question_without_picture_gets_nothing_and_says_so(
    retriever: VectorRetriever, examples: list[Example], caplog: pytest.LogCaptureFixture
) -> None:
    asked = [Example("none", "?", None), examples[0], Example("lost", "?", ImageRef(path="nowhere.png"))]
    with caplog.at_level(logging.WARNING):
        found = retriever.retrieve(asked, 2)
    assert [len(context.items) for context in found.values()] == [0, 2, 0]
    assert "question none" in caplog.text and "nowhere.png" in caplog.text


def test_results_are_appended_once_each(
    retriever: VectorRetriever, examples: list[Example], tmp_path: Path
) -> None:
    path = tmp_path / "out" / "found.jsonl"
    counts: list[int] = []

    @contextmanager
    def count(title: str, total: int | None = None, *, done: int = 0, unit: str = "") -> Iterator[Any]:
        counts[:] = [done]
        yield counts.append

    retrieve_all(retriever, examples[:5], 3, cache=path, batch_size=2, progress=count)
    assert counts == [0, 2, 2, 1]
    with open(path, "ab") as file:  # killed while writing
        file.write(b'{"example_id": "q5", "ids": ["en')
    found = retrieve_all(retriever, examples, 3, cache=path, batch_size=2, progress=count)
    assert counts == [5, 2, 2, 2, 1]
    contexts = load_contexts(path, retriever.base)
    assert list(contexts) == [example.id for example in examples] and contexts == found
    assert contexts["q7"] == retriever.retrieve(examples[7:8], 3)["q7"]
    with pytest.raises(ValueError, match=r"other settings \(k: 3 there, 4 now\)"):
        retrieve_all(retriever, examples, 4, cache=path)
    with pytest.raises(ValueError, match=r"other settings \(languages: None there, .* now\)"):
        retrieve_all(retriever, examples, 3, OWN, cache=path)


def test_precomputed_results(retriever: VectorRetriever, examples: list[Example], tmp_path: Path) -> None:
    path = tmp_path / "found.jsonl"
    retrieve_all(retriever, examples, 4, cache=path)
    again = open_retriever(RetrieverSettings(index=tmp_path / "kb", contexts=path))
    assert again.retrieve(examples, 2) == retriever.retrieve(examples, 2)
    with pytest.raises(ValueError, match="no results for 1 of 1 examples .first: 'other'"):
        again.retrieve([Example("other", "?", None)], 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"example_id": "a", "ids": ["en1"]}\n{"example_id": "a", "ids": []}\n', "twice"),
        ('{"example_id": "a", "found": []}\n', "record 1: needs example_id, ids and scores"),
        ('{"example_id": "a", "ids": ["en1"]}\n{oops\n', ":2"),
    ],
)
def test_faulty_result_files(retriever: VectorRetriever, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "found.jsonl"
    path.write_text(text)
    with pytest.raises(RecordError, match=message):
        PrecomputedRetriever(path, retriever.base)


def test_results_of_another_knowledge_base(retriever: VectorRetriever, tmp_path: Path) -> None:
    path = tmp_path / "found.jsonl"
    path.write_text(json.dumps({"example_id": "a", "ids": ["foreign"], "scores": [1.0]}) + "\n")
    with pytest.raises(KnowledgeBaseError, match="'foreign'"):
        load_contexts(path, retriever.base)


@pytest.mark.parametrize("scores", [[1.0, 0.5], ["high"], [None]])
def test_scores_that_do_not_fit_name_the_file(
    retriever: VectorRetriever, tmp_path: Path, scores: list[Any]
) -> None:
    path = tmp_path / "found.jsonl"
    item = retriever.base.items([0])[0].id
    path.write_text(json.dumps({"example_id": "a", "ids": [item], "scores": scores}) + "\n")
    with pytest.raises(RecordError, match="found.jsonl: record 1: .*score"):
        load_contexts(path, retriever.base)


def test_queries(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"data_id": "a", "question": "?", "image_path": "x/1.png"}\n{"id": 7}\n')
    first, second = read_queries(path)
    assert (first.id, str(first.image)) == ("a", str(tmp_path / "x" / "1.png"))
    assert (second.id, second.image) == ("7", None)
    path.write_text('{"question": "?"}\n')
    with pytest.raises(RecordError, match="record 1 has no id"):
        list(read_queries(path))


def test_an_unknown_retriever_gets_an_offer() -> None:
    with pytest.raises(UnknownNameError, match="did you mean faiss"):
        RETRIEVERS["fais"]


def test_words_find_passages(retriever: VectorRetriever, tmp_path: Path) -> None:
    words = open_retriever(RetrieverSettings(index=tmp_path / "kb", retriever="bm25"))
    asked = [Example("a", "Which RU text is 7?", None, language="en"), Example("b", "zebra", None)]
    found = words.retrieve(asked, 30)
    assert found["a"].items[0].id == "ru7" and len(found["a"].items) == 24 and not found["b"].items
    english = words.retrieve(asked, 3, OWN)["a"]
    assert english.items[0].id == "en7" and {item.language for item in english.items} == {"en"}
    assert list(english.scores) == sorted(english.scores, reverse=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({}, "--index"), ({"retriever": "milvus"}, "--milvus"), ({"retriever": "precomputed"}, "--contexts")],
)
def test_what_a_retriever_needs_is_said(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_retriever(RetrieverSettings(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"ids": ["nobody"]}, "'a': .* ids are not in this knowledge base .*'nobody'"),
        ({"ids": [], "scores": [None]}, "record 1: a score is no number"),
        ({"ids": [], "scores": [["0.5"]]}, "record 1: a score is no number"),
        ({"ids": [], "scores": ["high"]}, "record 1: a score is no number"),
        ({"ids": ["a"], "scores": [float("nan")]}, "record 1: a score is no number"),
        ({"ids": ["a"], "scores": [float("-inf")]}, "record 1: a score is no number"),
    ],
)
def test_a_faulty_file_of_results_is_named(
    retriever: VectorRetriever, tmp_path: Path, row: dict[str, object], said: str
) -> None:
    path = tmp_path / "contexts.jsonl"
    path.write_text(json.dumps({"example_id": "a", **row}) + "\n")
    with pytest.raises(ValueError, match=f"contexts.jsonl: {said}"):
        load_contexts(path, retriever.base)
