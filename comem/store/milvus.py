"""Past one machine: the vectors of a memory in Milvus, for more items than fit into RAM here."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from comem.io.run_folder import without_secrets
from comem.retrieval.milvus import MilvusError, connect, milvus_exception
from comem.store.index import Index
from comem.store.table import Changes, Table

_BATCH = 1024  # rows a call
_LOOK = 1024  # nearest items that are compared further, of each kind of vector
_CHOSEN = 10_000  # numbers of one filter
_STATE = [1.0, 0.0]


class MilvusIndex(Index):
    """As `Index`, but only numbers and lengths of the items are in RAM; the nearest vectors are asked for.

    The table stays the truth. The writer brings Milvus up to it with each search, and keeps there up to which
    revision it came; what a process finds missing there it compares itself, so an item is found from the
    moment it is added until the moment it is deleted, as with the other index. The nearest 1,024 of each kind
    and the 1,024 whose words fit best are compared; the order of those beyond is not known.

    Args:
        table: the items.
        uri: "http://host:19530", or a path that ends in .db (milvus-lite).
        token: of the server.

    Raises:
        MilvusError: no such server.
    """

    def __init__(self, table: Table, uri: str, token: str = "") -> None:
        super().__init__(table)
        known = table.about()
        if known.get("vectors") != without_secrets(uri):
            name = known.get("collection") or f"memory_{uuid.uuid4().hex}"
            table.note({"vectors": without_secrets(uri), "collection": name})
            known = table.about()
        self._name, self._uri = known["collection"], without_secrets(uri)
        self._client = connect(uri, token)
        self._recent: Changes | None = None

    def refresh(self) -> None:
        """As `Index.refresh`; the writer brings Milvus up to date, too.

        Raises:
            MilvusError: the server refuses, or is gone.
        """
        with self._lock:
            changes = self._table.changes(self._revision, vectors=False)
            if changes is None:
                return
            try:
                recent = self._table.changes(self._state())
                if recent is not None and self._table.writes:
                    self._push(recent)
                    recent = None
            except milvus_exception() as error:
                raise MilvusError(f"{self._uri}: {error}") from error
            self._recent = recent
            self._take(changes)

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def _collection(self, kind: str) -> str:
        return f"{self._name}_{kind}"

    def _made(self, kind: str, dimension: int) -> str:
        """A collection by its kind, made where it is missing."""
        from pymilvus import DataType

        name = self._collection(kind)
        if not self._client.has_collection(name):
            schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field("number", DataType.INT64, is_primary=True)
            schema.add_field("alone", DataType.BOOL)
            schema.add_field("revision", DataType.INT64)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
            index = self._client.prepare_index_params()
            index.add_index("vector", index_type="AUTOINDEX", metric_type="IP")
            self._client.create_collection(
                name, schema=schema, index_params=index, consistency_level="Strong"
            )
        self._client.load_collection(name)
        return name

    def _state(self) -> int:
        """Up to which revision Milvus has the table's changes."""
        name = self._made("state", len(_STATE))
        rows = self._client.query(name, filter="number == 0", output_fields=["revision"])
        return int(rows[0]["revision"]) if rows else 0

    def _push(self, changes: Changes) -> None:
        """Bring changes to Milvus, then note up to where; done again after a kill, it ends the same."""
        given = {"image": changes.images, "text": changes.texts}
        there = {kind: _present(rows) for kind, rows in given.items()}
        gone = [*changes.gone, *changes.numbers.tolist()]
        for kind, rows in given.items():
            if not rows.shape[1] and not self._client.has_collection(self._collection(kind)):
                continue
            name = self._made(kind, rows.shape[1])
            for part in _parts(gone, _CHOSEN):
                self._client.delete(name, ids=list(part))
            other = there["text" if kind == "image" else "image"]
            for part in _parts(np.flatnonzero(there[kind]), _BATCH):
                self._client.upsert(name, [
                    {"number": int(changes.numbers[n]), "alone": not other[n], "revision": changes.revision,
                     "vector": rows[n]}
                    for n in part
                ])  # fmt: skip
        state = {"number": 0, "alone": False, "revision": changes.revision, "vector": _STATE}
        self._client.upsert(self._collection("state"), [state])

    def _append(self, changes: Changes) -> None:
        """Numbers and lengths; vectors are not read here."""
        nothing = np.zeros((len(changes.numbers), 0), np.float32)
        super()._append(Changes(changes.revision, changes.numbers, nothing, nothing, changes.lengths))

    def _cosines(
        self, vector: np.ndarray, first: str, second: str, places: np.ndarray, shared: np.ndarray | None
    ) -> np.ndarray:
        """As `Index._cosines`, of the nearest items and those whose words fit best."""
        numbers = self._numbers[places]
        at = {int(number): n for n, number in enumerate(numbers.tolist())}
        scores = np.full(len(places), -np.inf, np.float32)
        chosen = numbers.tolist() if len(places) < self._count else None
        fitting: list[int] = []
        if shared is not None:
            best = np.argsort(-shared, kind="stable")[:_LOOK]
            fitting = numbers[best[shared[best] > 0]].tolist()
        try:
            for kind, alone in ((first, False), (second, True)):
                for number, score in self._nearest(kind, alone, vector, chosen):
                    if number in at:
                        scores[at[number]] = score
            for kind in (second, first):  # what an item has of the first kind counts
                for number, found in self._vectors_of(kind, fitting):
                    scores[at[number]] = found @ vector
        except milvus_exception() as error:
            raise MilvusError(f"{self._uri}: {error}") from error
        for number, score in self._not_there_yet(first, second, vector):
            if number in at:
                scores[at[number]] = score
        return scores

    def _not_there_yet(self, first: str, second: str, vector: np.ndarray) -> Iterator[tuple[int, float]]:
        """Numbers and scores of items that Milvus has not got, or has as they were."""
        if self._recent is None:
            return
        given = {"image": self._recent.images, "text": self._recent.texts}
        for n, number in enumerate(self._recent.numbers.tolist()):
            own = (rows[n] for rows in (given[first], given[second]) if rows.shape[1])
            found = next((row for row in own if not np.isnan(row[0])), None)
            yield number, float("-inf") if found is None else float(found @ vector)

    def _nearest(
        self, kind: str, alone: bool, vector: np.ndarray, chosen: Sequence[int] | None
    ) -> Iterator[tuple[int, float]]:
        """Numbers and scores of the nearest items, of all or of those chosen."""
        name = self._collection(kind)
        if not self._client.has_collection(name):
            return
        for part in [None] if chosen is None else _parts(chosen, _CHOSEN):
            terms = ["alone == true"] if alone else []
            terms += [] if part is None else [f"number in {list(part)}"]
            (hits,) = self._client.search(
                name, data=[vector.astype(np.float32).tolist()], limit=_LOOK, filter=" and ".join(terms),
                output_fields=["number"],
            )  # fmt: skip
            yield from ((int(hit["entity"]["number"]), float(hit["distance"])) for hit in hits)

    def _vectors_of(self, kind: str, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        name = self._collection(kind)
        if numbers and self._client.has_collection(name):
            for row in self._client.get(name, ids=list(numbers), output_fields=["number", "vector"]):
                yield int(row["number"]), np.asarray(row["vector"], np.float32)


def _present(rows: np.ndarray) -> np.ndarray:
    """Which rows are vectors, `(n,)`."""
    return ~np.isnan(rows[:, 0]) if rows.shape[1] else np.zeros(len(rows), bool)


def _parts(values: Any, size: int) -> Iterator[Any]:
    return (values[start : start + size] for start in range(0, len(values), size))


def index_of(table: Table, vectors: str, token: str) -> MilvusIndex:
    """The index of a folder: where it was said to be, else where the folder notes.

    Args:
        table: the items.
        vectors: URI of Milvus, or "" for what is noted.
        token: of the server.
    """
    uri = vectors or table.about().get("vectors", "")
    if uri.endswith(".db") and "://" not in uri:
        uri = str(Path(uri).absolute())
    return MilvusIndex(table, uri, token)
