"""Recall against exact search and relevance, by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from comem.io.files import RecordError
from comem.retrieval import evaluate as quality
from comem.retrieval.evaluate import exact_search, recall_at, relevance
from comem.retrieval.vectors import Vectors


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_exact_search_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "_CHUNK", 7)
    generator = np.random.default_rng(0)
    vectors, queries = (generator.standard_normal((n, 5)).astype("f4") for n in (50, 4))
    expected = np.argsort(-(queries @ vectors.T), axis=1)[:, :6]
    assert np.array_equal(exact_search(Vectors([vectors]), queries, 6), expected)


def test_recall() -> None:
    found, exact = np.array([[1, 2, 3, 4], [5, 6, 7, -1]]), np.array([[2, 1, 9, 4], [8, 5, 6, 7]])
    assert recall_at(found, exact, 1) == 0.0
    assert recall_at(found, exact, 2) == pytest.approx((2 + 1) / 4)
    assert recall_at(found, exact, 4) == pytest.approx((3 + 3) / 8)


def test_relevance(tmp_path: Path) -> None:
    contexts = write(
        tmp_path / "c", {"example_id": "a", "ids": ["x", "y", "z"]},
        {"example_id": "b", "ids": ["y", "x", "w"]}, {"example_id": "c", "ids": []},
    )  # fmt: skip
    right = write(
        tmp_path / "r", {"example_id": "a", "relevant": ["x"]}, {"example_id": "b", "relevant": ["x", "v"]},
        {"example_id": "c", "relevant": ["x"]}, {"example_id": "none", "relevant": []},
    )  # fmt: skip
    found = relevance(contexts, right, ks=(1, 2))
    assert found.count == 3 and found.mrr == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert found.recall == {1: pytest.approx(1 / 3), 2: pytest.approx((1 + 1 / 2) / 3)}


def test_relevance_refuses(tmp_path: Path) -> None:
    contexts = write(tmp_path / "c", {"example_id": "a", "ids": ["x"]})
    with pytest.raises(RecordError, match="no results for question 'b'"):
        relevance(contexts, write(tmp_path / "r", {"example_id": "b", "relevant": ["x"]}))
    with pytest.raises(RecordError, match="record 1 needs example_id and a list 'relevant'"):
        relevance(contexts, write(tmp_path / "r", {"example_id": "b", "relevant": "x"}))
    with pytest.raises(RecordError, match="no question has relevant ids"):
        relevance(contexts, write(tmp_path / "r"))
