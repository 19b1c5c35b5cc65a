"""Serving: stored items cost no encoder, missing ones are made once and stay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from comem.bank.build import build_store
from comem.bank.format import StoreError
from comem.bank.reader import MemoryStore
from comem.bank.serve import LiveBank, open_bank
from comem.bank.writer import StoreWriter
from comem.types import ImageRef, KnowledgeItem

from .conftest import FakeEncoder, memory_of


@pytest.fixture()
def folder(encoder: FakeEncoder, items: list[KnowledgeItem], tmp_path: Path) -> Path:
    build_store(encoder, items[:6], tmp_path / "store")
    encoder.calls.clear()
    return tmp_path / "store"


def test_stored_items_touch_neither_encoder_nor_files(folder: Path, encoder: FakeEncoder) -> None:
    memories = open_bank(folder, encoder, width=16)
    bare = [KnowledgeItem(f"i{n}", "", ImageRef(path="/nowhere.png")) for n in (4, 0)]
    bank = memories.of(bare)
    assert bank.ids == ("i4", "i0") and bank.fingerprint == encoder.fingerprint()
    expected = torch.from_numpy(memory_of("text 4"))
    assert bank.embeddings.dtype == torch.bfloat16 and torch.equal(bank.embeddings[0].float(), expected)
    assert torch.equal(memories.of(bare[:1]).embeddings, bank.embeddings[:1])
    assert encoder.calls == [] and memories.describe() == "2 read, 1 cached, 0 encoded in 0 encoder calls"
    assert memories.of([]).prefix().shape == (0, 16)


def test_missing_items_are_made_once(folder: Path, encoder: FakeEncoder, items: list[KnowledgeItem]) -> None:
    memories = open_bank(folder, encoder)
    first = memories.of(items)
    again = open_bank(folder, encoder).of(items)  # as another process, later
    assert encoder.calls == [("i6", "i7", "i8", "i9")]
    assert torch.equal(first.embeddings, again.embeddings) and len(MemoryStore(folder)) == 10
    counts = memories.counts
    assert (counts.read, counts.encoded, counts.encoder_calls) == (6, 4, 1)
    assert build_store(encoder, items, folder).unchanged == 10


def test_a_store_that_is_being_written_is_not_waited_for(
    folder: Path, encoder: FakeEncoder, items: list[KnowledgeItem], caplog: pytest.LogCaptureFixture
) -> None:
    memories = open_bank(folder, encoder)
    with StoreWriter(folder):
        memories.of(items[5:8])
        memories.of(items[5:8])
    assert encoder.calls == [("i6", "i7")] and "not stored, only cached" in caplog.text
    assert len(MemoryStore(folder)) == 6


def test_without_an_encoder_the_missing_are_named(folder: Path, items: list[KnowledgeItem]) -> None:
    memories = open_bank(folder)
    with pytest.raises(StoreError, match="1 ids are not in this store of 6 items, first 'i9'; add it"):
        memories.of(items[5:6] + items[9:])
    with pytest.raises(StoreError, match="'i7'"):
        memories.select(["i7"])


def test_what_another_process_adds_is_found(
    folder: Path, encoder: FakeEncoder, items: list[KnowledgeItem]
) -> None:
    memories = open_bank(folder)
    build_store(encoder, items, folder)
    assert memories.select(["i9"]).ids == ("i9",)


@pytest.mark.parametrize("size", [0, 2])
def test_the_cache_stays_small(folder: Path, items: list[KnowledgeItem], size: int) -> None:
    memories = LiveBank(None, MemoryStore(folder), cache_items=size)
    for _ in range(3):
        assert len(memories.of(items[:6])) == 6
    assert len(memories._cache) == size
    memories.of(items[4:6])
    assert memories.counts.cached == 3 * size  # the newest of each round before


def test_other_encoders_and_widths_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="made by another encoder"):
        open_bank(folder, FakeEncoder("b" * 64))
    with pytest.raises(StoreError, match="width 16, the reader needs 64"):
        open_bank(folder, width=64)
    with pytest.raises(ValueError, match="cache_items=-1"):
        LiveBank(None, MemoryStore(folder), cache_items=-1)
    with pytest.raises(StoreError, match="no memory store; make one"):
        open_bank(tmp_path)


def test_memories_of_varying_numbers_of_vectors_are_not_kept(
    encoder: FakeEncoder, items: list[KnowledgeItem]
) -> None:
    """One call's fit together; those of two may not."""
    encoder.num_vectors = None
    memories = LiveBank(encoder)
    for _ in range(2):
        assert memories.of(items[:2]).ids == ("i0", "i1")
    assert encoder.calls == [("i0", "i1")] * 2 and len(memories) == 0 and memories.opens_images


def test_both_kinds_open(folder: Path, items: list[KnowledgeItem], tmp_path: Path) -> None:
    store = open_bank(folder)
    store.of(items[:3]).save(tmp_path / "bank.safetensors")
    bank = open_bank(tmp_path / "bank.safetensors", width=16)
    assert torch.equal(bank.of(items[1:3]).embeddings, store.of(items[1:3]).embeddings)
    assert bank.width == store.width == 16 and bank.describe() == "3 in one file, none encoded"
