"""Shards of embeddings: the layout that other tools read, resuming, and batches prepared ahead."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from comem.io.files import StorageError
from comem.retrieval.embed import PLAN, embed_inputs
from comem.retrieval.evaluate import RawPixels


@pytest.fixture()
def paths(tmp_path: Path) -> list[str]:
    for i in range(23):
        noise = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i}.png")
    (tmp_path / "7.png").write_bytes(b"<html>no picture</html>")
    return [str(tmp_path / f"{i}.png") for i in range(23)]


class Watched(RawPixels):
    """Counts what it embeds, and notes in which threads pictures are prepared."""

    def __init__(self) -> None:
        super().__init__(4)
        self.embedded, self.threads = 0, set[str]()

    def prepare(self, image: Image.Image) -> Image.Image:
        self.threads.add(threading.current_thread().name)
        return image

    def embed_images(self, images: list[Image.Image], batch_size: int = 64) -> np.ndarray:
        self.embedded += len(images)
        return super().embed_images(images, batch_size)


def test_the_layout_is_that_of_clip_retrieval(paths: list[str], tmp_path: Path) -> None:
    embedder, out = RawPixels(4), tmp_path / "out"
    captions = [f"text {i}" for i in range(23)]
    found = embed_inputs(paths, embedder, out, shard_size=2, batch_size=2, captions=captions)
    vectors = sorted((out / "img_emb").iterdir())
    metadata = sorted((out / "metadata").iterdir())
    assert [path.name for path in vectors] == [f"img_emb_{i:02d}.npy" for i in range(12)]  # sorted by name
    assert [path.name for path in metadata] == [f"metadata_{i:02d}.parquet" for i in range(12)]
    rows = [row for path in metadata for row in pq.read_table(path).to_pylist()]
    stacked = np.concatenate([np.load(path, allow_pickle=False) for path in vectors])
    readable = [i for i in range(23) if i != 7]
    assert [row["image_path"] for row in rows] == [paths[i] for i in readable]
    assert [row["caption"] for row in rows] == [f"text {i}" for i in readable]
    np.testing.assert_array_equal(stacked, found.vectors)
    np.testing.assert_allclose(stacked, embedder.embed_images([Image.open(paths[i]) for i in readable]))
    assert found.positions.tolist() == readable and list(found.faults) == [paths[7]]


def test_a_single_shard_is_number_0(paths: list[str], tmp_path: Path) -> None:
    embed_inputs(paths, RawPixels(4), tmp_path / "out")
    assert (tmp_path / "out" / "img_emb" / "img_emb_0.npy").is_file()
    assert (tmp_path / "out" / "metadata" / "metadata_0.parquet").is_file()


def test_pictures_are_prepared_in_other_threads(paths: list[str], tmp_path: Path) -> None:
    watched = Watched()
    embed_inputs(paths, watched, tmp_path / "out", batch_size=4)
    assert watched.embedded == 22 and threading.current_thread().name not in watched.threads


def test_finished_shards_are_taken_over_with_their_own_size(paths: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = embed_inputs(paths, Watched(), out, shard_size=5)
    (out / "shards" / "img_3.json").unlink()  # as if it had been killed in its fourth shard
    again = Watched()
    second = embed_inputs(paths, again, out, shard_size=4096, half=True)
    assert again.embedded == 5
    np.testing.assert_array_equal(first.vectors, second.vectors)


@pytest.mark.parametrize("change", ["paths", "embedder", "old version"])
def test_other_inputs_start_anew(paths: list[str], tmp_path: Path, change: str) -> None:
    out, embedder = tmp_path / "out", RawPixels(8 if change == "embedder" else 4)
    embed_inputs(paths, RawPixels(4), out, shard_size=5)
    if change == "old version":
        (out / f"img_{PLAN}").write_text(json.dumps({"paths_sha256": "x"}))
    wanted = paths[:6] if change == "paths" else paths
    found = embed_inputs(wanted, embedder, out, shard_size=5)
    assert len(found.positions) == (6 if change == "paths" else 22)
    assert found.vectors.shape == (len(found.positions), embedder.dimension)
    assert len(list((out / "img_emb").iterdir())) == (2 if change == "paths" else 5)


def test_texts_lie_beside_the_pictures(tmp_path: Path, paths: list[str]) -> None:
    class Letters(RawPixels):
        def embed_texts(self, texts: list[str], batch_size: int = 64) -> np.ndarray:
            rows = [np.bincount([ord(letter) % 48 for letter in text], minlength=48) + 1.0 for text in texts]
            return np.stack([row / np.linalg.norm(row) for row in rows]).astype(np.float32)

    embedder = Letters(4)
    embed_inputs(paths[:4], embedder, tmp_path / "out")
    found = embed_inputs(["a", "bb", "ccc"], embedder, tmp_path / "texts", "text", shard_size=2, half=True)
    assert [path.name for path in found.files] == ["text_emb_0.npy", "text_emb_1.npy"]
    np.testing.assert_allclose(found.vectors, embedder.embed_texts(["a", "bb", "ccc"]), atol=1e-3)


def test_a_full_disk_names_the_file_and_keeps_finished_shards(
    paths: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    out, saved, real = tmp_path / "out", list[int](), np.lib.format.write_array_header_1_0

    def save(file: Any, header: Any) -> None:
        if len(saved) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        saved.append(1)
        real(file, header)

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", save)
    with pytest.raises(StorageError, match=r"img_emb_2.npy"):
        embed_inputs(paths, RawPixels(4), out, shard_size=5)
    assert not list(out.rglob("*.part"))
    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", real)
    again = Watched()
    assert len(embed_inputs(paths, again, out, shard_size=5).positions) == 22
    assert again.embedded == 22 - 9
