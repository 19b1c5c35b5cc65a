"""The knowledge base on disk: items as Parquet, fetched by row while memory-mapped, with a manifest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from comem.io.files import read_json, sha256_of
from comem.types import ImageRef, KnowledgeItem

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = "comem-items-1"
ITEMS, MANIFEST = "items.parquet", "items.json"
COLUMNS = ("id", "text", "image", "source", "language")
VIDEO = "video"  # the address of a segment; in tables that know videos
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
    """Read access to a folder made by `comem corpus build` or `comem index build`; safe for many readers.

    Image paths are stored relative to the folder where that is possible, so that both can be moved. An image
    beyond the folder above it is out of reach (`comem.io.images.image_ref`), unless it was built here.

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
        if not isinstance(self.manifest, dict) or not {"ids_sha256", "row_group"} <= self.manifest.keys():
            raise KnowledgeBaseError(f"{self.folder / MANIFEST}: not a corpus's manifest; build it again")
        if path.stat().st_size != self.manifest.get("bytes"):
            raise KnowledgeBaseError(
                f"{path}: {path.stat().st_size} bytes, but {self.manifest.get('bytes')} were written; it"
                " was changed or cut: build it again"
            )
        if (tail := self.manifest.get("tail_sha256")) and tail != tail_checksum(path):
            raise KnowledgeBaseError(f"{path}: changed since it was built; build it and its index again")
        try:
            self._file = pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise KnowledgeBaseError(f"{path}: not a Parquet file ({error}); build it again") from error
        self._group = lru_cache(maxsize=8)(self._read_group)
        self._reach = lru_cache(maxsize=1 << 16)(self._reach_of)

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
        """The paths of the images of all items, in row order; "" where there is none within reach."""
        return self.shown()[0]

    def shown(self) -> tuple[list[str], dict[str, str]]:
        """The paths of `images`; and why others are out of reach, by path."""
        paths, faults = list[str](), dict[str, str]()
        for image in self._column("image"):
            path, fault = self.place(image) if image else ("", "")
            if fault:
                faults[path] = f"{path}: {fault}"
            paths.append("" if fault else path)
        return paths, faults

    def texts(self) -> list[str]:
        """The passages of all items, in row order."""
        return self._column("text")

    @cached_property
    def rows(self) -> dict[str, int]:
        """Row by id."""
        return {item_id: row for row, item_id in enumerate(self.ids)}

    def rows_of(self, source: str) -> list[int]:
        """The rows of all items of a source, as of an article; none where there is no such source."""
        codes, order, bounds = self._sources
        code = codes.get(source)
        return [] if code is None else order[bounds[code] : bounds[code + 1]].tolist()

    @cached_property
    def _sources(self) -> tuple[dict[str, int], Any, Any]:
        """Number by source; rows sorted by that number `(n,)`; where each number's rows begin there."""
        import numpy as np

        column = self._file.read(columns=["source"]).column("source").combine_chunks().dictionary_encode()
        numbers = column.indices.to_numpy()  # (n,)
        names = column.dictionary.to_pylist()
        bounds = np.concatenate([[0], np.cumsum(np.bincount(numbers, minlength=len(names)))])
        order = np.argsort(numbers, kind="stable")
        return {name: code for code, name in enumerate(names)}, order, bounds

    def items(self, rows: Sequence[int]) -> list[KnowledgeItem]:
        """The items of these rows, in the order asked for."""
        return [self._item(int(row)) for row in rows]

    def __iter__(self) -> Iterator[KnowledgeItem]:
        """Every item, some at a time: a knowledge base may be larger than memory."""
        for start in range(0, len(self), 1000):
            yield from self.items(range(start, min(start + 1000, len(self))))

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
        path, fault = self.place(image) if image else ("", "")
        ref = ImageRef(path=path, fault=fault) if path else None
        address = table.column(VIDEO)[offset].as_py() if VIDEO in table.column_names else ""
        if not address:
            return KnowledgeItem(item_id, text, ref, source, language)
        from comem.io.video import video_ref

        return KnowledgeItem(item_id, text, ref, source, language, video_ref(address, self.folder))

    def place(self, image: str) -> tuple[str, str]:
        """Where an image of the table lies, and why it may not be opened there; "" where it may."""
        path = os.path.normpath(self.folder / image)
        return path, self._reach(os.path.dirname(path))

    def _reach_of(self, directory: str) -> str:
        from comem.io.images import out_of_reach  # Pillow: not for a command's --help

        return out_of_reach(directory, self.folder)

    @cached_property
    def _columns(self) -> list[str]:
        """Those that an item is made of; tables of 0.2 and before know no videos."""
        return [*COLUMNS, *([VIDEO] if VIDEO in self._file.schema_arrow.names else [])]

    def _column(self, name: str) -> list[str]:
        with self._damage():
            return cast(list[str], self._file.read(columns=[name]).column(name).to_pylist())

    def _read_group(self, group: int) -> pa.Table:
        with self._damage():
            return self._file.read_row_group(group, columns=self._columns)

    @contextmanager
    def _damage(self) -> Iterator[None]:
        """Name the table where a page of it is not as it was written."""
        import pyarrow as pa

        try:
            yield
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise KnowledgeBaseError(f"{self.folder / ITEMS}: damaged ({error}); build it again") from error
