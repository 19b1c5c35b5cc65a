"""The memory store beside LMDB and Lance: writing, bytes on disk, opening, reading 10 memories, kill -9.

    pip install lmdb pylance
    python benchmarks/bank_formats.py [--items 20000] [--kills 10] [--output docs/results/bank_formats.json]

Memories are random bytes of 8 x 3584 bfloat16 (57,344 bytes). Each commit of 256 waits for the disk. "Cold":
the system was told to forget the files before they were opened. Lance is read by id, with its own index of
the ids, and by row number, for a reader that knows the rows already. "Killed": a writer is ended by SIGKILL
at a random moment, again and again; what it had called committed must be there and whole.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

QUERIES, WIDTH, TOGETHER, BATCH = 8, 3584, 10, 256
STRIDE = 2 * QUERIES * WIDTH
SMALL = 4096  # bytes of a memory in the product-quantised forms
_GIB = 1 << 30


class Format(Protocol):
    """One way to keep memories on disk."""

    def create(self, folder: Path, stride: int) -> None:
        """Open an empty or interrupted one for writing."""

    def append(self, ids: Sequence[str], rows: np.ndarray) -> None:
        """Add uint8 `(n, stride)`; they are on the disk when this returns."""

    def finish(self) -> None:
        """Close after the last append."""

    def open(self, folder: Path) -> None:
        """Open for reading."""

    def close(self) -> None:
        """Close after reading."""

    def read(self, ids: Sequence[str]) -> np.ndarray:
        """uint8 `(n, stride)`, in this order."""

    def __len__(self) -> int: ...


class Store:
    """comem's."""

    def create(self, folder: Path, stride: int) -> None:
        from comem.bank.format import EncoderInfo
        from comem.bank.forms import PLAIN_FORMS
        from comem.bank.writer import StoreWriter, create_store

        create_store(folder, PLAIN_FORMS["bf16"](QUERIES, stride // (2 * QUERIES)), EncoderInfo("0" * 64))
        self._writer = StoreWriter(folder)

    def append(self, ids: Sequence[str], rows: np.ndarray) -> None:
        self._writer.append_rows(ids, [bytes(16)] * len(ids), rows)

    def finish(self) -> None:
        self._writer.close()

    def open(self, folder: Path) -> None:
        from comem.bank.reader import MemoryStore

        self._store = MemoryStore(folder)

    def close(self) -> None:
        self._store.close()

    def read(self, ids: Sequence[str]) -> np.ndarray:
        return self._store.rows(self._store.slots(ids))

    def __len__(self) -> int:
        return len(self._store)


class Lmdb:
    """A key-value store in one mapped B-tree, with transactions."""

    def create(self, folder: Path, stride: int) -> None:
        import lmdb

        self._env = lmdb.open(str(folder), map_size=64 * _GIB)

    def append(self, ids: Sequence[str], rows: np.ndarray) -> None:
        with self._env.begin(write=True) as transaction:
            for name, row in zip(ids, rows, strict=True):
                transaction.put(name.encode(), row.data)

    def finish(self) -> None:
        self._env.close()

    def open(self, folder: Path) -> None:
        import lmdb

        self._env = lmdb.open(str(folder), readonly=True, lock=False, map_size=64 * _GIB)

    def close(self) -> None:
        self._env.close()

    def read(self, ids: Sequence[str]) -> np.ndarray:
        out = np.empty((len(ids), STRIDE), dtype=np.uint8)
        with self._env.begin(buffers=True) as transaction:
            for row, name in enumerate(ids):
                out[row] = np.frombuffer(transaction.get(name.encode()), dtype=np.uint8)
        return out

    def __len__(self) -> int:
        return int(self._env.stat()["entries"])


class Lance:
    """A columnar format with versions and indices of its own; read by id."""

    def create(self, folder: Path, stride: int) -> None:
        self._folder = str(folder)

    def append(self, ids: Sequence[str], rows: np.ndarray) -> None:
        import lance
        import pyarrow as pa

        values = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(rows.shape[1]), len(ids), [None, pa.py_buffer(np.ascontiguousarray(rows))]
        )
        table = pa.table({"id": pa.array(ids, pa.string()), "memory": values})
        lance.write_dataset(table, self._folder, mode="append" if Path(self._folder).exists() else "create")

    def finish(self) -> None:
        import lance

        lance.dataset(self._folder).create_scalar_index("id", "BTREE")

    def open(self, folder: Path) -> None:
        import lance

        self._set = lance.dataset(str(folder))

    def close(self) -> None:
        del self._set

    def read(self, ids: Sequence[str]) -> np.ndarray:
        names = ", ".join(f"'{name}'" for name in ids)
        found = self._set.to_table(filter=f"id IN ({names})")
        place = {name: row for row, name in enumerate(found["id"].to_pylist())}
        return _bytes(found["memory"])[[place[name] for name in ids]]

    def __len__(self) -> int:
        return int(self._set.count_rows())


class LanceRows(Lance):
    """The same, read by row number: item N is row N here."""

    def read(self, ids: Sequence[str]) -> np.ndarray:
        return _bytes(self._set.take([int(name.split()[1]) for name in ids])["memory"])


def _bytes(column: Any) -> np.ndarray:
    array = column.combine_chunks()
    flat = np.frombuffer(array.buffers()[1], dtype=np.uint8)
    return flat[array.offset * STRIDE : (array.offset + len(array)) * STRIDE].reshape(-1, STRIDE)


FORMATS: dict[str, type[Any]] = {"comem": Store, "lmdb": Lmdb, "lance": Lance}


def row_of(number: int) -> np.ndarray:
    """Memory of an item, uint8 `(stride,)`: known from its number alone."""
    return np.random.default_rng(number).integers(0, 256, STRIDE, dtype=np.uint8)


def write(name: str, folder: Path, items: int, stride: int = STRIDE) -> dict[str, float]:
    """Append all items; random bytes that are made before the clock runs."""
    pool = np.random.default_rng(0).integers(0, 256, (BATCH, stride), dtype=np.uint8)
    format_: Format = FORMATS[name]()
    start, busy = time.perf_counter(), time.process_time()
    format_.create(folder, stride)
    for first in range(0, items, BATCH):
        ids = [f"item {i}" for i in range(first, min(first + BATCH, items))]
        format_.append(ids, pool[: len(ids)])
    appended = time.perf_counter() - start
    format_.finish()
    seconds = time.perf_counter() - start
    files = [path for path in folder.rglob("*") if path.is_file()]
    on_disk = sum(path.stat().st_blocks * 512 for path in files)
    return {
        "items_per_second": items / seconds, "append_seconds": appended, "seconds": seconds,
        "cpu_seconds": time.process_time() - busy, "bytes_on_disk": on_disk,
        "bytes_beyond_the_memories_per_item": on_disk / items - stride, "files": len(files),
    }  # fmt: skip


def read(kind: type[Any], folder: Path, items: int, reads: int) -> dict[str, Any]:
    """Open, then read memories at random, each once: from forgotten files, and again from the page cache."""
    reads = min(reads, items // TOGETHER)
    chosen = np.random.default_rng(1).permutation(items)[: reads * TOGETHER].reshape(reads, TOGETHER)
    names = [[f"item {i}" for i in row] for row in chosen]
    _forget(folder)
    start = time.perf_counter()
    format_: Format = kind()
    format_.open(folder)
    format_.read(names[0])
    results: dict[str, Any] = {"open_and_first_read_cold_ms": 1000 * (time.perf_counter() - start)}
    results["cold"], results["warm"] = _timed(format_, names[1:]), _timed(format_, names[1:])
    opened = []
    for _ in range(20):
        format_.close()
        start = time.perf_counter()
        format_.open(folder)
        opened.append(1000 * (time.perf_counter() - start))
    format_.close()
    return results | {"open_warm_ms": float(np.median(opened))}


def _forget(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def _timed(format_: Format, names: list[list[str]]) -> dict[str, float]:
    wall, busy = [], []
    for ids in names:
        start, used = time.perf_counter(), time.process_time()
        format_.read(ids)
        wall.append(1000 * (time.perf_counter() - start))
        busy.append(1000 * (time.process_time() - used))
    return {
        "p50_ms": float(np.percentile(wall, 50)), "p99_ms": float(np.percentile(wall, 99)),
        "cpu_p50_ms": float(np.percentile(busy, 50)),
    }  # fmt: skip


def killed(name: str, folder: Path, kills: int) -> dict[str, int]:
    """Writers ended by SIGKILL, one after the other, on the same files."""
    chance, committed, lost, wrong, refused = random.Random(0), 0, 0, 0, 0
    for _ in range(kills):
        words = [sys.executable, __file__, "--child", name, "--folder", str(folder)]
        words += ["--first", str(committed)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            begun = int(child.stdout.readline())  # its first commit
            time.sleep(chance.uniform(0, 0.3))
            os.kill(child.pid, signal.SIGKILL)
            said = child.stdout.read().splitlines(keepends=True)
        committed = max([begun, *(int(line) for line in said if line.endswith("\n"))])
        format_ = LanceRows() if name == "lance" else FORMATS[name]()
        try:
            format_.open(folder)
            lost += max(0, committed - len(format_))
            committed = len(format_)
            for i in range(0, committed, 7):
                wrong += zlib.crc32(format_.read([f"item {i}"])[0].data) != zlib.crc32(row_of(i).data)
            format_.close()
        except Exception as error:  # whatever a format raises for files it cannot read
            print(f"{name}: {error}", file=sys.stderr)
            refused += 1
    return {
        "kills": kills, "committed": committed, "lost": lost, "wrong": wrong, "not_opened": refused,
    }  # fmt: skip


def _child(name: str, folder: Path, first: int) -> None:
    """Commit 16 items again and again, and say how many there are."""
    format_: Format = FORMATS[name]()
    format_.create(folder, STRIDE)
    out = sys.stdout
    while True:
        rows = np.stack([row_of(i) for i in range(first, first + 16)])
        format_.append([f"item {i}" for i in range(first, first + 16)], rows)
        first += 16
        out.write(f"{first}\n")
        out.flush()


def silent(name: str, folder: Path) -> bool:
    """Whether one flipped bit in the middle of the largest file goes unnoticed by a reader of all items."""
    path = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    if name == "comem":
        from comem.bank.upkeep import verify_store

        return verify_store(folder).good
    try:
        format_ = LanceRows() if name == "lance" else FORMATS[name]()
        format_.open(folder)
        for first in range(0, len(format_), TOGETHER):
            format_.read([f"item {i}" for i in range(first, min(first + TOGETHER, len(format_)))])
    except Exception:  # whatever a format raises for damaged files
        return False
    return True


def main() -> None:
    args = _arguments()
    if args.child:
        _child(args.child, args.folder, args.first)
    place = Path(tempfile.mkdtemp(prefix="comem-formats-", dir=args.folder))
    results: dict[str, Any] = {}
    try:
        for name in args.formats:
            folder = place / name
            found: dict[str, Any] = {"write": write(name, folder, args.items)}
            found["read"] = read(FORMATS[name], folder, args.items, args.reads)
            if name == "lance":
                found["read_by_row"] = read(LanceRows, folder, args.items, args.reads)
            found["a_flipped_bit_goes_unnoticed"] = silent(name, folder)
            shutil.rmtree(folder)
            found["write_small"] = write(name, folder, args.items, SMALL)
            shutil.rmtree(folder)
            found["killed"] = killed(name, place / f"{name}-killed", args.kills)
            print(name, found)
            results[name] = found
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if args.output:
        from importlib import metadata

        from comem.io.files import write_json
        from comem.io.run_folder import run_manifest

        settings = {"items": args.items, "reads": args.reads, "batch": BATCH, "bytes": STRIDE, "small": SMALL}
        versions = {name: metadata.version(name) for name in ("lmdb", "pylance")}
        result = {"benchmark": "bank_formats", "settings": settings, "results": results, "beside": versions}
        write_json(args.output, result | {"manifest": run_manifest()})


def _arguments() -> argparse.Namespace:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--items", type=int, default=20_000, help="in each (%(default)s)")
    parser.add_argument("--reads", type=int, default=500, help=f"of {TOGETHER} memories (%(default)s)")
    parser.add_argument("--kills", type=int, default=10, help="of a writer (%(default)s)")
    parser.add_argument("--formats", nargs="+", choices=tuple(FORMATS), default=tuple(FORMATS))
    parser.add_argument("--folder", type=Path, help="where to write (the system's temporary folder)")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--child", choices=tuple(FORMATS), help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
