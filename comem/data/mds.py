"""Folders of MosaicML's MDS format, read without that library and without unpickling.

A folder holds `index.json` and shards. A shard is: the number of samples (uint32), the offsets of the
samples and of the end (uint32 each), the writer's settings as JSON, and the samples. A sample is the sizes
(uint32) of those columns that have no fixed size, then the columns' bytes. Little-endian throughout.

Source: mosaicml/streaming, docs "Dataset Format" and `streaming/base/format/mds`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from comem.records import RecordError, read_json

_DECODERS: dict[str, Callable[[bytes], Any]] = {
    "str": lambda data: data.decode("utf-8"),
    "json": lambda data: json.loads(data.decode("utf-8")),
    "int": lambda data: struct.unpack("<q", data)[0],
    "bytes": bytes,
    "jpeg": bytes,  # encoded pictures stay encoded
    "png": bytes,
}


def read_mds(folder: str | Path) -> Iterator[dict[str, Any]]:
    """The samples of an MDS folder, in the order written.

    Raises:
        RecordError: no index, a pickled or unknown column, a compressed or damaged shard; says what to do.
    """
    folder = Path(folder)
    index = read_json(folder / "index.json")
    shards = index.get("shards") if isinstance(index, dict) else None
    if not isinstance(shards, list):
        raise RecordError(f"{folder / 'index.json'}: no list of shards; this is not an MDS folder")
    for shard in shards:
        _refuse(shard, folder)
    for shard in shards:
        yield from _samples(folder, shard)


def _refuse(shard: Mapping[str, Any], folder: Path) -> None:
    """Shards that cannot be read, before the first sample is."""
    if shard.get("format") != "mds":
        raise RecordError(f"{folder}: a shard has the format {shard.get('format')!r}; only 'mds' is read")
    columns = dict(zip(shard["column_names"], shard["column_encodings"], strict=True))
    for name, encoding in columns.items():
        if encoding == "pkl":
            raise RecordError(
                f"{folder}: the column {name!r} is pickled; unpickling runs code of whoever wrote it, so it "
                "is refused. Where you trust the file, rewrite the column as 'json', 'str' or 'jpeg'"
            )
        if encoding not in _DECODERS:
            raise RecordError(
                f"{folder}: the column {name!r} is encoded as {encoding!r}; read are {', '.join(_DECODERS)}"
            )
    if not (folder / shard["raw_data"]["basename"]).is_file():
        packed = (shard.get("zip_data") or {}).get("basename")
        remedy = f"unpack {packed} ({shard.get('compression')}) first" if packed else "copy the folder again"
        raise RecordError(f"{folder}: no file {shard['raw_data']['basename']}; {remedy}")


def _samples(folder: Path, shard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    path = folder / shard["raw_data"]["basename"]
    if path.parent.resolve() != folder.resolve():
        raise RecordError(f"{path}: a shard lies outside its folder")
    data, number = path.read_bytes(), -1
    try:
        (count,) = struct.unpack_from("<I", data)
        if count != shard["samples"]:
            raise ValueError(f"{count} samples where the index says {shard['samples']}")
        offsets = struct.unpack_from(f"<{count + 1}I", data, 4)
        for number in range(count):
            if not offsets[number] <= offsets[number + 1] <= len(data):
                raise ValueError("the file is cut short")
            yield _sample(data[offsets[number] : offsets[number + 1]], shard)
    except (struct.error, ValueError) as error:
        raise RecordError(f"{path}: sample {number + 1}: damaged ({error}); copy it again") from error


def _sample(data: bytes, shard: Mapping[str, Any]) -> dict[str, Any]:
    fixed = shard["column_sizes"]
    free = sum(1 for size in fixed if not size)
    sizes = iter(struct.unpack_from(f"<{free}I", data))
    at, row = 4 * free, {}
    for name, encoding, size in zip(shard["column_names"], shard["column_encodings"], fixed, strict=True):
        end = at + (size or next(sizes))
        if end > len(data):
            raise ValueError(f"the column {name!r} is cut short")
        row[name], at = _DECODERS[encoding](data[at:end]), end
    return row
