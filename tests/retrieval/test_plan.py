"""The choice of an index, and its size against what FAISS writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from comem.retrieval.plan import choose_plan, expected_bytes, list_count, plan_for

GIB = 2**30


@pytest.mark.parametrize(
    ("count", "dimension", "memory", "factory"),
    [
        (1_000, 512, 4, "Flat"),
        (100_000, 512, 4, "Flat"),
        (100_000, 512, 0.1, "RR512,IVF1024,PQ128x4fs"),  # exact would not fit
        (200_000, 512, 4, "HNSW32"),
        (1_000_000, 512, 16, "HNSW32"),
        (1_000_000, 512, 4, "RR512,IVF4096,PQ128x4fs"),
        (10_000_000, 512, 4, "RR512,IVF16384,PQ128x4fs"),
        (37_600_000, 768, 4, "OPQ128_512,IVF16384,PQ128x4fs"),
        (37_600_000, 768, 2, "OPQ64_256,IVF16384,PQ64x4fs"),
        (1_000_000, 48, 0.05, "OPQ8_32,IVF4096,PQ8x4fs"),
    ],
)
def test_the_choice(count: int, dimension: int, memory: float, factory: str) -> None:
    budget = int(memory * GIB)
    if factory.startswith("OPQ8_"):
        with pytest.raises(ValueError, match="1,000,000 vectors of 48 need at least"):
            choose_plan(count, dimension, budget // 20)
        return
    plan = choose_plan(count, dimension, budget)
    assert plan.factory == factory and plan.memory <= budget
    assert plan.refine == ("PQ" in factory) and f"index {factory}: about" in plan.describe()
    assert plan.disk == plan.memory + (2 * count * dimension if plan.refine else 0)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="the budget is 4.0 GiB: give more memory"):
        choose_plan(10**9, 512, 4 * GIB)


def test_lists_follow_the_square_root() -> None:
    counts = (1_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
    assert [list_count(count) for count in counts] == [256, 1024, 4096, 16384, 32768]


def test_training_sample() -> None:
    assert plan_for("Flat", 10**6, 64).train == plan_for("HNSW32", 10**6, 64).train == 0
    assert plan_for("IVF4096,PQ16", 10**6, 64).train == 50 * 4096
    assert plan_for("OPQ16_64,PQ16", 5000, 64).train == 5000


@pytest.mark.parametrize(
    "factory",
    [
        "Flat",
        "HNSW16",
        "IVF64,Flat",
        "IVF64,SQ8",
        "IVF16,PQ16x4fs",
        "OPQ16_32,IVF16,PQ16x4fs",
        "RR64,IVF16,PQ16x4fs",
        "PCA16,IVF16,SQfp16",
    ],
)
def test_expected_size_is_the_size_of_the_file(factory: str, tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss")
    vectors = np.random.default_rng(0).standard_normal((4000, 64)).astype("f4")
    index = faiss.index_factory(64, factory, faiss.METRIC_INNER_PRODUCT)
    if "HNSW" in factory:
        index.hnsw.efConstruction = 4
    index.train(vectors[:1500])
    index.add(vectors)
    faiss.write_index(index, str(tmp_path / "x"))
    tables = 64 * 1024 if "PQ" in factory else 0  # PQ's centroids, which do not grow with the vectors
    assert expected_bytes(factory, 4000, 64) == pytest.approx(
        (tmp_path / "x").stat().st_size, rel=0.1, abs=tables
    )
