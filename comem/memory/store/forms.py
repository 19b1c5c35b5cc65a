"""How one memory `(q, d)` becomes bytes: exact forms, and int8 with a scale per vector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

from comem.tables import Table


class Form(Protocol):
    """Packs memories into rows of bytes; every row has the same length.

    Attributes:
        name: as in the manifest.
        queries, width: `(q, d)` of a memory.
        stride: bytes of one memory.
    """

    @property
    def name(self) -> str: ...

    @property
    def queries(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def stride(self) -> int: ...

    def pack(self, memories: np.ndarray) -> np.ndarray:
        """float32 `(n, q, d)` to uint8 `(n, stride)`."""

    def unpack(self, rows: np.ndarray) -> np.ndarray:
        """uint8 `(n, stride)` to float32 `(n, q, d)`."""


@dataclass(frozen=True)
class Float32:
    """Little-endian float32: 112 KiB an item at 8 × 3584."""

    name: ClassVar[str] = "fp32"
    queries: int
    width: int

    @property
    def stride(self) -> int:
        return 4 * self.queries * self.width

    def pack(self, memories: np.ndarray) -> np.ndarray:
        return _rows(memories.astype("<f4", copy=False))

    def unpack(self, rows: np.ndarray) -> np.ndarray:
        return _numbers(rows, "<f4").reshape(-1, self.queries, self.width)


@dataclass(frozen=True)
class BFloat16:
    """The upper half of float32, rounded to nearest even: 56 KiB an item at 8 × 3584."""

    name: ClassVar[str] = "bf16"
    queries: int
    width: int

    @property
    def stride(self) -> int:
        return 2 * self.queries * self.width

    def pack(self, memories: np.ndarray) -> np.ndarray:
        bits = np.ascontiguousarray(memories, dtype=np.float32).view(np.uint32)
        rounded = bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))
        return _rows((rounded >> 16).astype("<u2"))

    def unpack(self, rows: np.ndarray) -> np.ndarray:
        bits = _numbers(rows, "<u2").astype(np.uint32) << 16
        return bits.view(np.float32).reshape(-1, self.queries, self.width)


@dataclass(frozen=True)
class Float16:
    """IEEE half precision: finer than bfloat16 in its range, which ends at 65,504."""

    name: ClassVar[str] = "fp16"
    queries: int
    width: int

    @property
    def stride(self) -> int:
        return 2 * self.queries * self.width

    def pack(self, memories: np.ndarray) -> np.ndarray:
        largest = float(np.abs(memories).max(initial=0.0))
        if largest > 65504:
            raise ValueError(f"a memory holds {largest:g}, beyond float16 (65,504); store it as bf16")
        return _rows(memories.astype("<f2"))

    def unpack(self, rows: np.ndarray) -> np.ndarray:
        return _numbers(rows, "<f2").astype(np.float32).reshape(-1, self.queries, self.width)


@dataclass(frozen=True)
class Int8:
    """Per vector a float32 scale (its largest magnitude / 127), then `d` signed bytes: 28 KiB at 8 × 3584."""

    name: ClassVar[str] = "int8"
    queries: int
    width: int

    @property
    def stride(self) -> int:
        return self.queries * (4 + self.width)

    def pack(self, memories: np.ndarray) -> np.ndarray:
        scales = (np.abs(memories).max(axis=-1, keepdims=True) / 127).astype("<f4")  # (n, q, 1)
        steps = np.rint(memories / np.maximum(scales, np.finfo(np.float32).tiny))
        codes = np.clip(steps, -127, 127).astype(np.int8)
        return np.concatenate([_rows(scales), _rows(codes)], axis=1)

    def unpack(self, rows: np.ndarray) -> np.ndarray:
        scales = _numbers(rows[:, : 4 * self.queries], "<f4").reshape(-1, self.queries, 1)
        codes = _numbers(rows[:, 4 * self.queries :], "i1").reshape(-1, self.queries, self.width)
        return codes.astype(np.float32) * scales


#: Forms that need nothing but the sizes. The product-quantised ones (pq, prq) bring a trained codec.
PLAIN_FORMS: Table[Callable[[int, int], Form]] = Table(
    "form of a memory bank",
    {"fp32": Float32, "bf16": BFloat16, "fp16": Float16, "int8": Int8},
)
QUANTIZED_FORMS = ("pq", "prq")


def open_form(name: str, queries: int, width: int, folder: Path, codec_sha256: str | None) -> Form:
    """The form of a store; reads its codec if it has one.

    Raises:
        ValueError: an unknown form, or a codec that is missing or was changed.
    """
    if name in QUANTIZED_FORMS:
        from comem.memory.store.quantized import open_codec

        return open_codec(name, queries, width, folder, codec_sha256)
    return PLAIN_FORMS[name](queries, width)


def _rows(numbers: np.ndarray) -> np.ndarray:
    """Any `(n, …)` as bytes `(n, m)`."""
    flat = numbers.reshape(len(numbers), int(np.prod(numbers.shape[1:])))
    return np.ascontiguousarray(flat).view(np.uint8)


def _numbers(rows: np.ndarray, dtype: str) -> np.ndarray:
    """Bytes `(n, m)` as numbers of a type."""
    return np.ascontiguousarray(rows).view(dtype)
