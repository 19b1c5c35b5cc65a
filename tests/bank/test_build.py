"""Filling a store: nothing twice, what has changed again, and everything that is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from comem.bank.build import build_store
from comem.bank.format import BUILDS, StoreError, content_hash, read_info
from comem.bank.reader import MemoryStore
from comem.io.files import read_jsonl
from comem.types import ImageRef, KnowledgeItem

from .conftest import FakeEncoder, memory_of


def encoded(encoder: FakeEncoder) -> list[str]:
    return [item_id for call in encoder.calls for item_id in call]


def test_nothing_is_encoded_twice(encoder: FakeEncoder, items: list[KnowledgeItem], tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "store"
    counts = build_store(encoder, items[:6], folder, commit_items=4)
    assert (counts.items, counts.encoded, counts.unchanged, counts.changed) == (6, 6, 0, 0)
    counts = build_store(encoder, reversed(items), folder, commit_items=4)
    assert (counts.items, counts.encoded, counts.unchanged) == (10, 4, 6)
    assert sorted(encoded(encoder)) == sorted(item.id for item in items)
    with MemoryStore(folder, encoder.fingerprint()) as store:
        assert np.array_equal(store.read(["i9", "i2"]), np.stack([memory_of("text 9"), memory_of("text 2")]))
    assert [row["counts"]["encoded"] for row in read_jsonl(folder / BUILDS)] == [6, 4]
    assert read_info(folder).encoder.prompt == "remember"


def test_a_changed_item_is_encoded_again(
    encoder: FakeEncoder, items: list[KnowledgeItem], tmp_path: Path
) -> None:
    build_store(encoder, items, tmp_path)
    encoder.calls.clear()
    items[3] = replace(items[3], text="new text")
    items[5] = replace(items[5], image=ImageRef(data=b"new picture"))
    items[7] = replace(items[7], source="elsewhere", language="bg")  # neither is shown to the encoder
    counts = build_store(encoder, items, tmp_path)
    assert encoded(encoder) == ["i3", "i5"] and (counts.changed, counts.unchanged) == (2, 8)
    with MemoryStore(tmp_path) as store:
        assert np.array_equal(store.read(["i3"])[0], memory_of("new text")) and len(store) == 10


def test_picture_files_count_by_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    first = KnowledgeItem("x", "text", ImageRef(path=str(path)))
    assert content_hash(first) == content_hash(replace(first, id="y", image=ImageRef(data=b"one")))
    others = [replace(first, image=None), replace(first, text="texts"), replace(first, text="")]
    assert len({content_hash(item) for item in [first, *others]}) == 4
    with pytest.raises(ValueError, match="item 'x': .*gone.png.*; check the image folder"):
        content_hash(replace(first, image=ImageRef(path=str(tmp_path / "gone.png"))))


def test_by_id_reads_no_picture(encoder: FakeEncoder, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    item = KnowledgeItem("x", "text", ImageRef(path=str(path)))
    build_store(encoder, [item], tmp_path / "store")
    path.unlink()
    assert build_store(encoder, [item], tmp_path / "store", by_id=True).unchanged == 1


def test_an_interrupted_build_goes_on(
    encoder: FakeEncoder, items: list[KnowledgeItem], tmp_path: Path
) -> None:
    def stops() -> Iterator[KnowledgeItem]:
        yield from items[:7]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_store(encoder, stops(), tmp_path, commit_items=3)
    assert len(MemoryStore(tmp_path)) == 6
    done: list[int] = []
    counts = build_store(encoder, items, tmp_path, commit_items=3, progress=done.append)
    assert counts.encoded == 4 and sum(done) == 10


def test_ids_that_come_twice(encoder: FakeEncoder, items: list[KnowledgeItem], tmp_path: Path) -> None:
    twins = [*items[:3], items[1], *items[3:], items[0]]
    assert build_store(encoder, twins, tmp_path / "a", commit_items=2).encoded == 10
    other = replace(items[1], text="another text")
    for size in (2, 100):  # stored already, and still waiting
        with pytest.raises(StoreError, match="'i1' comes twice, with different passages"):
            build_store(encoder, [*items[:4], other], tmp_path / f"b{size}", commit_items=size)
    assert len(MemoryStore(tmp_path / "b2")) == 4


def test_another_encoder_is_refused_before_any_work(
    encoder: FakeEncoder, items: list[KnowledgeItem], tmp_path: Path
) -> None:
    build_store(encoder, items, tmp_path)
    other = FakeEncoder("b" * 64)
    with pytest.raises(StoreError, match="made by another encoder"):
        build_store(other, items, tmp_path)
    assert other.calls == []
    older = FakeEncoder("older")  # which `encoder` accepts
    build_store(older, items, tmp_path / "older")
    assert build_store(encoder, items, tmp_path / "older").unchanged == 10


def test_an_item_that_cannot_be_read(
    encoder: FakeEncoder, items: list[KnowledgeItem], tmp_path: Path
) -> None:
    items[4] = replace(items[4], text="broken")
    items[6] = replace(items[6], image=ImageRef(path=str(tmp_path / "gone.png")))
    with pytest.raises(ValueError, match="'i4': the image is damaged"):
        build_store(encoder, items, tmp_path / "store", commit_items=3)
    assert len(MemoryStore(tmp_path / "store")) == 3
    counts = build_store(encoder, items, tmp_path / "store", commit_items=3, skip_faults=True)
    assert sorted(counts.faults) == ["i4", "i6"] and counts.encoded == 5
    assert len(MemoryStore(tmp_path / "store")) == 8


def test_memories_of_varying_numbers_of_vectors_are_refused(
    encoder: FakeEncoder, items: list[KnowledgeItem], tmp_path: Path
) -> None:
    encoder.num_vectors = None
    with pytest.raises(StoreError, match="varying numbers of vectors, which no bank holds"):
        build_store(encoder, items, tmp_path / "store")
    assert encoder.calls == [] and not (tmp_path / "store").exists()


def test_bad_settings(encoder: FakeEncoder, items: list[KnowledgeItem], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="commit_items=0"):
        build_store(encoder, items, tmp_path, commit_items=0)
    with pytest.raises(ValueError, match="unknown form of a memory bank 'pq'"):
        build_store(encoder, items, tmp_path, form="pq")
