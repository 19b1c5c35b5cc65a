"""A bank in parts: the same memories as in one go, resumed part by part, and only what is new."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from memory.store.conftest import FakeEncoder  # tests/ is on the path

from comem.bank import divided
from comem.bank.divided import build_divided
from comem.memory.store.build import build_store
from comem.memory.store.reader import MemoryStore
from comem.parallel import _cluster
from comem.retrieval.knowledge import KnowledgeBase, write_knowledge_base
from comem.types import ImageRef, KnowledgeItem


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
    assert counts == {"items": 50, "encoded": 50, "unchanged": 0, "faults": {}} and seen == [16, 16, 16, 2]
    np.testing.assert_array_equal(memories(tmp_path / "one", base), memories(tmp_path / "many", base))
    assert not (tmp_path / "many.parts").exists()


def test_a_second_build_encodes_only_what_is_new_or_changed(tmp_path: Path) -> None:
    base = base_of(tmp_path / "kb")
    build_divided(base, FakeEncoder, tmp_path / "bank", part_items=16, engine="local")
    base = base_of(tmp_path / "kb", 53, changed=7)
    counts = build_divided(base, FakeEncoder, tmp_path / "bank", part_items=16, engine="local")
    assert (counts["encoded"], counts["unchanged"]) == (4, 49)
    build_store(FakeEncoder(), base.items(range(53)), tmp_path / "one")  # type: ignore[arg-type]
    np.testing.assert_array_equal(memories(tmp_path / "one", base), memories(tmp_path / "bank", base))


def test_finished_parts_survive_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, real, begun = base_of(tmp_path / "kb"), divided._encode_part, list[int]()

    def stop_at_third(*args: object) -> object:
        begun.append(args[4])  # type: ignore[arg-type]
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


@pytest.mark.slow
def test_two_ray_workers_write_the_same(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    base = base_of(tmp_path / "kb")
    build_divided(base, FakeEncoder, tmp_path / "one", part_items=16, engine="local")
    with _cluster(2) as ray:
        import memory.store.conftest as module

        ray.cloudpickle.register_pickle_by_value(module)
        counts = build_divided(base, FakeEncoder, tmp_path / "two", part_items=16)
    assert counts["encoded"] == 50
    np.testing.assert_array_equal(memories(tmp_path / "one", base), memories(tmp_path / "two", base))
