"""A large index: build time, memory, recall@10 against exact search, milliseconds a query.

    python benchmarks/index_scale.py [--count 1000000] [--memory-gb 4] [--output FILE.json]

The vectors are made, not embedded, with the structure that CLIP's have: clustered at two levels (500 topics;
one group for 30 vectors) with noise around the groups, most of the variance in few directions (the standard
deviation of direction i falls as i ** -0.5), a common mean (any two have a cosine of about 0.25), length 1.
Queries are new draws around the same groups. Building and searching run in processes of their own, so that
each has its own peak memory; the index is opened as `comem index search` opens it, memory-mapped. At the end
a table of as many items is put beside it (short ones: real passages take more bytes, and as many row groups),
and the whole is opened as an index folder.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SHARD, TOPICS, GROUP, K = 1 << 17, 500, 30, 10
STEPS = ("make", "build", "exact", "search", "items", "open")


def main() -> None:
    args = _arguments()
    if args.worker:
        job = dict(zip(STEPS, (make, build, exact, search, items, open_folder), strict=True))[args.worker]
        print(json.dumps(job(Path(args.folder), args)))
        return
    folder = args.keep or Path(tempfile.mkdtemp(prefix="comem-index-", dir=args.folder))
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    try:
        for name in STEPS:
            results[name] = _step(name, folder)
            print(name, json.dumps(results[name]), flush=True)
    finally:
        if not args.keep:
            shutil.rmtree(folder)
    if args.output:
        from comem.io.files import write_json
        from comem.io.run_folder import run_manifest

        unwanted = ("output", "worker", "folder", "keep")
        settings = {name: value for name, value in vars(args).items() if name not in unwanted}
        result = {"benchmark": "index_scale", "settings": settings, "results": results}
        write_json(args.output, result | {"manifest": run_manifest()})


def _arguments() -> argparse.Namespace:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--count", type=int, default=1_000_000, help="vectors (%(default)s)")
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--groups", type=int, default=0, help="around which vectors lie (0: one for 30)")
    parser.add_argument("--queries", type=int, default=1024, help="a batch (%(default)s)")
    parser.add_argument("--factory", default="auto", help="FAISS factory string (auto: as comem index build)")
    parser.add_argument("--memory-gb", type=float, default=4.0, help="the budget (%(default)s)")
    parser.add_argument("--probes", type=int, default=0, help="inverted lists looked into (0: as comem does)")
    parser.add_argument("--threads", type=int, default=1, help="of FAISS, searching (%(default)s)")
    parser.add_argument("--build-threads", type=int, default=1, help="of FAISS, building (%(default)s)")
    parser.add_argument("--folder", help="where to write (the system's temporary folder)")
    parser.add_argument("--keep", type=Path, help="write here, keep it; finished steps are not done again")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def _step(name: str, folder: Path) -> Any:
    """What a step measured, in a process of its own; from its file where an earlier call did it."""
    done = folder / f"{name}.result.json"
    if not done.is_file():
        result = _in_own_process(name, folder)
        done.write_text(json.dumps(result))
    return json.loads(done.read_text())


def _in_own_process(name: str, folder: Path) -> Any:
    command = [sys.executable, __file__, *sys.argv[1:], "--worker", name, "--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{name} failed")
    return json.loads(done.stdout.splitlines()[-1])


def make(folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Write the vectors as float16 shards, and the queries."""
    generator, start = np.random.default_rng(0), time.perf_counter()
    scale = (np.arange(args.dimension) + 1.0) ** -0.5
    scale = (scale / np.linalg.norm(scale)).astype(np.float32)
    mean = generator.standard_normal(args.dimension).astype(np.float32)
    mean *= 0.8 / np.linalg.norm(mean)
    topics = generator.standard_normal((TOPICS, args.dimension), dtype=np.float32)
    groups = args.groups or max(1, args.count // GROUP)
    owner = generator.integers(0, TOPICS, groups)

    def draw(count: int, generator: np.random.Generator) -> np.ndarray:
        chosen = generator.integers(0, groups, count)
        seeds = np.unique(chosen)
        # A group's own direction follows from its number, so that it need not be kept.
        own = np.stack([_normal(int(group), args.dimension) for group in seeds])[
            np.searchsorted(seeds, chosen)
        ]
        noise = generator.standard_normal((count, args.dimension), dtype=np.float32)
        vectors = (topics[owner[chosen]] + 0.8 * own + 0.5 * noise) * scale + mean
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    for number, first in enumerate(range(0, args.count, SHARD)):
        part = draw(min(SHARD, args.count - first), np.random.default_rng([1, number]))
        np.save(folder / f"img_emb_{number:05d}.npy", part.astype(np.float16))
    np.save(folder / "queries.npy", draw(args.queries, np.random.default_rng(2)))
    return {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time()}


def _normal(seed: int, dimension: int) -> np.ndarray:
    return np.random.Generator(np.random.SFC64(seed)).standard_normal(dimension, dtype=np.float32)


def _vectors(folder: Path) -> Any:
    from comem.retrieval.vectors import Vectors

    return Vectors.from_files(sorted(folder.glob("img_emb_*.npy")))


def build(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """As `comem index build` does with finished embeddings."""
    import faiss

    from comem.retrieval.faiss_index import INDEX, REFINE, build_files
    from comem.retrieval.index import FaissSettings

    faiss.omp_set_num_threads(args.build_threads)
    vectors = _vectors(folder)
    settings = FaissSettings(args.factory, memory_gb=args.memory_gb)
    plan = settings.plan(len(vectors), vectors.dimension)
    print(plan.describe(), file=sys.stderr)
    start, busy = time.perf_counter(), time.process_time()
    build_files(vectors, plan, folder, budget=settings.memory)
    files = {name: (folder / name).stat().st_size for name in (INDEX, REFINE) if (folder / name).is_file()}
    return {
        "factory": plan.factory, "expected_memory": plan.memory, "expected_disk": plan.disk, "bytes": files,
        "seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - busy,
        "peak_resident": _peak(),
    }  # fmt: skip


def exact(folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """The truth, by comparing with every vector."""
    from comem.retrieval.evaluate import exact_search

    queries = np.load(folder / "queries.npy")
    start, busy = time.perf_counter(), time.process_time()
    np.save(folder / "exact.npy", exact_search(_vectors(folder), queries, K))
    wall, busy = time.perf_counter() - start, time.process_time() - busy
    return {"ms_per_query": 1000 * wall / len(queries), "cpu_ms_per_query": 1000 * busy / len(queries)}


def search(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Memory-mapped; alone and in a batch, first with cold files' pages mapped in, then again."""
    import faiss

    from comem.retrieval.evaluate import recall_at
    from comem.retrieval.faiss_index import FaissIndex, SearchSettings

    faiss.omp_set_num_threads(args.threads)
    queries, truth = np.load(folder / "queries.npy"), np.load(folder / "exact.npy")
    before, start = _anonymous(), time.perf_counter()
    engine = FaissIndex(folder, SearchSettings(probes=args.probes))
    results: dict[str, Any] = {
        "open_seconds": time.perf_counter() - start, "anonymous_bytes_of_opening": _anonymous() - before
    }  # fmt: skip
    for name in ("first_batch", "batch"):
        start, busy = time.perf_counter(), time.process_time()
        _, places = engine.search(queries, K)
        results[f"{name}_ms_per_query"] = 1000 * (time.perf_counter() - start) / len(queries)
        results[f"{name}_cpu_ms_per_query"] = 1000 * (time.process_time() - busy) / len(queries)
    results["recall@1"], results["recall@10"] = (recall_at(places, truth, k) for k in (1, K))
    wall, busy_one = [], []
    for query in queries[:200]:
        start, busy = time.perf_counter(), time.process_time()
        engine.search(query[None], K)
        wall.append(1000 * (time.perf_counter() - start))
        busy_one.append(1000 * (time.process_time() - busy))
    results["alone_p50_ms"], results["alone_p99_ms"] = (float(np.percentile(wall, p)) for p in (50, 99))
    results["alone_cpu_p50_ms"] = float(np.percentile(busy_one, 50))
    return results | {"peak_resident": _peak(), "anonymous_bytes": _anonymous()}


def items(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The table of items, and what makes an index folder of all."""
    from types import SimpleNamespace

    import pyarrow.parquet as pq

    from comem.io.files import sha256_of, write_json
    from comem.io.run_folder import run_manifest
    from comem.retrieval.corpus.table import schema
    from comem.retrieval.index import FaissSettings, save_index
    from comem.retrieval.knowledge import FORMAT, ITEMS, MANIFEST, ROW_GROUP, KnowledgeBase, tail_checksum

    path, busy, many = folder / ITEMS, time.process_time(), 256 * ROW_GROUP
    with pq.ParquetWriter(path, schema(False), compression="zstd") as writer:
        for first in range(0, args.count, many):
            numbers = range(first, min(first + many, args.count))
            writer.write_table(_rows(numbers, schema(False)), row_group_size=ROW_GROUP)
    sums = {"sha256": sha256_of(path), "tail_sha256": tail_checksum(path), "ids_sha256": "made up"}
    about = {"format": FORMAT, "count": args.count, "bytes": path.stat().st_size, "row_group": ROW_GROUP}
    write_json(folder / MANIFEST, {**about, **sums, **run_manifest()})
    embedder: Any = SimpleNamespace(name="made up", fingerprint="0" * 32)
    rows = np.arange(args.count)
    save_index(KnowledgeBase(folder), rows, args.dimension, embedder, FaissSettings(args.factory), {})
    return {"bytes": path.stat().st_size, "cpu_seconds": time.process_time() - busy}


def _rows(numbers: range, schema: Any) -> Any:
    import pyarrow as pa

    count, address = len(numbers), [f"https://en.wikipedia.org/wiki/P{i}" for i in numbers]
    pictures = [f"images/{i % 256:02x}/{i * 2654435761 % 2**32:08x}.jpg" for i in numbers]
    texts = [f"Page {i}: a made-up passage, number {i * 40503 % 2**16:x}" for i in numbers]
    columns = {"id": [f"{a}#{p}" for a, p in zip(address, pictures, strict=True)], "text": texts}
    columns |= {"image": pictures, "source": address, "language": ["en"] * count, "image_url": pictures}
    return pa.table(
        columns | {"licence": [""] * count, "width": [640] * count, "height": [480] * count}, schema
    )


def open_folder(folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """As `comem index search` does: open, search for one vector, fetch ten items."""
    from comem.retrieval.index import VectorIndex

    import faiss  # isort: skip (both are imported before the clock starts)
    import pyarrow.parquet  # noqa: F401

    faiss.omp_set_num_threads(args.threads)
    query = np.load(folder / "queries.npy")[:1]
    results = {}
    for name in ("first", "again"):
        before, start, busy = _anonymous(), time.perf_counter(), time.process_time()
        index = VectorIndex(folder)
        opened, used = time.perf_counter() - start, time.process_time() - busy
        results |= {f"{name}_seconds": opened, f"{name}_cpu_seconds": used}
        results[f"{name}_anonymous_bytes"] = _anonymous() - before
        start = time.perf_counter()
        assert len(index.base.items(index.search(query, K).rows[0].tolist())) == K
        results[f"{name}_search_and_items_ms"] = 1000 * (time.perf_counter() - start)
        del index
    return results


def _peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _anonymous() -> int:
    """Resident bytes that no file backs (Linux)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


if __name__ == "__main__":
    main()
