"""The files of a FAISS index: built, opened, searched, and candidates ranked again by the vectors."""

from __future__ import annotations

import json
import mmap
import os
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from comem.io.console import Progress, quiet
from comem.io.files import sha256_of, whole_file
from comem.retrieval.embedder import unusable
from comem.retrieval.plan import IndexPlan
from comem.retrieval.settings import SearchSettings
from comem.retrieval.vectors import Vectors

_BLOCK = 64  # queries ranked again at once: their candidates stay in the processor's cache
_MAPPED = 1 << 15  # rows read before their pages are let go: the system maps up to 64 KiB around each


class HalfVectors:
    """The vectors in float16, memory-mapped: float16 `(n, d)` in an .npy file.

    Args:
        path: the file.
        shape: what it has to hold.

    Raises:
        ValueError: damaged, or of another shape.

    Rows are read here and there, so the system is told not to fetch what lies around; and what was read is
    let go now and then, or much of the file would count as this process's memory.
    """

    def __init__(self, path: Path, shape: tuple[int, int]) -> None:
        try:
            self.array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (EOFError, ValueError) as error:
            raise ValueError(f"{path}: damaged ({error}); build the index again") from error
        if self.array.shape != shape:
            raise ValueError(f"{path}: holds {self.array.shape}, the index {shape}; build the index again")
        self._mapping: Any = getattr(self.array, "_mmap", None)
        self._advise("MADV_RANDOM")
        self._read = 0  # rows since they were last let go

    def rank(self, queries: np.ndarray, places: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The best k of each query's candidates by inner product, best first.

        Args:
            queries: float32 `(b, d)`.
            places: int64 `(b, m)`; -1 for none.
            k: of each query.

        Returns:
            float32 scores and int64 places, both `(b, k)`.
        """
        scores = np.empty((len(queries), k), dtype=np.float32)
        found = np.empty((len(queries), k), dtype=np.int64)
        for start in range(0, len(queries), _BLOCK):
            rows = slice(start, start + _BLOCK)
            block = places[rows]
            vectors = self.array[np.maximum(block, 0)].astype(np.float32)  # (b, m, d)
            exact = np.einsum("bmd,bd->bm", vectors, queries[rows])
            exact[block < 0] = -np.inf
            order = np.argsort(-exact, axis=1, kind="stable")[:, :k]
            scores[rows] = np.take_along_axis(exact, order, axis=1)
            found[rows] = np.take_along_axis(block, order, axis=1)
            self._read += block.size
            if self._read >= _MAPPED:
                self._advise("MADV_DONTNEED")  # the system's cache keeps them
                self._read = 0
        return scores, found

    def _advise(self, what: str) -> None:
        """Tell the system how the file is read, where there is a way to."""
        if self._mapping is not None and hasattr(mmap, what):
            self._mapping.madvise(getattr(mmap, what))


INDEX, REFINE, TRAINED = "index.faiss", "refine.npy", ".trained.faiss"
_CHUNK = 1 << 14  # vectors compared at once


def build_files(
    vectors: Vectors, plan: IndexPlan, folder: Path, *, budget: int, seed: int = 0, progress: Progress = quiet
) -> None:
    """Write index.faiss and, where the plan says so, refine.npy; both appear only when they are whole.

    What was trained by an interrupted call for the same plan is used again.

    Args:
        vectors: to be indexed.
        plan: the factory string, and whether vectors are kept for a second look.
        folder: where the files go.
        budget: bytes that the vectors in work may take beside the index.
        seed: of the training.
        progress: shows how far it is.

    Raises:
        ValueError: FAISS does not know the factory string, or there are too few vectors to train it.
        StorageError: the disk is full.
    """
    faiss = _faiss()
    chunk = int(max(1024, min(len(vectors), budget // (16 * vectors.dimension))))
    index = _trained(vectors, plan, folder, chunk, seed)
    refine = whole_file(folder / REFINE) if plan.refine else nullcontext(os.devnull)
    with (
        whole_file(folder / INDEX) as index_file,
        refine as refine_file,
        progress("indexing", len(vectors), unit="vectors") as advance,
        open(refine_file, "wb") as half,
    ):
        header = {"descr": "<f2", "fortran_order": False, "shape": (len(vectors), vectors.dimension)}
        np.lib.format.write_array_header_1_0(half, header)
        for part in vectors.chunks(chunk):
            index.add(part)
            if plan.refine:
                half.write(part.astype("<f2").data)
            advance(len(part))
        half.flush()
        faiss.write_index(index, str(index_file))
    if not plan.refine:  # what an older index kept
        (folder / REFINE).unlink(missing_ok=True)
    for name in (TRAINED, f"{TRAINED}.json"):
        (folder / name).unlink(missing_ok=True)


class FaissIndex:
    """An index file, opened: memory-mapped, so that opening costs neither time nor memory.

    Args:
        folder: with index.faiss, and refine.npy where vectors are ranked again.
        settings: how hard to search.

    Raises:
        ValueError: FAISS cannot read the file, or the vectors beside it are damaged or of another index.
    """

    def __init__(self, folder: Path, settings: SearchSettings | None = None) -> None:
        self.index, self._path = _open(folder / INDEX), folder / INDEX
        settings = settings or SearchSettings()
        self.candidates = settings.candidates
        refine = folder / REFINE
        self._half = HalfVectors(refine, (len(self), self.dimension)) if refine.is_file() else None
        inner = _inner(self.index)
        self._kind = "ivf" if hasattr(inner, "nprobe") else "hnsw" if hasattr(inner, "hnsw") else "flat"
        if type(inner).__name__ in ("IndexPQ", "IndexPQFastScan"):
            self._kind = "codes"  # which FAISS cannot search in part
        if self._kind == "ivf":
            inner.nprobe = min(inner.nlist, settings.probes or min(128, max(16, inner.nlist // 64)))
        elif self._kind == "hnsw":
            inner.hnsw.efSearch = settings.ef

    def __len__(self) -> int:
        return int(self.index.ntotal)

    @property
    def dimension(self) -> int:
        """Width `d` of the vectors."""
        return int(self.index.d)

    def search(
        self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest of each query by inner product, best first.

        Args:
            queries: float32 `(b, d)`.
            k: of each query.
            allowed: bool `(n,)`: only these places.

        Returns:
            float32 scores and int64 places, both `(b, k)`; places are -1 where there are no more.
        """
        k = min(k, len(self))
        wanted = k if self._half is None else min(len(self), max(100, self.candidates * k))
        everything = allowed is None or self._kind == "codes"
        params = None if everything else self._filter(allowed)  # type: ignore[arg-type]
        try:
            scores, places = self.index.search(queries, wanted, params=params)
        except (RuntimeError, MemoryError) as error:
            raise ValueError(
                f"{self._path}: FAISS cannot search it ({error}); see comem index verify, or build it again"
            ) from error
        if allowed is not None:
            missed = (places[:, : min(k, int(allowed.sum()))] < 0).any()
            if missed or self._kind == "codes":
                scores, places = self._search_harder(queries, wanted, allowed)
        if self._half is None:
            return scores[:, :k], places[:, :k]
        return self._half.rank(queries, places, k)

    def _search_harder(
        self, queries: np.ndarray, k: int, allowed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """When few places are allowed, an approximate search may miss them: look everywhere instead."""
        if self._kind not in ("hnsw", "codes"):
            scores, places = self.index.search(queries, k, params=self._filter(allowed, everywhere=True))
            return scores, places
        places = np.flatnonzero(allowed)
        scores = np.concatenate(
            [
                queries @ self.index.reconstruct_batch(places[start : start + _CHUNK]).T
                for start in range(0, len(places), _CHUNK)
            ],
            axis=1,
        )
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        missing = ((0, 0), (0, k - order.shape[1]))
        found = np.pad(places[order], missing, constant_values=-1)
        return np.pad(np.take_along_axis(scores, order, axis=1), missing, constant_values=-np.inf), found

    def _filter(self, allowed: np.ndarray, everywhere: bool = False) -> Any:
        """Search parameters that let only some places through; in the lists that are usual, or in all."""
        faiss = _faiss()
        bits = np.packbits(allowed, bitorder="little")
        selector = faiss.IDSelectorBitmap(bits)
        inner = _inner(self.index)
        if self._kind == "ivf":
            probes = inner.nlist if everywhere else inner.nprobe
            params: Any = faiss.SearchParametersIVF(sel=selector, nprobe=probes)
        elif self._kind == "hnsw":
            params = faiss.SearchParametersHNSW(sel=selector, efSearch=inner.hnsw.efSearch)
        else:
            params = faiss.SearchParameters(sel=selector)
        if isinstance(self.index, faiss.IndexPreTransform):
            params = faiss.SearchParametersPreTransform(index_params=params)
        return params


def read_flat(path: Path) -> tuple[int, int]:
    """How many vectors a FAISS file of inner products holds, and how wide they are.

    Raises:
        ValueError: no such file, FAISS cannot read it, it ranks by another measure, or a vector in it is not
            of finite numbers and length 1.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; check the path")
    index = _open(path)
    if index.metric_type != _faiss().METRIC_INNER_PRODUCT:
        raise ValueError(f"{path}: not an index of inner products; build one (IndexFlatIP) over unit vectors")
    flat = isinstance(_inner(index), _faiss().IndexFlat)  # others keep no vectors to look at
    for start in range(0, index.ntotal if flat else 0, _CHUNK):
        vectors = index.reconstruct_n(start, min(_CHUNK, index.ntotal - start))
        for row, fault in unusable(vectors).items():
            raise ValueError(f"{path}: vector {start + row}: {fault}; embed its image again, or normalise it")
    return int(index.ntotal), int(index.d)


def _faiss() -> Any:
    """The library; its own type hints lack much of it."""
    import faiss

    return faiss


def _trained(vectors: Vectors, plan: IndexPlan, folder: Path, chunk: int, seed: int) -> Any:
    """An empty index, trained on a sample; the training is kept until the index is whole."""
    faiss = _faiss()
    key = json.dumps(asdict(plan) | {"seed": seed, "count": len(vectors)}, sort_keys=True)
    kept, of = folder / TRAINED, folder / f"{TRAINED}.json"
    if kept.is_file() and of.is_file() and of.read_bytes() == f"{key}\n{sha256_of(kept)}".encode():
        return _open(kept, mapped=False)
    try:
        index = faiss.index_factory(vectors.dimension, plan.factory, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            _quicken(index)
            index.train(vectors.sample(max(plan.train, 1), seed))
            with whole_file(kept) as partial:
                faiss.write_index(index, str(partial))
            of.write_text(f"{key}\n{sha256_of(kept)}")
    except RuntimeError as error:
        raise ValueError(
            f"FAISS cannot build {plan.factory!r} over {len(vectors)} vectors: {error}; 'Flat' always works"
        ) from error
    return index


def _quicken(index: Any) -> None:
    """Cluster on the GPUs where this FAISS has them; the index itself stays on the CPU."""
    faiss, inner = _faiss(), _inner(index)
    if getattr(faiss, "get_num_gpus", lambda: 0)() and hasattr(inner, "clustering_index"):
        inner.clustering_index = faiss.index_cpu_to_all_gpus(faiss.IndexFlatL2(inner.d))


def _inner(index: Any) -> Any:
    """The index behind rotations."""
    faiss = _faiss()
    index = faiss.downcast_index(index)
    while isinstance(index, faiss.IndexPreTransform):
        index = faiss.downcast_index(index.index)
    return index


def _open(path: Path, mapped: bool = True) -> Any:
    """Read an index file; what FAISS can map (vectors, links, lists but the 4-bit ones) stays in the file."""
    faiss = _faiss()
    failure = None
    for flags in [faiss.IO_FLAG_MMAP_IFC, 0] if mapped else [0]:
        try:
            return faiss.read_index(str(path), flags)
        except (RuntimeError, MemoryError) as error:
            failure = error
    raise ValueError(f"{path}: FAISS cannot read it ({failure}); build it again") from failure
