"""Variables of a TensorFlow SavedModel, read without TensorFlow.

`variables/variables.index` is a sorted table in LevelDB's format: from a variable's key to where its bytes
lie in `variables.data-00000-of-0000N` (tensorflow/core/protobuf/tensor_bundle.proto). One key holds the graph
of objects, which says what each variable is called (trackable_object_graph.proto).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from comem.io.files import RecordError

INDEX = "variables/variables.index"
_GRAPH = b"_CHECKPOINTABLE_OBJECT_GRAPH"
_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
#: Of DataType: what weights are stored in. Others (counters, strings) are passed over.
_KINDS = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}


def is_saved_model(folder: str | Path) -> bool:
    """Whether a folder is a SavedModel with variables."""
    return (Path(folder) / INDEX).is_file()


def read_variables(folder: str | Path) -> dict[str, Any]:
    """A SavedModel's variables by their full names, as NumPy arrays.

    Raises:
        RecordError: a file that is missing, cut short or of another format; names it.
    """
    index = Path(folder) / INDEX
    try:
        entries = dict(_table(index.read_bytes()))
        bundle = _Bundle(index, entries)
        names = bundle.names()
        return {
            names.get(key, key.decode()): value for key in entries if (value := bundle.array(key)) is not None
        }
    except (OSError, ValueError, IndexError, KeyError, struct.error) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(f"{index}: not a whole SavedModel's variables ({error}); fetch it again") from error


class _Bundle:
    """The tensors of an index and its files of data."""

    def __init__(self, index: Path, entries: dict[bytes, bytes]) -> None:
        self.index, self.entries = index, entries
        header = dict(_fields(entries[b""]))
        self.shards = int(header.get(1, 1))

    def _bytes(self, key: bytes) -> tuple[int, tuple[int, ...], bytes]:
        """Type, shape and bytes of an entry (BundleEntryProto)."""
        fields = dict(_fields(self.entries[key]))
        sizes = [dict(_fields(dim)).get(1, 0) for number, dim in _fields(fields.get(2, b"")) if number == 2]
        shard, offset, size = (int(fields.get(number, 0)) for number in (3, 4, 5))
        file = self.index.with_name(f"variables.data-{shard:05d}-of-{self.shards:05d}")
        with open(file, "rb") as stream:
            stream.seek(offset)
            data = stream.read(size)
        if len(data) != size:
            raise RecordError(f"{file}: cut short; fetch it again")
        return int(fields.get(1, 0)), tuple(sizes), data

    def array(self, key: bytes) -> Any | None:
        """A tensor of numbers; None for anything else."""
        import numpy as np

        kind = dict(_fields(self.entries[key])).get(1) if key else None
        if kind not in _KINDS:
            return None
        _, shape, data = self._bytes(key)
        values = np.frombuffer(data, _KINDS[kind])
        if math.prod(shape) != values.size:
            raise RecordError(f"{self.index}: {key.decode()} has {values.size} values for the shape {shape}")
        return values.reshape(shape)

    def names(self) -> dict[bytes, str]:
        """Full names by key, where the objects' graph has them."""
        if _GRAPH not in self.entries:
            return {}
        _, _, data = self._bytes(_GRAPH)
        length, at = _varint(data, 0)
        graph = data[at + 4 : at + 4 + length]  # the lengths' checksum lies between
        found = {}
        for number, node in _fields(graph):
            for part, value in _fields(node) if number == 1 else ():
                if part == 2:  # SerializedTensor: name, full_name, checkpoint_key
                    tensor = dict(_fields(value))
                    if tensor.get(2):
                        found[bytes(tensor[3])] = bytes(tensor[2]).decode()
        return found


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a sorted table."""
    if len(data) < _FOOTER or struct.unpack("<Q", data[-8:])[0] != _MAGIC:
        raise ValueError("no table")
    at = len(data) - _FOOTER
    for _ in range(2):  # the first handle is that of the table's own description
        offset, at = _varint(data, at)
        size, at = _varint(data, at)
    for _, handle in _block(data, offset, size):
        start, after = _varint(handle, 0)
        length, _ = _varint(handle, after)
        yield from _block(data, start, length)


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block: each key shares its beginning with the one before."""
    block = data[offset : offset + size]
    if data[offset + size] != 0:
        raise ValueError("a compressed table, which TensorFlow does not write")
    end = len(block) - 4 * (struct.unpack("<I", block[-4:])[0] + 1)
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + own]
        yield key, block[at + own : at + own + length]
        at += own + length


def _fields(message: Any) -> Iterator[tuple[int, Any]]:
    """The fields of a protocol buffer: number, and an int or bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7 == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        if tag & 7 == 2:
            length, at = _varint(message, at)
        else:
            length = {1: 8, 5: 4}[tag & 7]
        yield tag >> 3, message[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
