"""The one writer of knowledge bases: items as Parquet, in parts and as the table that is made of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from comem.io.files import sha256_of, sweep, whole_file, write_sealed
from comem.io.images import allow_images
from comem.io.run_folder import run_manifest
from comem.retrieval.corpus.rules import CorpusError, CorpusItem, Duplicates
from comem.retrieval.knowledge import (
    FORMAT,
    ITEMS,
    MANIFEST,
    ROW_GROUP,
    KnowledgeBase,
    KnowledgeBaseError,
    tail_checksum,
)
from comem.types import KnowledgeItem

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

TEXTS = ("id", "text", "image", "source", "language", "image_url", "licence", "video")
NUMBERS = ("width", "height")
KEYS = ("id_key", "row_key")  # hashes of the id, and of what makes two rows duplicates; only in parts


def schema(keys: bool) -> pa.Schema:
    """The columns of the table; with `keys`, of a part."""
    import pyarrow as pa

    columns = [(name, pa.string()) for name in TEXTS] + [(name, pa.int32()) for name in NUMBERS]
    return pa.schema(columns + [(name, pa.uint64()) for name in KEYS] * keys)


def _key(*parts: str) -> int:
    """64 bits of a hash: among 40 million rows two different ones agree once in 20,000 corpora."""
    joined = "\0".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(joined, digest_size=8).digest(), "little")


def row_key(item: CorpusItem, image: str, unique: Duplicates) -> int:
    """Equal for rows of which `unique` keeps one; 0 where nothing is a duplicate."""
    if unique == "none" or not image:
        return 0
    return _key(image, {"passage": item.text, "language": item.language, "image": ""}[unique], unique)


def _row(item: CorpusItem, folder: Path) -> dict[str, Any]:
    """A line of the table; image paths are relative to its folder, so that both can be moved."""
    row = {name: getattr(item, name) for name in (*TEXTS, *NUMBERS)}
    if item.image:
        row["image"] = os.path.relpath(item.image, folder)
    if item.video:
        row["video"] = os.path.relpath(item.video, folder)
    # Arrow stores no lone surrogate, as a file name has that is not UTF-8.
    return {k: v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for k, v in row.items()}


def write_part(items: Iterable[tuple[CorpusItem, int]], path: Path, folder: Path) -> Iterator[int]:
    """Writes items with their row keys as they come, and yields after each row group; whole or not there.

    What came before an error of the stream is written; the error goes on to the caller.

    Args:
        items: with their row keys.
        path: of the part.
        folder: of the corpus.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns, failure = schema(keys=True), None
    stream, rows, ended = iter(items), list[dict[str, Any]](), False
    with (
        whole_file(path) as partial,
        pq.ParquetWriter(partial, columns, compression="zstd", write_page_checksum=True) as writer,
    ):
        while not ended:
            try:
                pair = next(stream, None)
            except ValueError as error:
                pair, failure = None, error
            ended = pair is None
            if pair is not None:
                rows.append({**_row(pair[0], folder), "id_key": _key(pair[0].id), "row_key": pair[1]})
            if rows and (ended or len(rows) == ROW_GROUP):
                writer.write_table(pa.Table.from_pylist(rows, schema=columns), row_group_size=ROW_GROUP)
                yield len(rows)
                rows = []
    if failure is not None:
        raise failure


def choose_rows(parts: Sequence[Path], drop_repeated_ids: bool) -> tuple[list[np.ndarray], dict[str, int]]:
    """The first of each id and of each set of duplicates, in the order of the parts.

    Returns:
        Which rows of each part these are, and how many of the others there are, by reason.

    Raises:
        CorpusError: an id comes twice and may not be dropped; names it and the parts' places.
    """
    tables = [_opened(part).read(list(KEYS)) for part in parts]
    ids, rows = (np.concatenate([table.column(name).to_numpy() for table in tables]) for name in KEYS)
    fresh_row = _first(rows) | (rows == 0)
    fresh_id = np.zeros(len(ids), dtype=bool)
    fresh_id[np.flatnonzero(fresh_row)] = _first(ids[fresh_row])  # a duplicate row is no repeated id
    repeated = int(fresh_row.sum() - fresh_id.sum())
    lengths = [len(table) for table in tables]
    if repeated and not drop_repeated_ids:
        place = int(np.flatnonzero(fresh_row & ~fresh_id)[0])
        raise CorpusError(_repeated(parts, lengths, ids, place, repeated))
    dropped = {"duplicate": int(len(rows) - fresh_row.sum()), "repeated id": repeated}
    masks = np.split(fresh_row & fresh_id, np.cumsum(lengths)[:-1])
    return masks, {reason: count for reason, count in dropped.items() if count}


def _opened(part: Path) -> pq.ParquetFile:
    """A part to read; `read_table` waits forever where there is too little memory to start a thread."""
    from pyarrow.parquet import ParquetFile

    return ParquetFile(part, memory_map=True)


def _first(keys: np.ndarray) -> np.ndarray:
    """bool (n,): whether a key stands at its first place."""
    first = np.zeros(len(keys), dtype=bool)
    first[np.unique(keys, return_index=True)[1]] = True
    return first


def _repeated(parts: Sequence[Path], lengths: list[int], ids: np.ndarray, place: int, count: int) -> str:
    """The message for an id that comes again at `place`."""
    earlier = int(np.flatnonzero(ids == ids[place])[0])
    part = int(np.searchsorted(np.cumsum(lengths), place, side="right"))
    table = _opened(parts[part]).read(["id", "source"])
    (row,) = table.slice(place - sum(lengths[:part]), 1).to_pylist()
    return (
        f"the id {row['id']!r} repeats in the corpus (items {earlier + 1} and {place + 1}, again from"
        f" {row['source'] or 'the same source'}; {count} such rows): make the ids unique, or keep the first"
        " of each with --on-duplicate drop; what was read is kept, the second run is quick"
    )


def join_parts(
    parts: Sequence[Path], masks: Sequence[np.ndarray], folder: Path, about: Mapping[str, Any]
) -> KnowledgeBase:
    """Writes the chosen rows of all parts as the table of a knowledge base, in whole row groups.

    The table appears when it is whole, and the manifest after it: it says that all is there.

    Args:
        parts: files of `write_part`, in order.
        masks: per part which of its rows are taken, bool.
        folder: of the knowledge base.
        about: for the manifest.

    Raises:
        StorageError: the disk is full; an older knowledge base in the folder stays as it was.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns, digest, count = schema(keys=False), hashlib.sha256(), 0
    folders: dict[str, str] = {}  # of images and videos, with one of each
    with whole_file(folder / ITEMS) as partial:
        with pq.ParquetWriter(partial, columns, compression="zstd", write_page_checksum=True) as writer:
            for table in map(pa.Table.combine_chunks, _groups(parts, masks, columns)):
                for item_id in table.column("id").to_pylist():
                    digest.update(item_id.encode("utf-8", "surrogatepass") + b"\n")
                films = (address.partition("#t=")[0] for address in table.column("video").to_pylist())
                named = filter(None, chain(table.column("image").to_pylist(), films))
                folders.update((os.path.dirname(path), path) for path in named)
                writer.write_table(table, row_group_size=ROW_GROUP)
                count += len(table)
        manifest = {
            "format": FORMAT, "count": count, "bytes": partial.stat().st_size, "row_group": ROW_GROUP,
            "ids_sha256": digest.hexdigest(), "complete": True, "sha256": sha256_of(partial),
            "tail_sha256": tail_checksum(partial), **run_manifest(about),
        }  # fmt: skip
        (folder / MANIFEST).unlink(missing_ok=True)
    allow_images(folder, folders.values())
    write_sealed(folder / MANIFEST, manifest)
    return KnowledgeBase(folder)


def _groups(parts: Sequence[Path], masks: Sequence[np.ndarray], columns: pa.Schema) -> Iterator[pa.Table]:
    """The chosen rows, so many at a time as a row group has."""
    import pyarrow as pa

    held = columns.empty_table()
    for part, mask in zip(parts, masks, strict=True):
        start = 0
        for batch in _opened(part).iter_batches(ROW_GROUP, columns=columns.names):
            chosen = pa.Table.from_batches([batch]).filter(pa.array(mask[start : start + len(batch)]))
            start += len(batch)
            held = pa.concat_tables([held, chosen])
            while len(held) >= ROW_GROUP:
                yield held.slice(0, ROW_GROUP)
                held = held.slice(ROW_GROUP)
    if len(held):
        yield held


def write_knowledge_base(
    items: Iterable[KnowledgeItem | CorpusItem], folder: str | Path, extra: Mapping[str, Any] | None = None
) -> KnowledgeBase:
    """Writes items of whatever origin as a knowledge base, which appears only when it is whole.

    When the stream of items itself fails, what came before the failure is written (the manifest says
    `"complete": false`) and the error goes on to the caller.

    Raises:
        KnowledgeBaseError: for an item whose image is bytes in memory, which has no address to store, or
            whose image cannot be used.
        StorageError: when the disk is full; an older knowledge base in the folder stays as it was.
    """
    import pyarrow.parquet as pq

    folder, failure = Path(folder), None
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder, "items")
    sweep(folder, ITEMS)
    part = folder / f".items.{os.getpid()}.tmp"
    try:
        try:
            for _ in write_part(((_as_row(item), 0) for item in items), part, folder):
                pass
        except ValueError as error:  # CorpusError, RecordError: keep what was read
            failure = error
        masks = [np.ones(pq.read_metadata(part).num_rows, bool)]
        base = join_parts([part], masks, folder, {"complete": failure is None, **(extra or {})})
    finally:
        part.unlink(missing_ok=True)
    if failure is not None:
        raise failure
    return base


def _as_row(item: KnowledgeItem | CorpusItem) -> CorpusItem:
    if isinstance(item, CorpusItem):
        return item
    if item.image is not None and item.image.path is None:
        raise KnowledgeBaseError(f"item {item.id!r}: its image is in memory; save it to a file first")
    if item.image is not None and item.image.fault:  # not to be allowed by storing it
        raise KnowledgeBaseError(f"item {item.id!r}: {item.image.path}: {item.image.fault}")
    video = ""
    if item.video is not None:
        from comem.io.video import video_address

        video = video_address(item.video)
    picture = str(item.image or "")
    return CorpusItem(item.id, item.text, picture, item.source, item.language, video=video)
