"""The knowledge base on disk: items as Parquet, fetched by row while memory-mapped, with a manifest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comem.io.files import StorageError, write_json
from comem.io.jsonl import read_json, sha256_of
from comem.io.manifest import run_manifest
from comem.types import ImageRef, KnowledgeItem

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = "comem-items-1"
ITEMS, MANIFEST = "items.parquet", "items.json"
COLUMNS = ("id", "text", "image", "source", "language")
ROW_GROUP = 1024  # one fetch reads at most this many neighbours of an item


class KnowledgeBaseError(ValueError):
    """A knowledge base that is missing, half-written or changed since it was built."""


def ids_checksum(ids: Iterable[str]) -> str:
    """SHA-256 over the ids in their order."""
    digest = hashlib.sha256()
    for item_id in ids:
        digest.update(item_id.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()


def tail_checksum(path: Path) -> str:
    """SHA-256 over the last 64 kB: Parquet's footer says where and what every column is, quick to read."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 65536))
        return hashlib.sha256(file.read()).hexdigest()


class KnowledgeBase:
    """Read access to a folder written by `write_knowledge_base`; safe for many readers.

    Image paths are stored relative to the folder where that is possible, so that both can be moved.

    Raises:
        KnowledgeBaseError: if the folder holds no complete knowledge base.
    """

    def __init__(self, folder: str | Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.folder = Path(folder)
        path = self.folder / ITEMS
        if not (self.folder / MANIFEST).is_file() or not path.is_file():
            raise KnowledgeBaseError(
                f"{self.folder}: no knowledge base here (needs {ITEMS} and {MANIFEST}); build it with"
                " comem index build"
            )
        self.manifest: Mapping[str, Any] = read_json(self.folder / MANIFEST)
        if path.stat().st_size != self.manifest.get("bytes"):
            raise KnowledgeBaseError(
                f"{path}: {path.stat().st_size} bytes, but {self.manifest.get('bytes')} were written; it"
                " was changed or cut: build it again"
            )
        if (tail := self.manifest.get("tail_sha256")) and tail != tail_checksum(path):
            raise KnowledgeBaseError(f"{path}: changed since it was built; build it and its index again")
        try:
            self._file = pq.ParquetFile(path, memory_map=True)
        except (pa.ArrowInvalid, OSError) as error:
            raise KnowledgeBaseError(f"{path}: not a Parquet file ({error}); build it again") from error
        self._group = lru_cache(maxsize=8)(self._read_group)

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def verify(self) -> None:
        """Reads the whole file and compares it with the checksum of when it was built.

        Raises:
            KnowledgeBaseError: the file was changed.
        """
        path = self.folder / ITEMS
        if (expected := self.manifest.get("sha256")) and sha256_of(path) != expected:
            raise KnowledgeBaseError(f"{path}: not what was built (checksum differs); build it again")

    @cached_property
    def ids(self) -> list[str]:
        """The ids of all items, in row order."""
        return self._column("id")

    @cached_property
    def languages(self) -> list[str]:
        """The languages of all items, in row order."""
        return self._column("language")

    def images(self) -> list[str]:
        """The paths of the pictures of all items, in row order; "" where there is none."""
        return [self._path(image) if image else "" for image in self._column("image")]

    def texts(self) -> list[str]:
        """The passages of all items, in row order."""
        return self._column("text")

    @cached_property
    def rows(self) -> dict[str, int]:
        """Row by id."""
        return {item_id: row for row, item_id in enumerate(self.ids)}

    def items(self, rows: Sequence[int]) -> list[KnowledgeItem]:
        """The items of these rows, in the order asked for."""
        return [self._item(int(row)) for row in rows]

    def by_ids(self, ids: Sequence[str]) -> list[KnowledgeItem]:
        """The items with these ids, in the order asked for.

        Raises:
            KnowledgeBaseError: for an id that is not in the knowledge base.
        """
        unknown = [item_id for item_id in ids if item_id not in self.rows]
        if unknown:
            raise KnowledgeBaseError(
                f"{self.folder}: {len(unknown)} of {len(ids)} ids are not in this knowledge base (first:"
                f" {unknown[0]!r}); was the retrieval made with another one?"
            )
        return self.items([self.rows[item_id] for item_id in ids])

    def _item(self, row: int) -> KnowledgeItem:
        if not 0 <= row < len(self):
            raise KnowledgeBaseError(f"{self.folder}: row {row} is not among the {len(self)} items")
        group, offset = divmod(row, int(self.manifest["row_group"]))
        table = self._group(group)
        item_id, text, image, source, language = (table.column(name)[offset].as_py() for name in COLUMNS)
        ref = ImageRef(path=self._path(image)) if image else None
        return KnowledgeItem(item_id, text, ref, source, language)

    def _path(self, image: str) -> str:
        return os.path.normpath(self.folder / image)

    def _column(self, name: str) -> list[str]:
        return self._file.read(columns=[name]).column(name).to_pylist()

    def _read_group(self, group: int) -> pa.Table:
        return self._file.read_row_group(group, columns=list(COLUMNS))


def write_knowledge_base(
    items: Iterable[KnowledgeItem], folder: str | Path, extra: Mapping[str, Any] | None = None
) -> KnowledgeBase:
    """Writes the items as one Parquet file, which appears only when it is whole.

    When the stream of items itself fails, what came before the failure is written (the manifest says
    `"complete": false`) and the error goes on to the caller.

    Raises:
        KnowledgeBaseError: for an item whose image is bytes in memory, which has no address to store.
        StorageError: when the disk is full; an older knowledge base in the folder stays as it was.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    partial, error = folder / f".{ITEMS}.{os.getpid()}.part", None
    try:
        try:
            count, checksum, error = _write_parquet(items, folder, partial)
        except OSError as full:
            raise StorageError(
                full.errno, f"cannot write {partial}: {full.strerror}; free space, run again"
            ) from full
        sums = {"sha256": sha256_of(partial), "tail_sha256": tail_checksum(partial)}
        size = partial.stat().st_size
        (folder / MANIFEST).unlink(missing_ok=True)  # the manifest comes last: it says that all is there
        os.replace(partial, folder / ITEMS)
    finally:
        partial.unlink(missing_ok=True)
    manifest = {
        "format": FORMAT, "count": count, "bytes": size, "row_group": ROW_GROUP, "ids_sha256": checksum,
        "complete": error is None, **sums, **run_manifest(extra),
    }  # fmt: skip
    write_json(folder / MANIFEST, manifest)
    if error is not None:
        raise error
    return KnowledgeBase(folder)


def _write_parquet(
    items: Iterable[KnowledgeItem], folder: Path, path: Path
) -> tuple[int, str, ValueError | None]:
    """Rows written, the checksum of their ids, and the error that ended the stream early, if one did."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.string()) for name in COLUMNS])
    count, digest, rows, failure = 0, hashlib.sha256(), list[dict[str, str]](), None
    stream = iter(items)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while True:
            try:
                item = next(stream, None)
            except ValueError as error:  # CorpusError, RecordError: keep what was read
                item, failure = None, error
            if item is not None:
                digest.update(item.id.encode("utf-8", "surrogatepass") + b"\n")
                rows.append(_row(item, folder))
                count += 1
            if rows and (item is None or len(rows) == ROW_GROUP):
                writer.write_table(pa.Table.from_pylist(rows, schema=schema), row_group_size=ROW_GROUP)
                rows = []
            if item is None:
                return count, digest.hexdigest(), failure


def _row(item: KnowledgeItem, folder: Path) -> dict[str, str]:
    image = ""
    if item.image is not None:
        if item.image.path is None:
            raise KnowledgeBaseError(f"item {item.id!r}: its image is in memory; save it to a file first")
        image = os.path.relpath(item.image.path, folder)
    return {
        "id": item.id,
        "text": item.text,
        "image": image,
        "source": item.source,
        "language": item.language,
    }
