"""Product quantisation: the same as FAISS's with the same codebooks, as good as FAISS's when trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from comem.bank.format import CODEC, StoreError
from comem.bank.forms import Quantized, open_codec, splits_of, train_codec, write_codec

faiss = pytest.importorskip("faiss")


@pytest.fixture(scope="module")
def memories() -> np.ndarray:
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((40, 2, 32)).astype("f4")
    noise = generator.standard_normal((1000, 2, 32)).astype("f4")
    return centres[generator.integers(0, 40, 1000)] + 0.3 * noise + 5


def error(codec: Quantized, memories: np.ndarray) -> float:
    return float(((codec.unpack(codec.pack(memories)) - memories) ** 2).mean())


def test_at_most_4_kib_at_7b() -> None:
    assert splits_of("pq", 3584) == 512 and splits_of("prq", 3584) == 256  # × 2 stages × 8 vectors = 4 KiB
    assert splits_of("pq", 128) == 16 and splits_of("prq", 128) == 8
    with pytest.raises(StoreError, match="too small; store it as int8"):
        splits_of("prq", 13)


def test_pq_codes_are_those_of_faiss(memories: np.ndarray) -> None:
    codec = train_codec("pq", memories)
    splits, _, _, part = codec.codebooks.shape
    reference = faiss.ProductQuantizer(32, splits, 8)
    faiss.copy_array_to_vector(np.ascontiguousarray(codec.codebooks[:, 0]).reshape(-1), reference.centroids)
    flat = np.ascontiguousarray((memories - codec.mean).reshape(-1, 32))
    codes = reference.compute_codes(flat)
    assert (codec.pack(memories).reshape(-1, splits) == codes).mean() > 0.999  # ties in the last bit
    decoded = reference.decode(codes).reshape(memories.shape) + codec.mean
    assert codec.unpack(codes.reshape(len(memories), -1)) == pytest.approx(decoded, abs=1e-5)


@pytest.mark.parametrize("name", ["pq", "prq"])
def test_trained_as_well_as_faiss(memories: np.ndarray, name: str) -> None:
    train, test = memories[:800], memories[800:]
    codec = train_codec(name, train)
    splits, stages = codec.codebooks.shape[:2]
    if name == "pq":
        reference = faiss.ProductQuantizer(32, splits, 8)
    else:
        reference = faiss.ProductResidualQuantizer(32, splits, stages, 8)
    mean = train.mean(axis=0)
    reference.train(np.ascontiguousarray((train - mean).reshape(-1, 32)))
    flat = np.ascontiguousarray((test - mean).reshape(-1, 32))
    theirs = float(((reference.decode(reference.compute_codes(flat)) - flat) ** 2).mean())
    assert error(codec, test) < 1.1 * theirs
    assert error(codec, test) < 0.5 * float((flat**2).mean())


def test_the_codec_goes_round(memories: np.ndarray, tmp_path: Path) -> None:
    codec = train_codec("prq", memories[:300])
    sha256 = write_codec(tmp_path, codec)
    back = open_codec("prq", 2, 32, tmp_path, sha256)
    assert np.array_equal(back.pack(memories), codec.pack(memories))
    assert codec.pack(memories).shape == (1000, codec.stride) and codec.pack(memories[:0]).shape[0] == 0
    assert back.unpack(codec.pack(memories[:0])).shape == (0, 2, 32)
    with pytest.raises(StoreError, match="codec.safetensors: of memories 2 × 32, not 4 × 16"):
        open_codec("prq", 4, 16, tmp_path, sha256)
    (tmp_path / CODEC).write_bytes((tmp_path / CODEC).read_bytes()[:-1])
    with pytest.raises(StoreError, match="was changed since"):
        open_codec("prq", 2, 32, tmp_path, sha256)
    (tmp_path / CODEC).unlink()
    with pytest.raises(StoreError, match="missing"):
        open_codec("prq", 2, 32, tmp_path, sha256)


def test_too_few_to_train(memories: np.ndarray) -> None:
    with pytest.raises(StoreError, match="100 items give 200 vectors, 256 are needed"):
        train_codec("pq", memories[:100])
