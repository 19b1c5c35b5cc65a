"""What lies where in a store's folder: file names, the manifest, the entry of an item.

Nothing here (nor in the reader and the writer) imports torch: a store opens in milliseconds.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from comem.io.files import read_json, sha256_of, write_atomic, write_sealed
from comem.io.run_folder import run_manifest
from comem.types import ImageRef, KnowledgeItem

logger = logging.getLogger(__name__)

FORMAT = "comem-memory-store"
VERSION = 1
MANIFEST, TABLE, IDS, LOOKUP = "store.json", "table.bin", "ids.bin", "lookup.bin"
LOCK, CODEC, BUILDS = "lock", "codec.safetensors", "builds.jsonl"
SHARD_BYTES = 1 << 30  # files large enough to be few, small enough to copy
REPAIR = "run comem bank verify --drop-damaged, then build again (only what is lost is encoded)"
REMOVED = (
    1  # flag of an entry that says: this id is no longer here; the other bits are its append's own number
)

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
    write_sealed(folder / MANIFEST, about)


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
    except (TypeError, KeyError, AttributeError) as error:
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
    """16 bytes of BLAKE2b over passage, image file and video, as they are; the id does not count.

    The pixels are not decoded: the same image saved anew counts as changed.

    Raises:
        ValueError: the image file cannot be read; names item and file.
    """
    text = item.text.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(digest_size=16, person=b"comem-item-1")
    digest.update(len(text).to_bytes(8, "little") + text)
    if item.image is not None:
        try:
            image, path = item.image, item.image.path
            found = _hash(image.data) if path is None else _file_hash(image, _changed(path, image.fault))
        except (OSError, ValueError) as error:
            raise ValueError(f"knowledge item {item.id!r}: {error}; check the image folder") from error
        digest.update(found)
    if item.video is not None:
        digest.update(_video_hash(item))
    return digest.digest()


def _video_hash(item: KnowledgeItem) -> bytes:
    """Of a segment: the film's content, and which part of it."""
    video = item.video
    if video is None or video.path is None:
        return repr(video and (video._digest, video.start, video.end, video.fps)).encode()
    try:
        film = _film_hash(video.path, _changed(video.path, video.fault))
    except (OSError, ValueError) as error:
        raise ValueError(f"knowledge item {item.id!r}: {error}; check the video folder") from error
    return film + repr((video.start, video.end, video.fps)).encode()


def _changed(path: str, fault: str) -> int:
    """When a file was written; what never ends (a pipe, a device) is not read."""
    if fault:
        raise ValueError(f"{path}: {fault}")
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path}: not a regular file")
    return found.st_mtime_ns


@lru_cache(maxsize=64)  # the segments of a film come in a row
def _film_hash(path: str, changed: int) -> bytes:
    return bytes.fromhex(sha256_of(path))


@lru_cache(maxsize=4096)  # in WIT several items in a row show one image
def _file_hash(image: ImageRef, changed: int) -> bytes:
    from comem.io.images import image_bytes  # Pillow: a store opens without it

    return _hash(image_bytes(image))


def _hash(data: bytes | None) -> bytes:
    return hashlib.blake2b(data or b"", digest_size=16).digest()


MAGIC = b"CMLOOKUP"
#: magic, version, whether keys and slots have a CRC, entries covered, keys, CRC of the last entry covered,
#: CRC of this header before it, CRC of keys and slots
HEADER = struct.Struct("<8sIIQQIII20x")
_CHECKED = 36  # bytes of the header before its CRC
_SCAN = 1 << 16  # entries read at once
_CHEAP = 1 << 20  # bytes of lookup.bin up to which it is checked when the store is opened


class EntryTable:
    """Which slot holds the memory of an id; what a writer adds is known at once, to itself.

    lookup.bin is a help that is not believed blindly: an id found by it is compared with the entry's, and
    before one counts as missing it is checked whole, once; where it is damaged the table is read instead.

    Args:
        folder: of a store; without table.bin it is empty.

    Attributes:
        promised: entries that were written, by lookup.bin: with fewer here, table.bin was cut or changed.
        lookup_fault: what is wrong with lookup.bin, as far as it has been checked.
        lookup_crc: the checksum of what it holds; None where it has none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._keys = np.zeros(0, dtype=np.uint64)  # (m,), sorted
        self._slots = np.zeros(0, dtype=np.uint64)  # (m,), of the keys
        self._covered = 0  # entries that keys and slots speak for
        self._tail: dict[bytes, int] = {}  # id hash → slot, or -1 for removed; newer than the keys
        self.count = self.promised = 0
        self.lookup_fault = ""
        self.lookup_crc: int | None = None
        self._trusted = False
        self._last = b""  # the entry that was the last one when the table was read
        self._table = self._ids = -1
        self.refresh()

    def refresh(self) -> None:
        """Read what a writer has appended since."""
        if self._table < 0 and not self._open():
            return
        if self._covered == 0 and not self.lookup_fault:  # before the table's size, which may grow in between
            self._load_lookup()
        count = _valid_count(self._table)
        if count < self._covered:  # the table was cut, or replaced by an older one
            self._keys, self._slots, self._covered, self._tail = _none(), _none(), 0, {}
            self.count = 0
        elif self.count > self._covered and self.raw(self.count - 1) != self._last:
            self._tail, self.count = {}, 0  # a writer took back what it could not finish, and others followed
        start = max(self.count, self._covered)
        for first in range(start, count, _SCAN):
            for slot, entry in self._valid(first, min(first + _SCAN, count)):
                self.note(entry["id_hash"].tobytes(), slot, bool(entry["flags"] & REMOVED))
        self.count = count
        self._last = self.raw(count - 1) if count else b""

    def note(self, key: bytes, slot: int, removed: bool) -> None:
        """Let an entry count, as the newest of its id."""
        self._tail[key] = -1 if removed else slot
        self.count = max(self.count, slot + 1)

    @property
    def uncovered(self) -> int:
        """Entries that lookup.bin does not speak for yet."""
        return len(self._tail)

    @property
    def covered(self) -> int:
        """Entries that lookup.bin speaks for."""
        return self._covered

    def slot(self, item_id: str) -> int:
        """The slot of an id, or -1."""
        key = id_hash(item_id)
        slot = self._place(key)
        if slot < 0 and not self._trusted:
            self.check_lookup()
            slot = self._place(key)
        return slot

    def _place(self, key: bytes) -> int:
        """The slot of an id's hash, or -1."""
        if (slot := self._tail.get(key)) is None:
            return self._find(key)
        return slot if slot < 0 or self.raw(slot)[: len(key)] == key else -1

    def check_lookup(self) -> None:
        """Read lookup.bin through, once; where it is damaged, the table says what is where."""
        if self._trusted or self._covered == 0:
            self._trusted = True
            return
        self._trusted = True
        if not self._lookup_is_right():
            self.lookup_fault = f"{LOOKUP} was changed"
            logger.warning("%s: it was changed; %s is read instead", self.folder / LOOKUP, TABLE)
            self.rebuild(self.lookup_fault)

    def rebuild(self, reason: str) -> None:
        """Read what is where from the table alone."""
        self._trusted, self.lookup_fault = True, reason
        self._keys, self._slots, self._covered, self._tail, self.count = _none(), _none(), 0, {}, 0
        self.refresh()

    def _lookup_is_right(self) -> bool:
        if self.lookup_crc is not None:
            return zlib.crc32(self._slots.tobytes(), zlib.crc32(self._keys.tobytes())) == self.lookup_crc
        if len(self._slots) == 0:
            return True
        own = np.sort(self._slots)  # of 0.2, without a checksum: each key has to be that of its newest entry
        distinct = bool((own[1:] != own[:-1]).all()) and int(own[-1]) < self._covered
        ordered = bool((self._keys[1:] >= self._keys[:-1]).all())
        if not distinct or not ordered:
            return False
        with open(self.folder / TABLE, "rb") as file:
            table = np.memmap(file, dtype="<u8", mode="r", shape=(self._covered, ENTRY.itemsize // 8))
        order = np.lexsort((table[:, 1], table[:, 0]))  # stable: of entries of one id, the newest comes last
        hashes = table[order, :2]  # (n, 2)
        newest = np.ones(self._covered, dtype=bool)
        newest[order[:-1]] = (hashes[1:] != hashes[:-1]).any(axis=1)
        slots = self._slots.astype(np.int64)
        return bool((table[slots, 0] == self._keys).all() and newest[slots].all())

    def live(self) -> np.ndarray:
        """int64 `(n,)`: the slots that count, in the order in which they were appended."""
        keys, slots = self._merged()
        return np.sort(slots.astype(np.int64))

    def __len__(self) -> int:
        """Number of ids."""
        return len(self._keys) + sum((slot >= 0) - (self._find(key) >= 0) for key, slot in self._tail.items())

    def entry(self, slot: int) -> Any:
        """One entry, as a numpy record."""
        return np.frombuffer(self.raw(slot), dtype=ENTRY)[0]

    def raw(self, slot: int) -> bytes:
        """One entry's bytes."""
        return os.pread(self._table, ENTRY.itemsize, slot * ENTRY.itemsize)

    def entries(self, start: int, stop: int) -> np.ndarray:
        """Entries start … stop - 1, as `ENTRY` records `(stop - start,)`."""
        size = ENTRY.itemsize
        return np.frombuffer(os.pread(self._table, (stop - start) * size, start * size), dtype=ENTRY)

    def id_of(self, entry: Any) -> str:
        """The id of an entry.

        Raises:
            StoreError: entry or id were changed on the disk.
        """
        length, offset = int(entry["id_length"]), int(entry["id_offset"])
        try:
            if offset + length <= os.fstat(self._ids).st_size:
                name = os.pread(self._ids, length, offset).decode("utf-8", "surrogatepass")
                if id_hash(name) == entry["id_hash"].tobytes():
                    return name
        except (UnicodeDecodeError, OverflowError, MemoryError):  # lengths and offsets of any size
            pass
        raise StoreError(f"{self.folder}: an id in {IDS} or its entry in {TABLE} was changed: {REPAIR}")

    def ids(self, slots: Iterable[int] | None = None) -> list[str]:
        """The ids of slots; by default of all that count."""
        return [self.id_of(self.entry(int(slot))) for slot in (self.live() if slots is None else slots)]

    def lost(self) -> str:
        """What to say where fewer entries are here than were written; nothing where all are."""
        others = [self.folder / name for name in (TABLE, IDS, LOOKUP, shard_name(0))]
        written = any(path.is_file() and path.stat().st_size for path in others)
        # Looked for after that: a first writer makes these two before it writes anything.
        gone = [name for name in (TABLE, IDS) if not (self.folder / name).is_file()]
        if gone and written:
            return f"{' and '.join(gone)} is missing, and without it every memory is lost"
        if self.promised <= self.count:
            return ""
        missing = self.promised - self.count
        return f"{TABLE} was cut or changed at its end, {missing} of {self.promised} entries are lost"

    def save_lookup(self) -> None:
        """Write lookup.bin for all entries; call it only when table.bin is on the disk.

        Raises:
            StorageError: no space is left.
        """
        self._keys, self._slots = self._merged()
        self._covered, self._tail = self.count, {}
        last = int(self.entry(self.count - 1)["entry_crc"]) if self.count else 0
        body = self._keys.astype("<u8").tobytes() + self._slots.astype("<u8").tobytes()
        head = HEADER.pack(MAGIC, 1, 1, self.count, len(self._keys), last, 0, 0)
        crcs = zlib.crc32(head[:_CHECKED]), zlib.crc32(body)
        head = HEADER.pack(MAGIC, 1, 1, self.count, len(self._keys), last, *crcs)
        write_atomic(self.folder / LOOKUP, head + body)
        self.lookup_crc, self._trusted, self.lookup_fault = crcs[1], True, ""
        self.promised = self.count

    def close(self) -> None:
        """Let go of the files."""
        for fd in (self._table, self._ids):
            if fd >= 0:
                os.close(fd)
        self._table = self._ids = -1

    def _open(self) -> bool:
        if not (self.folder / TABLE).is_file() or not (self.folder / IDS).is_file():  # see `lost`
            return False
        self._table = os.open(self.folder / TABLE, os.O_RDONLY)
        self._ids = os.open(self.folder / IDS, os.O_RDONLY)
        return True

    def _load_lookup(self) -> None:
        """Map lookup.bin, if it is there and fits the table; a writer may replace it at any moment."""
        try:
            with open(self.folder / LOOKUP, "rb") as file:  # one file from the first check to the mapping
                keys, count = self._checked_lookup(file)
                if count == 0:
                    return
                both = np.zeros((2, 0), dtype=np.uint64)
                if keys:
                    both = np.memmap(file, dtype="<u8", mode="r", offset=HEADER.size, shape=(2, keys))
        except FileNotFoundError:
            return
        self._keys, self._slots, self._covered = both[0], both[1], count
        self._trusted = False
        self._tail, self.count = {}, 0  # what was scanned before may be older than what the keys say
        if both.nbytes <= _CHEAP:
            self.check_lookup()

    def _checked_lookup(self, file: BinaryIO) -> tuple[int, int]:
        """Keys and covered entries of an opened lookup.bin; no entries where it does not fit the table."""
        head, size = file.read(HEADER.size), os.fstat(file.fileno()).st_size
        if len(head) < HEADER.size:
            self.lookup_fault = f"{LOOKUP} was cut"
            return 0, 0
        magic, version, has_crc, count, keys, last, crc, body = HEADER.unpack(head)
        rest = head[HEADER.size - 20 :]
        right = (MAGIC, 1, zlib.crc32(head[:_CHECKED]), bytes(20))
        if (magic, version, crc, rest) != right or (body and not has_crc):
            self.lookup_fault = f"{LOOKUP} was changed"
            return 0, 0
        self.promised, self.lookup_crc = count, body if has_crc else None
        if size != HEADER.size + 16 * keys:
            self.lookup_fault = f"{LOOKUP} was cut"
            return 0, 0
        if count * ENTRY.itemsize > os.fstat(self._table).st_size or count == 0:
            return 0, 0
        return (keys, count) if int(self.entry(count - 1)["entry_crc"]) == last else (0, 0)

    def _find(self, key: bytes) -> int:
        """The slot by the sorted keys, or -1; the keys hold half of the hash, the entry has all of it."""
        half = np.uint64(int.from_bytes(key[:8], "little"))
        place = int(np.searchsorted(self._keys, half))
        while place < len(self._keys) and self._keys[place] == half:
            slot = int(self._slots[place])
            if slot < self._covered and self.raw(slot)[: len(key)] == key:  # where the entry's hash lies
                return slot
            place += 1
        return -1

    def _merged(self) -> tuple[np.ndarray, np.ndarray]:
        """Keys and slots with the tail worked in: sorted by key, removed ids left out."""
        self.check_lookup()
        if not self._tail:
            return self._keys, self._slots
        old = {self._find(key) for key in self._tail}
        stay = ~np.isin(self._slots, np.array(sorted(old - {-1}), dtype=np.uint64))
        alive = [(int.from_bytes(key[:8], "little"), slot) for key, slot in self._tail.items() if slot >= 0]
        new = np.array(alive, dtype=np.uint64).reshape(-1, 2)
        keys = np.concatenate([self._keys[stay], new[:, 0]])
        slots = np.concatenate([self._slots[stay], new[:, 1]])
        order = np.argsort(keys, kind="stable")
        return keys[order], slots[order]

    def _valid(self, start: int, stop: int) -> list[tuple[int, Any]]:
        """Slot and entry of those whose checksum is right."""
        entries = self.entries(start, stop)
        raw, size = entries.tobytes(), ENTRY.itemsize
        return [
            (start + i, entry)
            for i, entry in enumerate(entries)
            if entry_crc(raw[i * size : (i + 1) * size]) == entry["entry_crc"]
        ]


def _none() -> np.ndarray:
    return np.zeros(0, dtype=np.uint64)


def _valid_count(fd: int) -> int:
    """Entries up to the last one with a right checksum: what follows is a torn write."""
    size = ENTRY.itemsize
    count = os.fstat(fd).st_size // size
    while count:
        raw = os.pread(fd, size, (count - 1) * size)
        if len(raw) == size and entry_crc(raw) == int.from_bytes(raw[-4:], "little"):
            break
        count -= 1
    return count


def missing_message(folder: Path, missing: Sequence[str], known: EntryTable) -> str:
    """What to say about ids that are not there; the nearest of the first ten thousand are named."""
    import difflib

    near = difflib.get_close_matches(missing[0], known.ids(known.live()[:10000]), n=3)
    hint = f"did you mean {', '.join(near)}?" if near else "add it with comem bank build, or give an encoder"
    return (
        f"{folder}: {len(missing)} ids are not in this store of {len(known)} items,"
        f" first {missing[0]!r}; {hint}"
    )
