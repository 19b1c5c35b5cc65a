"""Corpus items as Parquet: the parts that workers write, and the table that is made of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from comem.io.files import storage_errors
from comem.retrieval.corpus.rules import CorpusError, CorpusItem, Duplicates
from comem.retrieval.knowledge import ROW_GROUP

if TYPE_CHECKING:
    import pyarrow as pa

TEXTS = ("id", "text", "image", "source", "language", "image_url", "licence")
NUMBERS = ("width", "height")
KEYS = ("id_key", "row_key")  # hashes of the id, and of what makes two rows duplicates; only in parts


def schema(keys: bool) -> pa.Schema:
    """The columns of the table; with `keys`, of a part."""
    import pyarrow as pa

    columns = [(name, pa.string()) for name in TEXTS] + [(name, pa.int32()) for name in NUMBERS]
    return pa.schema(columns + [(name, pa.uint64()) for name in KEYS] * keys)


def key(*parts: str) -> int:
    """64 bits of a hash: among 40 million rows two different ones agree once in 20,000 corpora."""
    joined = "\0".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(joined, digest_size=8).digest(), "little")


def row_key(item: CorpusItem, picture: str, unique: Duplicates) -> int:
    """Equal for rows of which `unique` keeps one; 0 where nothing is a duplicate."""
    if unique == "none" or not picture:
        return 0
    return key(picture, {"passage": item.text, "language": item.language, "image": ""}[unique], unique)


def write_part(items: Iterable[tuple[CorpusItem, int]], path: Path, folder: Path) -> Iterator[int]:
    """Writes items with their row keys as they come, and yields after each row group; whole or not there.

    What came before an error of the stream is written; the error goes on to the caller.

    Args:
        folder: image paths are stored relative to it.
    """
    import pyarrow.parquet as pq

    partial, rows = path.with_name(f".{path.name}.{os.getpid()}.part"), list[dict[str, Any]]()
    failure: ValueError | None = None
    stream = iter(items)
    try:
        with storage_errors(path), pq.ParquetWriter(partial, schema(True), compression="zstd") as writer:
            while True:
                try:
                    pair = next(stream, None)
                except ValueError as error:
                    pair, failure = None, error
                if pair is not None:
                    rows.append(_row(*pair, folder))
                if rows and (pair is None or len(rows) == ROW_GROUP):
                    _write(writer, rows)
                    yield len(rows)
                    rows = []
                if pair is None:
                    break
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    if failure is not None:
        raise failure


def _write(writer: Any, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa

    writer.write_table(pa.Table.from_pylist(rows, schema=schema(True)), row_group_size=ROW_GROUP)


def _row(item: CorpusItem, row_hash: int, folder: Path) -> dict[str, Any]:
    row = {name: _storable(value) for name, value in vars(item).items()}
    if item.image:
        row["image"] = _storable(os.path.relpath(item.image, folder))
    return {**row, "id_key": key(row["id"]), "row_key": row_hash}


def _storable(value: Any) -> Any:
    """Text as Arrow stores it: a lone surrogate (a file name that is not UTF-8) is replaced."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


@dataclass(frozen=True)
class Kept:
    """Which rows of the parts go into the table, and how many of the others there are, by reason."""

    masks: list[np.ndarray]
    dropped: dict[str, int]


def choose_rows(parts: Sequence[Path], drop_repeated_ids: bool) -> Kept:
    """The first of each id and of each set of duplicates, in the order of the parts.

    Raises:
        CorpusError: an id comes twice and may not be dropped; names it and the parts' places.
    """
    import pyarrow.parquet as pq

    tables = [pq.read_table(part, columns=list(KEYS)) for part in parts]
    ids, rows = (
        np.concatenate([np.zeros(0, np.uint64), *(t.column(name).to_numpy() for t in tables)])
        for name in KEYS
    )
    fresh_row = _first(rows) | (rows == 0)
    fresh_id = np.zeros(len(ids), dtype=bool)
    fresh_id[np.flatnonzero(fresh_row)] = _first(ids[fresh_row])  # a duplicate row is no repeated id
    repeated = int(fresh_row.sum() - fresh_id.sum())
    lengths = [len(table) for table in tables]
    if repeated and not drop_repeated_ids:
        place = int(np.flatnonzero(fresh_row & ~fresh_id)[0])
        raise CorpusError(_repeated(parts, lengths, ids, place, repeated))
    dropped = {"duplicate": int(len(rows) - fresh_row.sum()), "repeated id": repeated}
    masks = np.split(fresh_row & fresh_id, np.cumsum(lengths)[:-1]) if lengths else []
    return Kept(masks, {reason: count for reason, count in dropped.items() if count})


def _first(keys: np.ndarray) -> np.ndarray:
    """bool (n,): whether a key stands at its first place."""
    first = np.zeros(len(keys), dtype=bool)
    first[np.unique(keys, return_index=True)[1]] = True
    return first


def _repeated(parts: Sequence[Path], lengths: list[int], ids: np.ndarray, place: int, count: int) -> str:
    """The message for an id that comes again at `place`."""
    import pyarrow.parquet as pq

    earlier = int(np.flatnonzero(ids == ids[place])[0])
    part = int(np.searchsorted(np.cumsum(lengths), place, side="right"))
    row = (
        pq.read_table(parts[part], columns=["id", "source"])
        .slice(place - sum(lengths[:part]), 1)
        .to_pylist()[0]
    )
    return (
        f"the id {row['id']!r} repeats in the corpus (items {earlier + 1} and {place + 1}, again from"
        f" {row['source'] or 'the same source'}; {count} such rows): make the ids unique, or keep the first"
        " of each with --on-duplicate drop; what was read is kept, the second run is quick"
    )


def join_parts(parts: Sequence[Path], masks: Sequence[np.ndarray], path: Path) -> tuple[int, str]:
    """Writes the chosen rows of all parts as one table with whole row groups.

    Returns:
        How many rows there are, and the checksum of their ids.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    count, digest, wanted = 0, hashlib.sha256(), schema(False)
    held = wanted.empty_table()
    with pq.ParquetWriter(path, wanted, compression="zstd") as writer:
        for part, mask in zip(parts, masks, strict=True):
            start = 0
            for batch in pq.ParquetFile(part).iter_batches(ROW_GROUP, columns=wanted.names):
                chosen = pa.Table.from_batches([batch]).filter(pa.array(mask[start : start + len(batch)]))
                start += len(batch)
                held = pa.concat_tables([held, chosen])
                while len(held) >= ROW_GROUP:
                    count += _write_group(writer, held.slice(0, ROW_GROUP), digest)
                    held = held.slice(ROW_GROUP)
        if len(held):
            count += _write_group(writer, held, digest)
    return count, digest.hexdigest()


def _write_group(writer: Any, table: pa.Table, digest: Any) -> int:
    table = table.combine_chunks()
    for item_id in table.column("id").to_pylist():
        digest.update(item_id.encode("utf-8", "surrogatepass") + b"\n")
    writer.write_table(table, row_group_size=ROW_GROUP)
    return len(table)
