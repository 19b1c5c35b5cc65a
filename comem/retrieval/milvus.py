"""Search on a Milvus server (or milvus-lite, which is a file) instead of FAISS; the items stay in Parquet."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from comem.io.console import Progress, quiet
from comem.io.run_folder import warn_of_open_key, without_secrets
from comem.retrieval.embed import embed_shown
from comem.retrieval.embedder import Embedder
from comem.retrieval.index import DECIMALS, Hits, check_embedder
from comem.retrieval.knowledge import KnowledgeBase
from comem.retrieval.settings import FaissSettings
from comem.retrieval.vectors import Vectors

logger = logging.getLogger(__name__)

COLLECTION, PROPERTY = "comem", "comem.manifest"
MOST_HITS = 16_384  # that a Milvus server returns for one query
_BATCH = 1024  # rows a call
_LANGUAGE_BYTES = 64


class MilvusError(ValueError):
    """A server that cannot be reached, or a collection that is not of this knowledge base."""


class MilvusIndex:
    """A collection, searched as `VectorIndex` is; rows are those of the knowledge base.

    Args:
        folder: of the knowledge base.
        uri: "http://host:19530", or a path that ends in .db (milvus-lite).
        collection: its name there.

    Raises:
        MilvusError: no such server or collection, or it is of another knowledge base.
    """

    kind = "milvus"

    def __init__(
        self, folder: str | Path, uri: str, collection: str = COLLECTION, *, token: str = ""
    ) -> None:
        self.base, self.collection, self.uri = KnowledgeBase(folder), collection, without_secrets(uri)
        self._client = connect(uri, token)
        if not self._client.has_collection(collection):
            raise MilvusError(
                f"{without_secrets(uri)}: no collection {collection!r}; make it with comem index push"
            )
        self.manifest = _manifest(self._client.describe_collection(collection))
        if not self.manifest:
            raise MilvusError(
                f"{without_secrets(uri)}: the collection {collection!r} was not made by comem index push"
            )
        if self.manifest["ids_sha256"] != self.base.manifest["ids_sha256"]:
            raise MilvusError(
                f"{without_secrets(uri)}: the collection {collection!r} is of another knowledge base than"
                f" {folder}; push it again"
            )
        self._client.load_collection(collection)

    def __len__(self) -> int:
        return int(self.manifest["count"])

    def check(self, embedder: Embedder) -> None:
        """Refuses an embedder that did not make these vectors."""
        check_embedder(self.uri, self.manifest, embedder, "push again")

    def describe(self) -> dict[str, Any]:
        """What decides the results of a search."""
        return {
            "collection": self.collection, "index": self.manifest["index_type"],
            "ids_sha256": self.manifest["ids_sha256"],
        }  # fmt: skip

    def search(self, queries: np.ndarray, k: int, languages: Collection[str] | None = None) -> Hits:
        """The k nearest items of each query, best first; equal scores in the order of the knowledge base.

        Args:
            queries: float32 (b, d), each row of length 1.
            k: of each query.
            languages: only items in these; None takes all.
        """
        if k < 1:
            raise ValueError(f"k = {k}: at least 1 item must be asked for")
        limit = min(2 * k + 8, max(k, MOST_HITS), MOST_HITS)  # somewhat more, to put ties at the end in order
        chosen = "" if languages is None else f"language in {json.dumps(sorted(languages))}"
        answers = self._client.search(
            self.collection, data=np.asarray(queries, np.float32).tolist(), limit=limit, filter=chosen,
            anns_field="vector", output_fields=["row"],
        )  # fmt: skip
        found = [_ranked(answer, k) for answer in answers]
        return Hits(tuple(rows for rows, _ in found), tuple(scores for _, scores in found))

    def close(self) -> None:
        """Ends the connection (milvus-lite: its server)."""
        self._client.close()


def _manifest(described: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `push` wrote about the collection: in its description, or in its properties (lite)."""
    properties = described.get("properties") or {}
    for text in (described.get("description"), properties.get(PROPERTY)):
        try:
            found = json.loads(text or "")
        except (json.JSONDecodeError, TypeError):
            continue
        if isinstance(found, dict) and "ids_sha256" in found:
            return found
    return {}


def _ranked(answer: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and scores of one query's hits, the best k."""
    rows = np.asarray([hit["entity"]["row"] for hit in answer], np.int64)
    scores = np.round(np.asarray([hit["distance"] for hit in answer], np.float32), DECIMALS)
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]


def push(
    base: KnowledgeBase, embedder: Embedder, uri: str, collection: str = COLLECTION, *, token: str = "",
    index_type: str = "AUTOINDEX", settings: FaissSettings | None = None, progress: Progress = quiet,
) -> int:  # fmt: skip
    """Writes the vectors of a knowledge base into a collection, in place of one of that name.

    Embeddings that `comem corpus embed` or `comem index build` made are taken over. The new collection gets
    its name only when it is whole; searches go on in the old one until then.

    Args:
        base: the knowledge base.
        embedder: makes the vectors that are not there yet.
        uri: of the server, or a file of milvus-lite.
        collection: its name.
        token: of the server; empty for none.
        index_type: of Milvus: AUTOINDEX, FLAT, HNSW, IVF_FLAT, … (milvus-lite: AUTOINDEX and FLAT).
        settings: sizes of shards and batches, and whether vectors are kept in half precision; None for the
            defaults.
        progress: shows how far it is.

    Returns:
        How many items can be found there.

    Raises:
        MilvusError: the server cannot be reached, or refuses.
    """
    settings = settings or FaissSettings()
    try:
        rows, vectors, _ = embed_shown(
            base, embedder, shard_size=settings.shard_size, batch_size=settings.batch_size,
            half=settings.half, progress=progress,
        )  # fmt: skip
    except ValueError as error:
        raise MilvusError(str(error)) from error
    client, fresh = connect(uri, token), f"{collection}_new"
    manifest = {
        "format": "comem-milvus-1", "count": len(rows), "ids_sha256": base.manifest["ids_sha256"],
        "index_type": index_type, "embedder": {"name": embedder.name, "fingerprint": embedder.fingerprint},
    }  # fmt: skip
    try:
        client.drop_collection(fresh)  # of a push that was interrupted
        _create(client, fresh, vectors.dimension, index_type, json.dumps(manifest))
        with progress("pushing", len(rows)) as advance:
            for batch in _batches(base, rows, vectors):
                client.insert(fresh, batch)
                advance(len(batch))
        client.flush(fresh)
        client.drop_collection(collection)
        client.rename_collection(fresh, collection)
    except milvus_exception() as error:
        raise MilvusError(f"{without_secrets(uri)}: {error}") from error
    finally:
        client.close()
    return len(rows)


def _create(client: Any, name: str, dimension: int, index_type: str, description: str) -> None:
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False, description=description)
    schema.add_field("row", DataType.INT64, is_primary=True)
    schema.add_field("language", DataType.VARCHAR, max_length=_LANGUAGE_BYTES)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
    index = client.prepare_index_params()
    index.add_index("vector", index_type=index_type, metric_type="IP")  # cosine: the vectors have length 1
    client.create_collection(name, schema=schema, index_params=index, properties={PROPERTY: description})


def _batches(base: KnowledgeBase, rows: np.ndarray, vectors: Vectors) -> Iterator[list[dict[str, Any]]]:
    languages = base.languages
    for start in range(0, len(rows), _BATCH):
        part = rows[start : start + _BATCH]
        made = vectors.take(np.arange(start, start + len(part)))
        yield [
            {"row": int(row), "language": languages[row][:_LANGUAGE_BYTES], "vector": vector}
            for row, vector in zip(part, made, strict=True)
        ]


def connect(uri: str, token: str = "") -> Any:
    """A client of a server, or of milvus-lite.

    Raises:
        MilvusError: pymilvus is missing, or nobody answers.
    """
    try:
        from pymilvus import MilvusClient
    except ImportError as error:
        raise MilvusError("Milvus needs pymilvus: pip install 'comem[milvus]'") from error
    warn_of_open_key(uri, token)
    try:
        return MilvusClient(uri=uri, token=token)
    except (milvus_exception(), ConnectionError) as error:
        said = f"{uri}: cannot be reached ({error}); is the server running?"
        raise MilvusError(without_secrets(said)) from error


def milvus_exception() -> type[Exception]:
    """What pymilvus raises."""
    from pymilvus.exceptions import MilvusException

    return cast(type[Exception], MilvusException)
