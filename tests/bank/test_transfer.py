"""Export to other forms and files, and merging."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from comem.bank.build import build_store
from comem.bank.format import StoreError
from comem.bank.reader import MemoryStore
from comem.bank.upkeep import bank_of, export_store, import_bank, merge_stores, verify_store
from comem.bank.writer import StoreWriter
from comem.memory.bank import MemoryBank
from comem.types import KnowledgeItem

from .conftest import QUERIES, WIDTH, FakeEncoder, memory_of


@pytest.fixture()
def folder(encoder: FakeEncoder, items: list[KnowledgeItem], tmp_path: Path) -> Path:
    build_store(encoder, items, tmp_path / "store")
    return tmp_path / "store"


def test_export_leaves_replaced_ones_behind(
    folder: Path, encoder: FakeEncoder, items: list[KnowledgeItem], tmp_path: Path
) -> None:
    build_store(encoder, [replace(item, text=item.text + "!") for item in items], folder)
    assert verify_store(folder).superseded == 10
    with export_store(folder, tmp_path / "out") as store:
        assert store.table.ids() == [item.id for item in items] and store.info.form == "bf16"
        assert np.array_equal(store.read(["i3"])[0], memory_of("text 3!"))
    assert verify_store(tmp_path / "out").superseded == 0 and verify_store(tmp_path / "out").good


@pytest.mark.parametrize("form", ["fp32", "fp16", "int8"])
def test_export_to_another_form(folder: Path, tmp_path: Path, form: str) -> None:
    with MemoryStore(folder) as source, export_store(folder, tmp_path / form, form) as store:
        ids = source.table.ids()
        assert store.info.form == form and store.info.encoder == source.info.encoder
        difference = np.abs(store.read(ids) - source.read(ids)).max()
        assert difference <= (0.06 if form == "int8" else 0)


def test_quantised_stores_go_on_growing(empty_store: Callable[..., Path], tmp_path: Path) -> None:
    folder = empty_store("fp32")
    memories = np.random.default_rng(0).standard_normal((300, QUERIES, WIDTH)).astype("f4")
    ids = [f"i{n}" for n in range(300)]
    with StoreWriter(folder) as writer:
        writer.append(ids, [bytes(16)] * 300, memories)
    with export_store(folder, tmp_path / "prq", "prq", ids[:200], sample=150) as store:
        assert store.info.stride == store.form.stride and len(store) == 200
        assert ((store.read(ids[:150]) - memories[:150]) ** 2).mean() < 0.6
    export_store(folder, tmp_path / "prq", "prq", ids[:220]).close()  # goes on with the codec that it has
    with export_store(tmp_path / "prq", tmp_path / "copy") as copy, MemoryStore(tmp_path / "prq") as store:
        assert copy.info == store.info and np.array_equal(copy.read(ids[:220]), store.read(ids[:220]))
    with pytest.raises(StoreError, match="holds a store of form prq, not int8"):
        export_store(folder, tmp_path / "prq", "int8")


def test_some_ids(folder: Path, tmp_path: Path) -> None:
    with export_store(folder, tmp_path / "some", ids=["i7", "i2"]) as store:
        assert store.table.ids() == ["i7", "i2"]
    with pytest.raises(StoreError, match="'j7'"):
        export_store(folder, tmp_path / "none", ids=["j7"])


def test_one_file_banks(
    folder: Path, tmp_path: Path, items: list[KnowledgeItem], encoder: FakeEncoder
) -> None:
    bank_of(folder, ["i7", "i2"]).save(tmp_path / "bank.safetensors")
    bank = MemoryBank.load(tmp_path / "bank.safetensors", encoder.fingerprint())
    assert bank.ids == ("i7", "i2")
    with import_bank(tmp_path / "bank.safetensors", tmp_path / "again", "fp32") as store:
        assert np.array_equal(store.read(["i7"])[0], memory_of("text 7"))
    assert len(import_bank(tmp_path / "bank.safetensors", tmp_path / "again", "fp32")) == 2
    assert build_store(encoder, items, tmp_path / "again", by_id=True).unchanged == 2


def test_merge(encoder: FakeEncoder, items: list[KnowledgeItem], tmp_path: Path) -> None:
    build_store(encoder, items[:6], tmp_path / "a")
    build_store(encoder, items[4:], tmp_path / "b")
    with merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "both") as store:
        assert store.table.ids() == [item.id for item in items] and store.table.count == 10
    encoder.calls.clear()
    assert build_store(encoder, items, tmp_path / "both").unchanged == 10 and encoder.calls == []
    with merge_stores([tmp_path / "b"], tmp_path / "a") as store:  # into one that is there
        assert len(store) == 10
    assert verify_store(tmp_path / "both").good


def test_merge_with_conflicts(encoder: FakeEncoder, items: list[KnowledgeItem], tmp_path: Path) -> None:
    build_store(encoder, items[:3], tmp_path / "a")
    build_store(encoder, [replace(items[1], text="other")], tmp_path / "b")
    sources = [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(StoreError, match="'i1' has another content here.*--on-conflict first or last"):
        merge_stores(sources, tmp_path / "refused")
    assert len(MemoryStore(tmp_path / "refused")) == 3
    with merge_stores(sources, tmp_path / "first", "first") as store:
        assert np.array_equal(store.read(["i1"])[0], memory_of("text 1"))
    with merge_stores(sources, tmp_path / "last", "last") as store:
        assert np.array_equal(store.read(["i1"])[0], memory_of("other"))
    with pytest.raises(ValueError, match="give one of refuse, first, last"):
        merge_stores(sources, tmp_path / "x", "newest")  # type: ignore[arg-type]


def test_merge_of_unlike_stores(empty_store: Callable[..., Path], folder: Path, tmp_path: Path) -> None:
    other = empty_store(name="other", made_by="b" * 64)
    with pytest.raises(StoreError, match="made by another encoder"):
        merge_stores([folder, other], tmp_path / "x")
    with pytest.raises(StoreError, match="made by another encoder"):
        merge_stores([folder], other)
    with pytest.raises(StoreError, match="no stores"):
        merge_stores([], tmp_path / "x")
