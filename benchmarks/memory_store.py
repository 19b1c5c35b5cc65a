"""What a memory could lie in: seconds to add, find and delete one item among many, and what deletion leaves.

    python benchmarks/memory_store.py --items 20000 --stores comem faiss milvus lancedb
    python benchmarks/memory_store.py --items 100000 --stores comem --models

`faiss` is SQLite beside FAISS (IndexIDMap2 over a flat index, written anew with each change, which is what it
takes to survive a kill). `--models` adds and asks with the embedded models instead of random vectors.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

WIDTH, IMAGE, MEMORY = 512, 4000, 2048  # of a vector; bytes of an image and of a memory


def item(rng: np.random.Generator, number: int) -> tuple[str, np.ndarray, bytes, bytes]:
    vector = rng.standard_normal(WIDTH).astype(np.float32)
    vector /= np.linalg.norm(vector)
    return f"marker-{number:09d} " + rng.bytes(60).hex(), vector, rng.bytes(IMAGE), rng.bytes(MEMORY)


class Comem:
    def __init__(self, folder: Path) -> None:
        from comem.store.index import Index
        from comem.store.table import Table

        self.table = Table(folder / "m")
        self.index = Index(self.table)

    def add(self, items: list[tuple[int, tuple]]) -> None:
        from comem.store.table import Row, Scope, count_words

        rows = [
            Row(
                str(n), text, image, Scope(f"user{n % 10}"), {}, "", (vector, None), memory, count_words(text)
            )
            for n, (text, vector, image, memory) in items
        ]
        self.table.insert(rows)

    def search(self, vector: np.ndarray) -> list[str]:
        from comem.store.index import Query

        hits = self.index.search(Query(image=vector), 10, ["user_id = ?"], ["user3"])
        return [found.id for found, _, _ in self.table.read([number for number, _ in hits])]

    def delete(self, number: int) -> None:
        self.table.remove([str(number)])


class Faiss:
    def __init__(self, folder: Path) -> None:
        import faiss

        self.folder, self.faiss = folder, faiss
        self.db = sqlite3.connect(folder / "items.sqlite", isolation_level=None)
        self.db.execute("PRAGMA secure_delete = ON")
        self.db.execute(
            "CREATE TABLE items (id INTEGER PRIMARY KEY, user TEXT, text TEXT, image BLOB, memory BLOB)"
        )
        self.index = faiss.IndexIDMap2(faiss.IndexFlatIP(WIDTH))

    def add(self, items: list[tuple[int, tuple]]) -> None:
        rows = [(n, f"user{n % 10}", text, image, memory) for n, (text, _, image, memory) in items]
        self.db.execute("BEGIN")
        self.db.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?)", rows)
        self.index.add_with_ids(np.stack([i[1] for _, i in items]), np.array([n for n, _ in items], np.int64))
        self._write()
        self.db.execute("COMMIT")

    def _write(self) -> None:
        self.faiss.write_index(self.index, str(self.folder / "new"))
        (self.folder / "new").replace(self.folder / "index.faiss")

    def search(self, vector: np.ndarray) -> list[str]:
        ids = [row[0] for row in self.db.execute("SELECT id FROM items WHERE user = 'user3'")]
        chosen = self.faiss.SearchParameters(sel=self.faiss.IDSelectorBatch(np.array(ids, np.int64)))
        return [str(n) for n in self.index.search(vector[None], 10, params=chosen)[1][0]]

    def delete(self, number: int) -> None:
        self.db.execute("BEGIN")
        self.db.execute("DELETE FROM items WHERE id = ?", (number,))
        self.index.remove_ids(np.array([number], np.int64))
        self._write()
        self.db.execute("COMMIT")


class Milvus:
    def __init__(self, folder: Path) -> None:
        from pymilvus import DataType, MilvusClient

        self.client = MilvusClient(str(folder / "milvus.db"))
        schema = self.client.create_schema()
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=WIDTH)
        for name in ("user", "text", "image", "memory"):
            schema.add_field(name, DataType.VARCHAR, max_length=20_000)
        index = self.client.prepare_index_params()
        index.add_index("vector", index_type="FLAT", metric_type="IP")
        self.client.create_collection("items", schema=schema, index_params=index)

    def add(self, items: list[tuple[int, tuple]]) -> None:
        self.client.insert("items", [
            {"id": n, "vector": vector.tolist(), "user": f"user{n % 10}", "text": text, "image": image.hex(),
             "memory": memory.hex()}
            for n, (text, vector, image, memory) in items
        ])  # fmt: skip
        self.client.flush("items")

    def search(self, vector: np.ndarray) -> list[str]:
        found = self.client.search("items", [vector.tolist()], filter="user == 'user3'", limit=10)
        return [str(hit["id"]) for hit in found[0]]

    def delete(self, number: int) -> None:
        self.client.delete("items", ids=[number])
        self.client.flush("items")


class Lance:
    def __init__(self, folder: Path) -> None:
        import lancedb

        self.db, self.table = lancedb.connect(folder / "lance"), None

    def add(self, items: list[tuple[int, tuple]]) -> None:
        rows = [
            {
                "id": n,
                "vector": vector,
                "user": f"user{n % 10}",
                "text": text,
                "image": image,
                "memory": memory,
            }
            for n, (text, vector, image, memory) in items
        ]
        if self.table is None:
            self.table = self.db.create_table("items", rows)
        else:
            self.table.add(rows)

    def search(self, vector: np.ndarray) -> list[str]:
        found = self.table.search(vector).where("user = 'user3'", prefilter=True).limit(10).to_list()
        return [str(hit["id"]) for hit in found]

    def delete(self, number: int) -> None:
        from datetime import timedelta

        self.table.delete(f"id = {number}")
        self.table.optimize(cleanup_older_than=timedelta(0))


STORES: dict[str, Callable[[Path], object]] = {
    "comem": Comem,
    "faiss": Faiss,
    "milvus": Milvus,
    "lancedb": Lance,
}


def holds(folder: Path, marker: bytes) -> bool:
    return any(marker in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def measure(name: str, count: int, folder: Path) -> None:
    rng = np.random.default_rng(0)
    store = STORES[name](folder)
    start = time.perf_counter()
    for first in range(0, count, 1000):
        store.add([(n, item(rng, n)) for n in range(first, min(count, first + 1000))])
    filled = time.perf_counter() - start
    times: dict[str, list[float]] = {"add": [], "found": [], "search": [], "delete": []}
    left = 0
    for n in range(count + 3, count + 103, 10):  # always user3's
        one = item(rng, n)
        for what, call in (
            ("add", lambda n=n, one=one: store.add([(n, one)])),
            ("found", lambda one=one: store.search(one[1])),
            ("search", lambda one=one: store.search(one[1])),
            ("delete", lambda n=n: store.delete(n)),
        ):  # fmt: skip
            start = time.perf_counter()
            result = call()
            times[what].append(time.perf_counter() - start)
            assert what != "found" or result[0] == str(n), (result, n)
        pieces = (one[0].encode(), one[1].tobytes()[:64], one[2][100:164], one[3][100:164])
        left += any(holds(folder, piece) for piece in pieces)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    shown = ", ".join(f"{what} {median(spent)}" for what, spent in times.items())
    print(f"{name}, {count:,} items: filled in {filled:.0f} s, {size / 1e6:.0f} MB; {shown}")
    print(f"  of 10 deleted items {left} left bytes in a file")


def measure_models(count: int, folder: Path) -> None:
    """A memory of so many items on the embedded models: add, ask, delete one; open it again."""
    import comem
    from comem.store.table import Row, Scope, count_words
    from comem.toy.draw import image_of
    from comem.toy.world import World

    towns = World(size=200).split("test")
    memory = comem.Memory(folder / "m")
    memory.add("first", image_of(towns[0], view=0))
    rng = np.random.default_rng(0)
    packed = memory._table.read([1])[0][2]  # a real memory: random bytes would hold NaN
    for first in range(0, count, 1000):
        rows = []
        for n in range(first, first + 1000):
            text, vector, image, _ = item(rng, n)
            vectors = (vector[:128] / np.linalg.norm(vector[:128]),) * 2
            rows.append(
                Row(f"n{n}", text, image, Scope(f"user{n % 10}"), {}, "", vectors, packed, count_words(text))
            )
        memory._table.insert(rows)
    adds, busy, asks, finds = [], [], [], []
    for town in towns[1:21]:
        start, spent = time.perf_counter(), time.process_time()
        item_id = memory.add(f"{town.name}: {town.passage()}", image_of(town, view=0)).id
        found = memory.search(image=image_of(town, view=0), k=1)[0].id
        adds.append(time.perf_counter() - start)
        busy.append(time.process_time() - spent)
        assert found == item_id
        start = time.perf_counter()
        memory.search(town.name, k=3)
        finds.append(time.perf_counter() - start)
        start = time.perf_counter()
        answer = memory.ask(
            "What are the walls of this town made of?", image_of(town, view=1), attention=False
        )
        asks.append(time.perf_counter() - start)
        assert answer.items[0].id == item_id or len(answer.items) == 3
    memory.close()
    start = time.perf_counter()
    again = comem.Memory(folder / "m")
    again._index.refresh()
    opened = time.perf_counter() - start
    print(f"embedded models, {count:,} items: add until found {median(adds)}, text search {median(finds)},")
    print(f"  ask {median(asks)}; opened again in {opened:.1f} s")
    print(f"  processor time of add until found {median(busy)}; load {os.getloadavg()[0]:.1f}")


def median(seconds: list[float]) -> str:
    return f"{1000 * statistics.median(seconds):.0f} ms (worst {1000 * max(seconds):.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--stores", nargs="+", choices=list(STORES), default=["comem", "faiss"])
    parser.add_argument("--models", action="store_true")
    parser.add_argument(
        "--folder", type=Path, help="where the files go for the time being (default: a temporary one)"
    )
    given = parser.parse_args()
    for name in given.stores:
        folder = Path(tempfile.mkdtemp(dir=given.folder))
        try:
            if given.models:
                measure_models(given.items, folder)
            else:
                measure(name, given.items, folder)
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
