"""The memory bank: memories by item id, in memory and as one safetensors file."""

from __future__ import annotations

import difflib
import json
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from comem.io.files import read_json, write_atomic
from comem.types import KnowledgeItem

_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@contextmanager
def open_tensors(path: str | Path) -> Iterator[Any]:
    """A safetensors file, open; tensors are read when asked for.

    Raises:
        ValueError: missing, half-written, or not safetensors; names the file and the remedy.
    """
    path = Path(path)
    if path.suffix in _PICKLED:
        raise ValueError(
            f"{path}: a pickled file, which can run code when opened, is never loaded: convert it to "
            "safetensors (safetensors.torch.save_file(torch.load(path, weights_only=True), ...))"
        )
    if not path.is_file():
        raise ValueError(f"{path}: no such file; check the path")
    try:
        with safe_open(path, "pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(
            f"{path}: not a complete safetensors file ({error}); it was cut short or is of another format: "
            "delete it and write or copy it again"
        ) from error


def read_tensors(path: str | Path, *, check: bool = True) -> dict[str, Tensor]:
    """All tensors of a file, compared with the checksum of `write_tensors`; errors as `open_tensors`."""
    with open_tensors(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if check:
            _compare(path, tensors, file.metadata() or {})
    return tensors


_CHECKSUM, _CRC = "checksum", "crc32:"


def has_checksum(path: str | Path) -> bool:
    """Whether a file brings a checksum of its content; those of 0.2 have none."""
    return _CHECKSUM in read_metadata(path)


def _compare(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Refuse tensors or metadata that were changed after `write_tensors` had written them."""
    sealed = any(key == _CHECKSUM or value.startswith(_CRC) for key, value in metadata.items())  # or damaged
    if sealed and metadata.get(_CHECKSUM) != _checksum_of(tensors, metadata):
        raise ValueError(
            f"{path}: was changed after it was written (its checksum differs): copy or write it again"
        )


def _checksum_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """CRC-32 over names, types, shapes and bytes of CPU tensors, and the rest of the metadata."""
    crc = 0
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous()
        crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode(), crc)
        if tensor.numel():
            crc = zlib.crc32(tensor.flatten().view(torch.uint8).numpy().data, crc)
    rest = sorted((key, value) for key, value in metadata.items() if key != _CHECKSUM)
    return f"{_CRC}{zlib.crc32(json.dumps(rest).encode(), crc):08x}"


def read_metadata(path: str | Path) -> dict[str, str]:
    """A file's metadata; errors as `open_tensors`."""
    with open_tensors(path) as file:
        return dict(file.metadata() or {})


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a whole safetensors file, or leave what was there.

    Raises:
        StorageError: no space is left.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    known = dict(metadata or {})
    write_atomic(path, save(plain, metadata={**known, _CHECKSUM: _checksum_of(plain, known)}))


def tensor_files(folder: str | Path) -> list[Path]:
    """The safetensors files of a model folder: one, or the shards that its index names.

    Raises:
        ValueError: no weights, or only pickled ones.
    """
    folder = Path(folder)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return [folder / name for name in sorted(set(read_json(index)["weight_map"].values()))]
    for name in ("model.safetensors", "adapter_model.safetensors"):
        if (folder / name).is_file():
            return [folder / name]
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; check the path")
    pickled = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLED)
    if pickled:
        raise ValueError(f"{folder}: only pickled weights ({pickled[0]}): convert them to safetensors")
    raise ValueError(f"{folder}: has no model.safetensors (nor shards with an index): not a model folder")


def tensor_shapes(files: list[Path]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors, without reading them."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        with open_tensors(path) as file:
            shapes.update({n: tuple(file.get_slice(n).get_shape()) for n in file.keys()})  # noqa: SIM118
    return shapes


def stream_tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """All tensors one by one, so that a large checkpoint is never held twice."""
    for path in files:
        with open_tensors(path) as file:
            for name in file.keys():  # noqa: SIM118
                yield name, file.get_tensor(name)


FORMAT = "comem-memory-bank"
VERSION = 1


@dataclass
class Counts:
    """Where the memories came from that a bank gave.

    Attributes:
        cached: out of the cache.
        read: out of the store.
        encoded: made by the encoder, because nothing else had them.
        encoder_calls: how often the encoder was called.
    """

    cached: int = 0
    read: int = 0
    encoded: int = 0
    encoder_calls: int = 0


class Bank(Protocol):
    """Memories by item, for a reader: held in RAM, stored on disk, or made by an encoder when asked for.

    `comem.open_bank` opens those on disk. Subclass it for the defaults.
    """

    @property
    def fingerprint(self) -> str:
        """Of the encoder that made them."""

    @property
    def width(self) -> int:
        """`d`, which must be the reader's embedding width."""

    def of(self, items: Sequence[KnowledgeItem]) -> MemoryBank:
        """The memories of these items, in this order; ValueError if one cannot be had."""

    def describe(self) -> str:
        """Where the memories came from so far, for people."""

    @property
    def counts(self) -> Counts:
        """The same in numbers."""
        return Counts()

    @property
    def opens_images(self) -> bool:
        """Whether `of` opens the items' images as a rule."""
        return False

    def ahead(self, items: Sequence[KnowledgeItem]) -> None:
        """Prepare an `of` to come, in any thread; may do nothing."""
        return None


@dataclass(frozen=True, eq=False)
class MemoryBank:
    """Memories of `n` items, and which encoder made them.

    Attributes:
        embeddings: `(n, q, d)`.
        ids: the item of each row, each once.
        fingerprint: of the encoder (`MemoryEncoder.fingerprint`); a reader must not mix encoders.
    """

    embeddings: Tensor
    ids: tuple[str, ...]
    fingerprint: str
    _rows: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.embeddings.ndim != 3 or len(self.embeddings) != len(self.ids):
            raise ValueError(
                f"a bank of {len(self.ids)} ids needs embeddings of shape ({len(self.ids)}, q, d), "
                f"got {tuple(self.embeddings.shape)}"
            )
        rows = {item_id: row for row, item_id in enumerate(self.ids)}
        if len(rows) != len(self.ids):
            twice = next(i for row, i in enumerate(self.ids) if rows[i] != row)
            raise ValueError(f"knowledge id {twice!r} comes twice: give every item an id of its own")
        object.__setattr__(self, "_rows", rows)

    def checked(self) -> MemoryBank:
        """Itself, if all its numbers are numbers.

        Raises:
            ValueError: a memory holds NaN or infinity; names its item.
        """
        if not torch.isfinite(self.embeddings).all():
            bad = ~torch.isfinite(self.embeddings).flatten(1).all(dim=1)
            raise ValueError(
                f"knowledge item {self.ids[int(bad.int().argmax())]!r}: its memory has NaN or infinity in it"
                f" ({int(bad.sum())} of {len(self)} have): check the encoder, or its dtype"
            )
        return self

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._rows

    def select(self, ids: Sequence[str]) -> MemoryBank:
        """The memories of these items, in this order.

        Raises:
            ValueError: an id is not in the bank (the nearest are named), or comes twice.
        """
        missing = [i for i in ids if i not in self._rows]
        if missing:
            near = difflib.get_close_matches(missing[0], self.ids[:10000], n=3)
            hint = f"did you mean {', '.join(near)}?" if near else "encode it and append it"
            raise ValueError(
                f"{len(missing)} ids are not in the bank of {len(self)} items, first {missing[0]!r}; {hint}"
            )
        rows = torch.tensor([self._rows[i] for i in ids], dtype=torch.long, device=self.embeddings.device)
        return MemoryBank(self.embeddings[rows], tuple(ids), self.fingerprint)

    def of(self, items: Sequence[KnowledgeItem]) -> MemoryBank:
        """The memories of these items, by id; errors as `select`."""
        return self.select([item.id for item in items])

    @property
    def counts(self) -> Counts:
        """As `Bank.counts`: all zero, for everything is in RAM."""
        return Counts()

    @property
    def opens_images(self) -> bool:
        """Never: the memories are there."""
        return False

    def ahead(self, items: Sequence[KnowledgeItem]) -> None:
        """Nothing: all memories are there."""

    def describe(self) -> str:
        """How many memories there are."""
        return f"{len(self):,} in one file, none encoded"

    @property
    def width(self) -> int:
        """`d`."""
        return int(self.embeddings.shape[-1])

    def prefix(self, embeddings: int | None = None) -> Tensor:
        """All memories as one soft prefix `(n·q, d)`, first item first.

        Args:
            embeddings: only so many of each item's, the first ones (an elastic memory); None for all.

        Raises:
            ValueError: there are not so many.
        """
        count = self.embeddings.shape[1]
        if embeddings is not None and not 1 <= embeddings <= count:
            raise ValueError(f"{embeddings} embeddings of each item: these memories have 1 to {count}")
        return self.embeddings[:, :embeddings].flatten(0, 1)

    def append(self, other: MemoryBank) -> MemoryBank:
        """Both banks as one.

        Raises:
            ValueError: other encoder, other sizes, or an id that is in both.
        """
        check_fingerprint(other.fingerprint, self.fingerprint, "the bank to append")
        if other.embeddings.shape[1:] != self.embeddings.shape[1:]:
            raise ValueError(
                f"memories of {tuple(other.embeddings.shape[1:])} do not fit those of "
                f"{tuple(self.embeddings.shape[1:])} in this bank"
            )
        joined = torch.cat([self.embeddings, other.embeddings.to(self.embeddings)])
        return MemoryBank(joined, self.ids + other.ids, self.fingerprint)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> MemoryBank:
        """The bank on another device or in another dtype."""
        return MemoryBank(self.embeddings.to(device=device, dtype=dtype), self.ids, self.fingerprint)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, atomically.

        Raises:
            StorageError: no space is left.
        """
        metadata = {
            "format": FORMAT,
            "version": str(VERSION),
            "fingerprint": self.fingerprint,
            "ids": json.dumps(self.ids, ensure_ascii=False),
        }
        write_tensors(path, {"embeddings": self.embeddings}, metadata)

    @classmethod
    def load(
        cls,
        path: str | Path,
        expect_fingerprint: str | Collection[str] | None = None,
        width: int | None = None,
    ) -> MemoryBank:
        """Read a bank.

        Args:
            path: a .safetensors file.
            expect_fingerprint: of the encoder in use (or those it accepts); None takes any bank.
            width: the reader's embedding width `d`; None takes any.

        Raises:
            ValueError: missing, half-written, not a bank, of a newer version, of another encoder or
                of another width; names the file and the remedy.
        """
        with open_tensors(path) as file:
            meta = file.metadata() or {}
            if meta.get("format") != FORMAT:
                raise ValueError(f"{path}: not a memory bank (no {FORMAT} mark): see `comem encode`")
            try:
                version, fingerprint, ids = int(meta["version"]), meta["fingerprint"], json.loads(meta["ids"])
            except (KeyError, ValueError, RecursionError) as error:
                raise ValueError(f"{path}: says too little of itself ({error}); copy it again") from error
            if version > VERSION:
                raise ValueError(f"{path}: bank version {version}, known is {VERSION}: update comem")
            if "embeddings" not in file.keys():  # noqa: SIM118 (not a dict)
                raise ValueError(f"{path}: holds no embeddings; copy it again, or encode the items anew")
            embeddings = file.get_tensor("embeddings")
            _compare(path, {"embeddings": embeddings}, meta)
        check_fingerprint(fingerprint, expect_fingerprint, str(path))
        bank = cls(embeddings, tuple(map(str, ids)), fingerprint)
        if width is not None and embeddings.shape[-1] != width:
            raise ValueError(
                f"{path}: memories of width {embeddings.shape[-1]}, the reader needs {width}: "
                "encode the items with an encoder for this reader"
            )
        return bank


def check_fingerprint(found: str, expected: str | Collection[str] | None, what: str) -> None:
    """Refuse memories of another encoder.

    Raises:
        ValueError: names what was refused and the remedy.
    """
    accepted = (expected,) if isinstance(expected, str) else expected
    if accepted is not None and found not in accepted:
        wanted = " or ".join(f"{a[:12]}…" for a in accepted)
        raise ValueError(
            f"{what}: made by another encoder (fingerprint {found[:12]}…, expected {wanted}): "
            "encode the items again, or load the encoder that made it"
        )
