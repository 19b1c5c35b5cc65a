"""The content hash of an item: what tells a changed item from one that is stored already."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from comem.types import KnowledgeItem


def content_hash(item: KnowledgeItem) -> bytes:
    """16 bytes of BLAKE2b over passage and image file, as they are; the id does not count.

    The pixels are not decoded: the same picture saved anew counts as changed.

    Raises:
        ValueError: the image file cannot be read; names item and file.
    """
    text = item.text.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(digest_size=16, person=b"comem-item-1")
    digest.update(len(text).to_bytes(8, "little") + text)
    if item.image is not None:
        try:
            picture = _file_hash(item.image.path) if item.image.path is not None else _hash(item.image.data)
        except OSError as error:
            raise ValueError(f"knowledge item {item.id!r}: {error}; check the image folder") from error
        digest.update(picture)
    return digest.digest()


@lru_cache(maxsize=4096)  # in WIT several items in a row show one picture
def _file_hash(path: str) -> bytes:
    return _hash(Path(path).read_bytes())


def _hash(data: bytes | None) -> bytes:
    return hashlib.blake2b(data or b"", digest_size=16).digest()
