"""Index files: right answers from every kind, filters, chunks, an interrupted training, a full disk."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comem.io.files import StorageError
from comem.retrieval import faiss_index as engine_module
from comem.retrieval.evaluate import exact_search, recall_at
from comem.retrieval.faiss_index import INDEX, REFINE, TRAINED, FaissIndex, SearchSettings, build_files
from comem.retrieval.plan import choose_plan, plan_for
from comem.retrieval.vectors import Vectors

faiss = pytest.importorskip("faiss")
SMALL = 16 * 32 * 700  # a budget that makes chunks of 1,024 (the least)


@pytest.fixture(scope="module")
def data() -> np.ndarray:
    """3,000 clustered vectors of length 1."""
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((60, 32))
    vectors = centres[generator.integers(0, 60, 3000)] + 0.4 * generator.standard_normal((3000, 32))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def built(data: np.ndarray, folder: Path, factory: str, **settings: int) -> FaissIndex:
    plan = plan_for(factory, len(data), data.shape[1])
    build_files(Vectors([data]), plan, folder, budget=SMALL)
    return FaissIndex(folder, SearchSettings(**settings))


@pytest.fixture(
    scope="module",
    params=[
        "Flat",
        "HNSW16",
        "IVF16,Flat",
        "IVF16,SQ8",
        "IVF16,PQ8x4",
        "RR32,IVF16,PQ8x4fs",
        "OPQ8_32,IVF16,PQ8x4fs",
    ],
)
def kind(
    request: pytest.FixtureRequest, data: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, FaissIndex]:
    """One index of each kind."""
    folder = tmp_path_factory.mktemp("kind")
    engine = built(data, folder, request.param, probes=8, candidates=40)
    assert (folder / REFINE).is_file() == ("PQ" in request.param or "SQ" in request.param)
    return request.param, engine


def test_every_kind_finds_the_nearest(data: np.ndarray, kind: tuple[str, FaissIndex]) -> None:
    factory, engine = kind
    assert len(engine) == 3000 and engine.dimension == 32
    queries = data[::100]
    scores, places = engine.search(queries, 10)
    exact = exact_search(Vectors([data]), queries, 10)
    assert recall_at(places, exact, 10) > (0.9999 if factory == "Flat" else 0.95)
    assert (places[:, 0] == np.arange(0, 3000, 100)).all() and (np.diff(scores, axis=1) <= 0).all()
    assert scores == pytest.approx(np.einsum("bkd,bd->bk", data[places], queries), abs=1e-3)


def test_every_kind_takes_a_filter(data: np.ndarray, kind: tuple[str, FaissIndex]) -> None:
    _, engine = kind
    allowed = np.zeros(3000, dtype=bool)
    allowed[7::9] = True
    _, places = engine.search(data[:20], 10, allowed)
    exact = np.flatnonzero(allowed)[exact_search(Vectors([data[allowed]]), data[:20], 10)]
    assert allowed[places].all() and recall_at(places, exact, 10) > 0.9


def test_a_filter_that_lets_little_through_still_finds_it(
    data: np.ndarray, kind: tuple[str, FaissIndex]
) -> None:
    allowed = np.zeros(3000, dtype=bool)
    allowed[[5, 6]] = True
    scores, places = kind[1].search(data[:3], 5, allowed)
    assert scores.shape == places.shape == (3, 5)
    for query, row in zip(data[:3], places, strict=True):
        best = 5 if query @ data[5] > query @ data[6] else 6
        assert row.tolist() == [best, 11 - best, -1, -1, -1]


def test_the_rotation_helps_where_few_directions_hold_most_of_the_variance(tmp_path: Path) -> None:
    """As in CLIP's vectors; the codes of the first directions alone would be too coarse."""
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((12_000, 64)) * (np.arange(64) + 1.0) ** -1.0
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    queries, recalls = vectors[:200], []
    exact = exact_search(Vectors([vectors]), queries, 10)
    factory = choose_plan(len(vectors), 64, 1 << 20).factory
    assert factory == "RR64,IVF512,PQ16x4fs"
    for name in (factory.replace("512", "8"), "IVF8,PQ16x4fs"):
        (tmp_path / name).mkdir()
        engine = built(vectors, tmp_path / name, name, probes=8, candidates=1)
        recalls.append(recall_at(engine.search(queries, 10)[1], exact, 10))
    assert recalls[0] > 0.6 and recalls[0] > recalls[1] + 0.2, recalls


def test_vectors_of_several_files_in_another_order(data: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", data[:1000])
    np.save(tmp_path / "b.npy", data[1000:].astype(np.float16))
    rows = np.random.default_rng(1).permutation(3000)[:2000]
    vectors = Vectors.from_files([tmp_path / "a.npy", tmp_path / "b.npy"], rows)
    assert len(vectors) == 2000 and vectors.dimension == 32
    assert np.concatenate(list(vectors.chunks(700))) == pytest.approx(data[rows], abs=1e-3)
    assert vectors.sample(50, seed=3).shape == (50, 32) and len(vectors.sample(5000)) == 2000
    build_files(vectors, plan_for("Flat", 2000, 32), tmp_path, budget=SMALL)
    _, places = FaissIndex(tmp_path).search(data[rows[:30]], 1)
    assert places[:, 0].tolist() == list(range(30))


def test_files_that_are_no_vectors(data: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", data)
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(whole[:-5])
    with pytest.raises(ValueError, match="a.npy: not a whole .npy file"):
        Vectors.from_files([tmp_path / "a.npy"])
    np.save(tmp_path / "b.npy", np.arange(4))
    with pytest.raises(ValueError, match=r"b.npy: int64 \(4,\), expected float32 or float16"):
        Vectors.from_files([tmp_path / "b.npy"])
    with pytest.raises(ValueError, match="2 different widths"):
        Vectors([data, data[:, :5]])
    with pytest.raises(ValueError, match="no files"):
        Vectors.from_files([])


def test_a_training_is_not_done_twice(
    data: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_for("IVF16,PQ8x4fs", 3000, 32)

    class Stops(Vectors):
        def chunks(self, size: int):  # type: ignore[no-untyped-def]
            yield self.take(np.arange(1024))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_files(Stops([data]), plan, tmp_path, budget=SMALL)
    assert (tmp_path / TRAINED).is_file() and not (tmp_path / INDEX).exists()
    monkeypatch.setattr(Vectors, "sample", lambda *_: pytest.fail("trained again"))
    build_files(Vectors([data]), plan, tmp_path, budget=SMALL)
    assert len(FaissIndex(tmp_path)) == 3000
    assert sorted(path.name for path in tmp_path.iterdir()) == [INDEX, REFINE]


def test_clustering_goes_to_the_gpus_where_faiss_has_them(
    data: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for a FAISS with GPUs: what it is handed is used to cluster, and the file is the CPU's."""
    handed = []

    def to_gpus(index: Any) -> Any:
        handed.append(index)
        return index

    for name in ("cpu", "gpu"):
        (tmp_path / name).mkdir()
    engine = built(data, tmp_path / "cpu", "IVF16,PQ8x4fs", probes=8, candidates=40)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", to_gpus, raising=False)
    other = built(data, tmp_path / "gpu", "IVF16,PQ8x4fs", probes=8, candidates=40)
    assert len(handed) == 1 and isinstance(handed[0], faiss.IndexFlatL2) and handed[0].ntotal == 16
    found = [each.search(data[::100], 10)[1] for each in (engine, other)]
    assert recall_at(found[0], found[1], 10) > 0.95


def test_a_full_disk(data: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built(data[:2000], tmp_path, "Flat")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(engine_module._faiss(), "write_index", full)
    with pytest.raises(StorageError, match="free some space and run again"):
        built(data, tmp_path, "Flat")
    monkeypatch.undo()
    assert len(FaissIndex(tmp_path)) == 2000 and [path.name for path in tmp_path.iterdir()] == [INDEX]


def test_bad_files_and_settings(data: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / INDEX).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="FAISS cannot read it"):
        FaissIndex(tmp_path)
    with pytest.raises(ValueError, match="FAISS cannot build 'Flatt'"):
        built(data, tmp_path, "Flatt")
    with pytest.raises(ValueError, match="probes -1"):
        SearchSettings(probes=-1)
