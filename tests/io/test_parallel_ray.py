"""Two local workers of Ray: the same output as one process, and a killed worker costs its shard only."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from comem.io.parallel import ShardsFailedError, _cluster, run_shards
from comem.retrieval.corpus.build import build_corpus
from comem.retrieval.corpus.sources import CorpusSettings
from comem.retrieval.embed import EmbedSettings, embed_corpus
from comem.retrieval.evaluate import RawPixels

ray = pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[Any]:
    """One cluster for all tests: starting it takes most of the time."""
    with _cluster(2) as ray:
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield ray


@pytest.fixture()
def corpus(tmp_path: Path) -> Callable[[str], Path]:
    """`corpus(name)` builds the same small corpus in a folder of this name."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(24):
        noise = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).save(pictures / f"{i:02d}.png")
        (pictures / f"{i:02d}.txt").write_text(f"text {i}")

    def build(name: str) -> Path:
        build_corpus(CorpusSettings(sources=(str(pictures),), output=tmp_path / name))
        return tmp_path / name

    return build


class KilledOnce(RawPixels):
    """Its process is killed the first time that it embeds; `marks` remembers that across processes."""

    def __init__(self, marks: Path, times: int = 1) -> None:
        super().__init__(4)
        self.marks, self.times = marks, times

    def embed_images(self, images: Any, batch_size: int = 64) -> np.ndarray:
        done = len(list(self.marks.glob("killed-*")))
        if done < self.times:
            (self.marks / f"killed-{done}-{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        (self.marks / f"embedded-{time.monotonic_ns()}-{os.getpid()}").touch()
        return super().embed_images(images, batch_size)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".npy", ".parquet") or path.parent.name == "shards"
    }


def settings(folder: Path, **options: Any) -> EmbedSettings:
    return EmbedSettings(corpus=folder, embedder="raw", shard_size=4, batch_size=4, **options)


def test_two_workers_write_what_one_process_writes(corpus: Callable[[str], Path]) -> None:
    one, two = corpus("one"), corpus("two")
    embed_corpus(settings(one), loader=partial(RawPixels, 4))
    on_ray = settings(two, engine="ray", workers=2)
    found = embed_corpus(on_ray, loader=partial(RawPixels, 4))["images"]
    assert len(found.positions) == 24
    assert files(one / "embeddings") == files(two / "embeddings") and len(files(one / "embeddings")) == 18


def test_a_killed_worker_costs_its_shard_only(corpus: Callable[[str], Path], tmp_path: Path) -> None:
    one, two = corpus("one"), corpus("two")
    embed_corpus(settings(one), loader=partial(RawPixels, 4))
    loader = partial(KilledOnce, tmp_path)
    embed_corpus(settings(two, engine="ray"), loader=loader)
    assert len(list(tmp_path.glob("killed-*"))) >= 1
    assert len(list(tmp_path.glob("embedded-*"))) == 6  # each of the six shards once
    assert files(one / "embeddings") == files(two / "embeddings")


def kill_or_write(folder: Path, number: int) -> int:
    if number == 2 and not (folder / "mended").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / f"shard-{number}").write_text("done")
    return number


def test_what_fails_again_and_again_is_named_and_the_others_are_finished(tmp_path: Path) -> None:
    def job(number: int) -> Callable[[], int]:
        return partial(kill_or_write, tmp_path, number)

    with pytest.raises(ShardsFailedError, match=r"1 of 6 shards failed \(2\).*the others are finished"):
        list(run_shards(job, range(6), engine="ray", workers=2, retries=1))
    assert sorted(path.name for path in tmp_path.glob("shard-*")) == [f"shard-{i}" for i in (0, 1, 3, 4, 5)]
    (tmp_path / "mended").touch()
    assert list(run_shards(job, [2], engine="ray", workers=2)) == [(2, 2)]
