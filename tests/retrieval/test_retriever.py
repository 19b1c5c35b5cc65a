"""Retrievers and their result files."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from comem.io.jsonl import RecordError
from comem.retrieval.build import BuildSettings, build
from comem.retrieval.evaluate import RawPixels
from comem.retrieval.knowledge import KnowledgeBaseError
from comem.retrieval.retriever import (
    OWN,
    RETRIEVERS,
    FaissRetriever,
    PrecomputedRetriever,
    load_contexts,
    read_queries,
    retrieve_to_file,
)
from comem.tables import UnknownNameError
from comem.types import Example, ImageRef


@pytest.fixture()
def retriever(corpus: Callable[..., Path], tmp_path: Path, embedder: RawPixels) -> FaissRetriever:
    index = build(
        [corpus(12, ("en", "ru"))], tmp_path / "kb", BuildSettings(), embedder=embedder, progress=False
    )
    return FaissRetriever(index, embedder, languages=["en"])


@pytest.fixture()
def examples(retriever: FaissRetriever) -> list[Example]:
    paths = sorted(set(retriever.index.base.images()))
    return [Example(f"q{i}", "?", ImageRef(path=path)) for i, path in enumerate(paths)]


def test_the_nearest_item_comes_first(retriever: FaissRetriever, examples: list[Example]) -> None:
    for example, context in zip(examples, retriever.retrieve(examples, 3), strict=True):
        assert context.example_id == example.id and len(context.items) == 3
        assert str(context.items[0].image) == str(example.image)
        assert list(context.scores) == sorted(context.scores, reverse=True)
        assert context.scores[0] == pytest.approx(1.0, abs=1e-5)


def test_items_in_the_language_of_each_question(retriever: FaissRetriever, examples: list[Example]) -> None:
    asked = [replace(example, language=("en", "ru")[n % 2]) for n, example in enumerate(examples)]
    own = FaissRetriever(retriever.index, retriever.embedder, languages=OWN)
    for example, context in zip(asked, own.retrieve(asked, 3), strict=True):
        alone = FaissRetriever(retriever.index, retriever.embedder, languages=[example.language])
        assert context == alone.retrieve([example], 3)[0]
        assert {item.language for item in context.items} == {example.language}
    with pytest.raises(ValueError, match="no item is in fr; languages here: en, ru"):
        own.retrieve([replace(asked[0], language="fr")], 1)
    assert own.describe()["languages"] == ["own"]


def test_softmax_over_scores(retriever: FaissRetriever, examples: list[Example]) -> None:
    soft = FaissRetriever(retriever.index, retriever.embedder, temperature=0.1)  # type: ignore[arg-type]
    (context,) = soft.retrieve(examples[:1], 5)
    assert sum(context.scores) == pytest.approx(1.0, abs=1e-5) and context.scores[0] > context.scores[4]
    with pytest.raises(ValueError, match="above 0"):
        FaissRetriever(retriever.index, retriever.embedder, temperature=0)


def test_a_question_without_picture_gets_nothing_and_says_so(
    retriever: FaissRetriever, examples: list[Example], caplog: pytest.LogCaptureFixture
) -> None:
    asked = [Example("none", "?", None), examples[0], Example("lost", "?", ImageRef(path="nowhere.png"))]
    with caplog.at_level(logging.WARNING):
        found = retriever.retrieve(asked, 2)
    assert [len(context.items) for context in found] == [0, 2, 0]
    assert "question none" in caplog.text and "nowhere.png" in caplog.text


def test_results_are_appended_once_each(
    retriever: FaissRetriever, examples: list[Example], tmp_path: Path
) -> None:
    path = tmp_path / "out" / "found.jsonl"
    assert retrieve_to_file(retriever, examples[:5], 3, path, batch_size=2) == 5
    with open(path, "ab") as file:  # killed while writing
        file.write(b'{"example_id": "q5", "ids": ["en')
    assert retrieve_to_file(retriever, examples, 3, path, batch_size=2) == 7
    contexts = load_contexts(path, retriever.index.base)
    assert list(contexts) == [example.id for example in examples]
    assert contexts["q7"] == retriever.retrieve(examples[7:8], 3)[0]
    with pytest.raises(ValueError, match=r"other settings \(k differ\)"):
        retrieve_to_file(retriever, examples, 4, path)


def test_precomputed_results(retriever: FaissRetriever, examples: list[Example], tmp_path: Path) -> None:
    path = tmp_path / "found.jsonl"
    retrieve_to_file(retriever, examples, 4, path)
    again = RETRIEVERS["precomputed"](tmp_path / "kb", path)
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
def test_faulty_result_files(retriever: FaissRetriever, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "found.jsonl"
    path.write_text(text)
    with pytest.raises(RecordError, match=message):
        PrecomputedRetriever(path, retriever.index.base)


def test_results_of_another_knowledge_base(retriever: FaissRetriever, tmp_path: Path) -> None:
    path = tmp_path / "found.jsonl"
    path.write_text(json.dumps({"example_id": "a", "ids": ["foreign"], "scores": [1.0]}) + "\n")
    with pytest.raises(KnowledgeBaseError, match="'foreign'"):
        load_contexts(path, retriever.index.base)


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
