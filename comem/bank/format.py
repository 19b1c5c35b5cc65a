"""What lies where in a store's folder: file names, the manifest, the entry of an item.

Nothing here (nor in the reader and the writer) imports torch: a store opens in milliseconds.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from comem.io.files import write_json
from comem.io.jsonl import read_json
from comem.io.manifest import run_manifest
from comem.types import KnowledgeItem

FORMAT = "comem-memory-store"
VERSION = 1
MANIFEST, TABLE, IDS, LOOKUP = "store.json", "table.bin", "ids.bin", "lookup.bin"
LOCK, CODEC, BUILDS = "lock", "codec.safetensors", "builds.jsonl"
SHARD_BYTES = 1 << 30  # files large enough to be few, small enough to copy
REMOVED = 1  # flag of an entry that says: this id is no longer here

#: One item, 64 bytes. Entry i belongs to slot i of the shards; the last entry of an id counts.
ENTRY = np.dtype(
    [
        ("id_hash", "V16"), ("content", "V16"), ("id_offset", "<u8"), ("id_length", "<u4"),
        ("flags", "<u4"), ("time", "<u8"), ("payload_crc", "<u4"), ("entry_crc", "<u4"),
    ]
)  # fmt: skip


class StoreError(ValueError):
    """A store that is missing, damaged, of another version or of another encoder."""


@dataclass(frozen=True)
class EncoderInfo:
    """Which encoder made the memories, and how it was shown the items.

    Attributes:
        fingerprint: `MemoryEncoder.fingerprint()`: decides whether a reader may use the memories.
        prompt, max_chars, min_pixels, max_pixels: the format of the items, for people to read (the
            fingerprint covers them). None where it is not known.
    """

    fingerprint: str
    prompt: str | None = None
    max_chars: int | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None


@dataclass(frozen=True)
class StoreInfo:
    """The manifest: written once, when the store is made, and never changed.

    Attributes:
        form: how a memory is written ("fp32", "bf16", "fp16", "int8", "pq", "prq").
        queries, width: a memory is `(q, d)`.
        stride: bytes of one memory.
        shard_items: slots of one shard file.
        encoder: who made the memories.
        codec_sha256: of codec.safetensors, for the forms that have one.
    """

    form: str
    queries: int
    width: int
    stride: int
    shard_items: int
    encoder: EncoderInfo
    codec_sha256: str | None = None

    def __post_init__(self) -> None:
        for name in ("queries", "width", "stride", "shard_items"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise StoreError(f"{MANIFEST}: {name} is {value!r}, must be a number of at least 1")

    def place(self, slot: int) -> tuple[int, int]:
        """Shard number and byte offset of a slot."""
        shard, row = divmod(slot, self.shard_items)
        return shard, row * self.stride


def default_shard_items(stride: int) -> int:
    """Slots of a shard of about 1 GiB."""
    return max(1, SHARD_BYTES // stride)


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:05d}.bin"


def write_info(folder: Path, info: StoreInfo) -> None:
    """Write the manifest of a new store: from now on the folder is one."""
    about = {"format": FORMAT, "version": VERSION, **asdict(info), "made": run_manifest()}
    write_json(folder / MANIFEST, about)


def read_info(folder: str | Path) -> StoreInfo:
    """The manifest of a store.

    Raises:
        StoreError: no store, of a newer version, or a broken manifest; names file and remedy.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        what = "has no store.json, it is no memory store" if path.parent.is_dir() else "no such folder"
        raise StoreError(f"{folder}: {what}; make one with comem bank build")
    about = read_json(path)
    if not isinstance(about, Mapping) or about.get("format") != FORMAT:
        raise StoreError(f"{path}: not a memory store's manifest; make a store with comem bank build")
    if about.get("version") != VERSION:
        raise StoreError(f"{path}: store version {about.get('version')}, known is {VERSION}: update comem")
    try:
        return StoreInfo(**_known(StoreInfo, about) | {"encoder": EncoderInfo(**about["encoder"])})
    except (TypeError, KeyError) as error:
        raise StoreError(f"{path}: incomplete ({error}); copy it again from the original store") from error


def _known(kind: type[Any], about: Mapping[str, Any]) -> dict[str, Any]:
    names = {each.name for each in fields(kind)}
    return {name: value for name, value in about.items() if name in names}


def is_store(path: str | Path) -> bool:
    """Whether a path is a store's folder (it has a manifest)."""
    return (Path(path) / MANIFEST).is_file()


def id_bytes(item_id: str) -> bytes:
    """An id as it lies in ids.bin."""
    return item_id.encode("utf-8", "surrogatepass")


def id_hash(item_id: str) -> bytes:
    """16 bytes of BLAKE2b over the id."""
    return hashlib.blake2b(id_bytes(item_id), digest_size=16).digest()


def entry_crc(entry: bytes) -> int:
    """CRC-32 over all of an entry (64 bytes) but its last field."""
    return zlib.crc32(entry[:-4])


def content_hash(item: KnowledgeItem) -> bytes:
    """16 bytes of BLAKE2b over passage and image file, as they are; the id does not count.

    The pixels are not decoded: the same image saved anew counts as changed.

    Raises:
        ValueError: the image file cannot be read; names item and file.
    """
    text = item.text.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(digest_size=16, person=b"comem-item-1")
    digest.update(len(text).to_bytes(8, "little") + text)
    if item.image is not None:
        try:
            found = _file_hash(item.image.path) if item.image.path is not None else _hash(item.image.data)
        except OSError as error:
            raise ValueError(f"knowledge item {item.id!r}: {error}; check the image folder") from error
        digest.update(found)
    return digest.digest()


@lru_cache(maxsize=4096)  # in WIT several items in a row show one image
def _file_hash(path: str) -> bytes:
    return _hash(Path(path).read_bytes())


def _hash(data: bytes | None) -> bytes:
    return hashlib.blake2b(data or b"", digest_size=16).digest()
