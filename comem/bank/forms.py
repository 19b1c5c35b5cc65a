"""How one memory `(q, d)` becomes bytes: exact forms, int8 with a scale per vector, and product quantisation.

A form has a `name` (as in the manifest), `queries` and `width` (q and d of a memory), and `stride`, the bytes
of one memory. `pack` takes float32 `(n, q, d)` to uint8 `(n, stride)`, `unpack` brings them back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from comem.bank.format import CODEC, StoreError, StoreInfo
from comem.io.files import write_atomic
from comem.registry import Registry


@dataclass(frozen=True)
class Float32:
    """Little-endian float32: 112 KiB an item at 8 × 3584."""

    name: ClassVar[str] = "fp32"
    stored: ClassVar[str] = "<f4"
    queries: int
    width: int

    @property
    def stride(self) -> int:
        """Bytes of an item."""
        return np.dtype(self.stored).itemsize * self.queries * self.width

    def pack(self, memories: np.ndarray) -> np.ndarray:
        """float32 `(n, q, d)` to bytes `(n, stride)`."""
        return _rows(memories.astype(self.stored, copy=False))

    def unpack(self, rows: np.ndarray) -> np.ndarray:
        """Bytes `(n, stride)` to float32 `(n, q, d)`."""
        found = _numbers(rows, self.stored).astype(np.float32, copy=False)
        return found.reshape(-1, self.queries, self.width)


class Float16(Float32):
    """IEEE half precision: finer than bfloat16 in its range, which ends at 65,504."""

    name, stored = "fp16", "<f2"

    def pack(self, memories: np.ndarray) -> np.ndarray:
        """As `Float32.pack`; a ValueError where a number is beyond float16."""
        largest = float(np.abs(memories).max(initial=0.0))
        if largest > 65504:
            raise ValueError(f"a memory holds {largest:g}, beyond float16 (65,504); store it as bf16")
        return super().pack(memories)


class BFloat16(Float32):
    """The upper half of float32, rounded to nearest even: 56 KiB an item at 8 × 3584."""

    name, stored = "bf16", "<u2"

    def pack(self, memories: np.ndarray) -> np.ndarray:
        """As `Float32.pack`, each number rounded to its upper 16 bits."""
        bits = np.ascontiguousarray(memories, dtype=np.float32).view(np.uint32)
        return super().pack((bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16)

    def unpack(self, rows: np.ndarray) -> np.ndarray:
        """As `Float32.unpack`; exact."""
        bits = _numbers(rows, self.stored).astype(np.uint32) << 16
        return bits.view(np.float32).reshape(-1, self.queries, self.width)


class Int8(Float32):
    """Per vector a float32 scale (its largest magnitude / 127), then `d` signed bytes: 28 KiB at 8 × 3584."""

    name = "int8"

    @property
    def stride(self) -> int:
        """Bytes of an item, scales included."""
        return self.queries * (4 + self.width)

    def pack(self, memories: np.ndarray) -> np.ndarray:
        """As `Float32.pack`: an item's scales, then its codes."""
        scales = (np.abs(memories).max(axis=-1, keepdims=True) / 127).astype("<f4")  # (n, q, 1)
        steps = np.rint(memories / np.maximum(scales, np.finfo(np.float32).tiny))
        codes = np.clip(steps, -127, 127).astype(np.int8)
        return np.concatenate([_rows(scales), _rows(codes)], axis=1)

    def unpack(self, rows: np.ndarray) -> np.ndarray:
        """As `Float32.unpack`: each code times its vector's scale."""
        scales = _numbers(rows[:, : 4 * self.queries], "<f4").reshape(-1, self.queries, 1)
        codes = _numbers(rows[:, 4 * self.queries :], "i1").reshape(-1, self.queries, self.width)
        return cast(np.ndarray, codes.astype(np.float32) * scales)


#: Forms that need nothing but the sizes. The product-quantised ones (pq, prq) bring a trained codec.
PLAIN_FORMS: Registry[Callable[[int, int], Float32]] = Registry(
    "form of a memory bank",
    {"fp32": Float32, "bf16": BFloat16, "fp16": Float16, "int8": Int8},
)
QUANTIZED_FORMS = ("pq", "prq")


def _rows(numbers: np.ndarray) -> np.ndarray:
    """Any `(n, …)` as bytes `(n, m)`."""
    flat = numbers.reshape(len(numbers), int(np.prod(numbers.shape[1:])))
    return np.ascontiguousarray(flat).view(np.uint8)


def _numbers(rows: np.ndarray, dtype: str) -> np.ndarray:
    """Bytes `(n, m)` as numbers of a type."""
    return np.ascontiguousarray(rows).view(dtype)


CENTROIDS = 256  # one byte a code
STAGES = {"pq": 1, "prq": 2}
DIMENSIONS_PER_BYTE = 7  # 3584 / 512: 8 vectors of 512 bytes are 4 KiB
_ROUNDS = 2  # times that every stage is chosen again, given the others


@dataclass(frozen=True, eq=False)
class Quantized:
    """A trained codec.

    Attributes:
        name: "pq" or "prq".
        mean: float32 `(q, d)`.
        codebooks: float32 `(splits, stages, 256, d / splits)`.
    """

    name: str
    mean: np.ndarray
    codebooks: np.ndarray
    _norms: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        splits, stages, centroids, part = self.codebooks.shape
        if (stages, centroids, splits * part) != (STAGES[self.name], CENTROIDS, self.width):
            raise StoreError(f"codebooks of {self.codebooks.shape} do not make {self.name} of {self.width}")
        object.__setattr__(self, "_norms", (self.codebooks**2).sum(-1))

    @property
    def queries(self) -> int:
        """Vectors of an item, `q`."""
        return int(self.mean.shape[0])

    @property
    def width(self) -> int:
        """Width `d` of a vector."""
        return int(self.mean.shape[1])

    @property
    def stride(self) -> int:
        """Bytes of an item: one a code."""
        splits, stages = self.codebooks.shape[:2]
        return int(self.queries * splits * stages)

    def pack(self, memories: np.ndarray) -> np.ndarray:
        """float32 `(n, q, d)` to codes uint8 `(n, q · splits · stages)`, stage by stage within a split."""
        splits, stages, _, part = self.codebooks.shape
        n = len(memories)
        targets = (memories - self.mean).reshape(n * self.queries, splits, part).transpose(1, 0, 2)
        codes = np.zeros((splits, stages, n * self.queries), dtype=np.uint8)
        for turn in range(1 if stages == 1 else 1 + _ROUNDS):
            for stage in range(stages):
                known = range(stage) if turn == 0 else (s for s in range(stages) if s != stage)
                rest = targets - sum((self._chosen(codes, s) for s in known), np.float32(0))
                codes[:, stage] = self._nearest(rest, stage)
        return np.ascontiguousarray(codes.transpose(2, 0, 1)).reshape(n, self.stride)

    def unpack(self, rows: np.ndarray) -> np.ndarray:
        """Codes uint8 `(n, stride)` to float32 `(n, q, d)`: the chosen centroids' sum, and the mean."""
        splits, stages = self.codebooks.shape[:2]
        codes = rows.reshape(len(rows) * self.queries, splits, stages).transpose(1, 2, 0)
        summed = sum((self._chosen(codes, stage) for stage in range(stages)), np.float32(0))
        flat = np.asarray(summed).transpose(1, 0, 2).reshape(len(rows), self.queries, self.width)
        return cast(np.ndarray, flat + self.mean)

    def _chosen(self, codes: np.ndarray, stage: int) -> np.ndarray:
        """`(splits, m, part)`: the centroids that codes `(splits, stages, m)` name in one stage."""
        return np.stack([book[stage, code[stage]] for book, code in zip(self.codebooks, codes, strict=True)])

    def _nearest(self, rest: np.ndarray, stage: int) -> np.ndarray:
        """uint8 `(splits, m)`: the centroid nearest to rest `(splits, m, part)`."""
        products = rest @ self.codebooks[:, stage].transpose(0, 2, 1)  # (splits, m, 256)
        nearest: np.ndarray = (self._norms[:, stage, None] - 2 * products).argmin(-1)
        return nearest.astype(np.uint8)


Form = Float32 | Quantized


def open_form(folder: Path, info: StoreInfo) -> Form:
    """The form of a store; reads its codec if it has one.

    Raises:
        ValueError: an unknown form, a codec that is missing or was changed, or another size than it says.
    """
    if info.form in QUANTIZED_FORMS:
        form: Form = open_codec(info.form, info.queries, info.width, folder, info.codec_sha256)
    else:
        form = PLAIN_FORMS[info.form](info.queries, info.width)
    if form.stride != info.stride:
        raise StoreError(
            f"{folder}: the manifest says {info.stride} bytes an item, the form {info.form} has"
            f" {form.stride}: copy store.json again from the original"
        )
    return form


def splits_of(name: str, width: int) -> int:
    """Splits of a vector: as many as divide it and stay within a byte per seven dimensions.

    Raises:
        StoreError: the width is too small for that.
    """
    most = width // DIMENSIONS_PER_BYTE // STAGES[name]
    if most < 1:
        raise StoreError(f"{name}: width {width} is too small; store it as int8")
    return next(splits for splits in range(most, 0, -1) if width % splits == 0)


def train_codec(name: str, memories: np.ndarray, seed: int = 0, iterations: int = 20) -> Quantized:
    """Train a codec on a sample by k-means, stage after stage on what the stages before leave.

    Args:
        name: "pq" or "prq".
        memories: float32 `(n, q, d)`; `n · q` of at least 256 (better 10,000).
        seed: of k-means.
        iterations: of k-means, in each stage.

    Raises:
        StoreError: too few memories, or too narrow ones.
    """
    import faiss

    n, queries, width = memories.shape
    if n * queries < CENTROIDS:
        raise StoreError(f"{name}: {n} items give {n * queries} vectors, {CENTROIDS} are needed to train it")
    splits, stages = splits_of(name, width), STAGES[name]
    part = width // splits
    mean = memories.mean(axis=0, dtype=np.float64).astype(np.float32)
    vectors = (memories - mean).reshape(n * queries, splits, part)
    books = np.zeros((splits, stages, CENTROIDS, part), dtype=np.float32)
    for split in range(splits):
        rest = np.ascontiguousarray(vectors[:, split])
        for stage in range(stages):
            kmeans = faiss.Kmeans(
                part, CENTROIDS, niter=iterations, seed=seed + stage, min_points_per_centroid=1
            )
            kmeans.train(rest)
            books[split, stage] = kmeans.centroids
            _, nearest = kmeans.assign(rest)
            rest = rest - books[split, stage][nearest]
    return Quantized(name, mean, books)


def write_codec(folder: Path, codec: Quantized) -> str:
    """Write codec.safetensors; its SHA-256."""
    tensors = {"mean": codec.mean.astype("<f4"), "codebooks": codec.codebooks.astype("<f4")}
    data = save(tensors, metadata={"format": "comem-memory-codec-1"})  # one entry: more have no fixed order
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / CODEC, data)
    return hashlib.sha256(data).hexdigest()


def open_codec(name: str, queries: int, width: int, folder: Path, sha256: str | None) -> Quantized:
    """Read codec.safetensors.

    Raises:
        StoreError: missing, changed, or of other sizes.
    """
    path = folder / CODEC
    if not path.is_file():
        raise StoreError(f"{path}: missing, the memories cannot be read without it: copy it again")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise StoreError(f"{path}: was changed since the store was made: copy it again from the original")
    try:
        tensors = load(data)
        codec = Quantized(name, tensors["mean"], tensors["codebooks"])
    except (SafetensorError, KeyError) as error:
        raise StoreError(f"{path}: not a codec ({error}): copy it again from the original") from error
    if (codec.queries, codec.width) != (queries, width):
        raise StoreError(f"{path}: of memories {codec.queries} × {codec.width}, not {queries} × {width}")
    return codec
