"""Candidates ranked again by mapped vectors: exact, with little memory, and damaged files are told."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from comem.retrieval import faiss_index as refine
from comem.retrieval.faiss_index import HalfVectors

SMAPS = Path("/proc/self/smaps")


@pytest.fixture()
def file(tmp_path: Path) -> Path:
    vectors = np.random.default_rng(0).standard_normal((4000, 64)).astype(np.float16)
    np.save(tmp_path / "refine.npy", vectors)
    return tmp_path / "refine.npy"


def resident(file: Path) -> int:
    """Kibibytes of the mapped file that count as this process's memory."""
    (entry,) = (e for e in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", SMAPS.read_text()) if str(file) in e)
    return int(re.search(r"^Rss:\s+(\d+)", entry, re.MULTILINE)[1])  # type: ignore[index]


def test_the_best_candidates_by_inner_product(file: Path) -> None:
    rng, vectors = np.random.default_rng(1), np.load(file).astype(np.float32)
    queries = rng.standard_normal((70, 64)).astype(np.float32)  # more than a block
    places = np.stack([rng.choice(4000, 30, replace=False) for _ in queries])
    places[3, 2:] = -1
    scores, found = HalfVectors(file, (4000, 64)).rank(queries, places, 5)
    for row, query in enumerate(queries):
        known = places[row][places[row] >= 0]
        best = known[np.argsort(-(vectors[known] @ query), kind="stable")][:5]
        assert found[row][: len(best)].tolist() == best.tolist()
        np.testing.assert_allclose(scores[row][: len(best)], vectors[best] @ query, rtol=1e-5)
    assert (found[3][2:] == -1).all()


@pytest.mark.skipif(not SMAPS.exists(), reason="looks at Linux's account of the process")
def test_what_was_read_is_let_go(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, queries = HalfVectors(file, (4000, 64)), np.ones((1, 64), dtype=np.float32)
    everything = np.arange(4000)[None]
    first = vectors.rank(queries, everything, 5)[1]
    assert resident(file) >= 490  # all of it: 512,000 bytes
    monkeypatch.setattr(refine, "_MAPPED", 1)
    assert (vectors.rank(queries, everything, 5)[1] == first).all()
    assert resident(file) == 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(b""), "refine.npy: damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "refine.npy: damaged"),
        (
            lambda path: np.save(path, np.zeros((10, 64), np.float16)),
            r"holds \(10, 64\), the index \(4000, 64\)",
        ),
    ],
)
def test_a_damaged_file_is_told(file: Path, damage: object, message: str) -> None:
    damage(file)  # type: ignore[operator]
    with pytest.raises(ValueError, match=message + ".*build the index again"):
        HalfVectors(file, (4000, 64))
