"""A bank in parts: the same memories as in one go, resumed part by part, and only what is new."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comem.bank import build as divided
from comem.bank.build import BuildCounts, build_divided, build_store
from comem.bank.reader import MemoryStore
from comem.io.parallel import _cluster
from comem.retrieval.corpus.table import write_knowledge_base
from comem.retrieval.knowledge import KnowledgeBase
from comem.types import ImageRef, KnowledgeItem
from tests.bank.conftest import FakeEncoder


def base_of(folder: Path, count: int = 50, changed: int = -1) -> KnowledgeBase:
    folder.mkdir(exist_ok=True)
    items = []
    for i in range(count):
        (folder / f"{i}.png").write_bytes(bytes([i]))
        text = f"text {i}" + " anew" * (i == changed)
        items.append(KnowledgeItem(f"i{i}", text, ImageRef(path=str(folder / f"{i}.png"))))
    return write_knowledge_base(items, folder)


def memories(path: Path, base: KnowledgeBase) -> np.ndarray:
    with MemoryStore(path) as store:
        return store.read(base.ids)


def test_parts_become_what_one_process_writes(tmp_path: Path) -> None:
    base = base_of(tmp_path / "kb")
    build_store(FakeEncoder(), base.items(range(50)), tmp_path / "one")  # type: ignore[arg-type]
    seen: list[int] = []
    counts = build_divided(
        base,
        FakeEncoder,
        tmp_path / "many",
        batch_size=4,
        part_items=18,
        engine="local",
        progress=seen.append,
    )
    assert counts == BuildCounts(50, 50) and seen == [16, 16, 16, 2]
    np.testing.assert_array_equal(memories(tmp_path / "one", base), memories(tmp_path / "many", base))
    assert not (tmp_path / "many.parts").exists()


def test_a_second_build_encodes_only_what_is_new_or_changed(tmp_path: Path) -> None:
    base = base_of(tmp_path / "kb")
    build_divided(base, FakeEncoder, tmp_path / "bank", part_items=16, engine="local")
    base = base_of(tmp_path / "kb", 53, changed=7)
    counts = build_divided(base, FakeEncoder, tmp_path / "bank", part_items=16, engine="local")
    assert (counts.encoded, counts.unchanged) == (4, 49)
    build_store(FakeEncoder(), base.items(range(53)), tmp_path / "one")  # type: ignore[arg-type]
    np.testing.assert_array_equal(memories(tmp_path / "one", base), memories(tmp_path / "bank", base))


def test_finished_parts_survive_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, real, begun = base_of(tmp_path / "kb"), divided._encode_part, list[int]()

    def stop_at_third(*args: object) -> object:
        begun.append(args[2][0])  # type: ignore[arg-type]
        if len(begun) == 3:
            raise KeyboardInterrupt
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(divided, "_encode_part", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        build_divided(base, FakeEncoder, tmp_path / "bank", part_items=16, engine="local")
    monkeypatch.setattr(divided, "_encode_part", real)
    assert len(list((tmp_path / "bank.parts").glob("part-*.json"))) == 2
    encoder = FakeEncoder()
    build_divided(base, partial(_same, encoder), tmp_path / "bank", part_items=16, engine="local")
    assert sum(map(len, encoder.calls)) == 50 - 32 and len(memories(tmp_path / "bank", base)) == 50


def _same(encoder: FakeEncoder) -> FakeEncoder:
    return encoder


class KilledOnce(FakeEncoder):
    """Its process is killed at the second part, once; `marks` remembers that, and what was encoded."""

    def __init__(self, marks: Path) -> None:
        super().__init__()
        self.marks = marks

    def encode(self, items: Sequence[KnowledgeItem], batch_size: int = 16, inputs: Any = None) -> Any:
        with open(self.marks / f"encoded-{os.getpid()}", "a") as file:
            file.writelines(f"{item.id}\n" for item in items)
        if items[0].id == "i16" and not (self.marks / "killed").exists():
            (self.marks / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(items, batch_size)


@pytest.mark.slow
def test_two_ray_workers_write_the_same_though_one_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    base = base_of(tmp_path / "kb")
    build_divided(base, FakeEncoder, tmp_path / "one", part_items=16, engine="local")
    with _cluster(2) as ray:
        import tests.bank.conftest as module

        for each in (module, sys.modules[__name__]):
            ray.cloudpickle.register_pickle_by_value(each)
        counts = build_divided(base, FakeEncoder, tmp_path / "two", part_items=16)
        assert counts.encoded == 50
        again = build_divided(
            base, partial(KilledOnce, tmp_path), tmp_path / "three", batch_size=4, part_items=16
        )
    assert (tmp_path / "killed").exists() and again.items == 50 and again.faults == {}
    encoded = [line for path in tmp_path.glob("encoded-*") for line in path.read_text().split()]
    assert set(encoded) == set(base.ids) and len(encoded) == 50 + 16  # the killed one's part, no other
    for name in ("two", "three"):
        np.testing.assert_array_equal(memories(tmp_path / "one", base), memories(tmp_path / name, base))
