"""The memory store's speed: items written a second, and reading 10 memories, cold and warm.

    python benchmarks/bank_reads.py [--items 100000] [--folder DIR] [--output docs/results/bank_reads.json]

Memories are random numbers of 8 x 3584, the size at Qwen2.5-VL-7B; 100,000 in bfloat16 are 5.7 GB on disk,
which are deleted at the end. "Cold": the system is told to forget the files (posix_fadvise) before the store
is opened, and no memory is read twice; how much really came from the disk is counted (/proc/self/io).
"Warm": the same reads again. By the wall clock and, since the machine may be shared, by the processor.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

QUERIES, WIDTH, TOGETHER = 8, 3584, 10


def main() -> None:
    args = _arguments()
    folder = Path(tempfile.mkdtemp(prefix="comem-bank-", dir=args.folder))
    try:
        needed = args.items * QUERIES * WIDTH * 2
        if shutil.disk_usage(folder).free < needed * 1.2:
            raise SystemExit(f"{folder}: {needed / 1e9:.1f} GB are needed; give --folder or fewer --items")
        written = write(folder / "store", args.items, args.batch)
        print(f"written: {written['items_per_second']:,.0f} items/s, durable")
        results = {"write": written, "bytes_per_item": sizes()}
        results |= read(folder / "store", args.items, args.reads)
        for name in ("cold", "warm", "cached"):
            row = results[name]
            print(f"{name:6}: p50 {row['p50_ms']:.3f} ms, p99 {row['p99_ms']:.3f} ms ({TOGETHER} memories)")
    finally:
        shutil.rmtree(folder)
    if args.output:
        from comem.io.files import write_json
        from comem.io.run_folder import run_manifest

        settings = {"items": args.items, "reads": args.reads, "batch": args.batch}
        result = {"benchmark": "bank_reads", "settings": settings, "results": results}
        write_json(args.output, result | {"manifest": run_manifest()})


def _arguments() -> argparse.Namespace:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--items", type=int, default=100_000, help="in the store (%(default)s)")
    parser.add_argument("--reads", type=int, default=1000, help=f"of {TOGETHER} memories (%(default)s)")
    parser.add_argument("--batch", type=int, default=256, help="items a commit (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where to write (the system's temporary folder)")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    return parser.parse_args()


def write(folder: Path, items: int, batch: int) -> dict[str, Any]:
    """Append memories; each commit waits for the disk."""
    from comem.bank.format import EncoderInfo
    from comem.bank.forms import PLAIN_FORMS
    from comem.bank.writer import StoreWriter, create_store

    create_store(folder, PLAIN_FORMS["bf16"](QUERIES, WIDTH), EncoderInfo("0" * 64))
    memories = np.random.default_rng(0).standard_normal((batch, QUERIES, WIDTH)).astype(np.float32)
    start, busy = time.perf_counter(), time.process_time()
    with StoreWriter(folder) as writer:
        for first in range(0, items, batch):
            ids = [f"item {i}" for i in range(first, min(first + batch, items))]
            writer.append(ids, [bytes(16)] * len(ids), memories[: len(ids)])
    seconds = time.perf_counter() - start
    return {
        "items_per_second": items / seconds, "seconds": seconds, "cpu_seconds": time.process_time() - busy,
        "bytes_on_disk": sum(path.stat().st_size for path in folder.iterdir()),
    }  # fmt: skip


def read(folder: Path, items: int, reads: int) -> dict[str, Any]:
    """Read memories at random, each once: from a forgotten file, from the page cache, from the LRU."""
    from comem.bank.reader import MemoryStore
    from comem.bank.serve import LiveBank

    reads = min(reads, items // TOGETHER)
    chosen = np.random.default_rng(1).permutation(items)[: reads * TOGETHER].reshape(reads, TOGETHER)
    names = [[f"item {i}" for i in row] for row in chosen]
    for path in folder.iterdir():
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    start = time.perf_counter()
    memories = LiveBank(None, MemoryStore(folder), 0)
    results: dict[str, Any] = {"open_seconds": time.perf_counter() - start}
    results["cold"] = _timed(memories, names)
    results["warm"] = _timed(memories, names)
    cached = LiveBank(None, memories.store, TOGETHER)
    cached.select(names[0])
    results["cached"] = _timed(cached, [names[0]] * reads)
    return results


def _timed(memories: Any, names: list[list[str]]) -> dict[str, float]:
    before = _disk_bytes()
    wall, busy = [], []
    for ids in names:
        start, used = time.perf_counter(), time.process_time()
        memories.select(ids).prefix()
        wall.append(1000 * (time.perf_counter() - start))
        busy.append(1000 * (time.process_time() - used))
    return {
        "p50_ms": float(np.percentile(wall, 50)), "p99_ms": float(np.percentile(wall, 99)),
        "cpu_p50_ms": float(np.percentile(busy, 50)), "cpu_p99_ms": float(np.percentile(busy, 99)),
        "bytes_from_disk_per_read": (_disk_bytes() - before) / len(names),
    }  # fmt: skip


def _disk_bytes() -> int:
    """Bytes that this process had fetched from a disk so far; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def sizes() -> dict[str, int]:
    """Bytes of one memory in each form, and of its entry in the id table (without the id itself)."""
    from comem.bank.format import ENTRY
    from comem.bank.forms import PLAIN_FORMS, STAGES, splits_of

    found = {name: make(QUERIES, WIDTH).stride for name, make in PLAIN_FORMS.items()}
    found |= {name: QUERIES * splits_of(name, WIDTH) * stages for name, stages in STAGES.items()}
    return found | {"entry": ENTRY.itemsize}


if __name__ == "__main__":
    main()
