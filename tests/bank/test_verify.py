"""Verifying: every kind of damage is found, named, and mended by the next build."""

from __future__ import annotations

from pathlib import Path

import pytest

from comem.bank.build import build_store
from comem.bank.format import ENTRY, IDS, MANIFEST, TABLE, StoreError, shard_name
from comem.bank.reader import MemoryStore
from comem.bank.upkeep import drop_damaged, verify_store
from comem.types import KnowledgeItem

from .conftest import FakeEncoder

STRIDE = 2 * 2 * 16


@pytest.fixture()
def folder(encoder: FakeEncoder, items: list[KnowledgeItem], tmp_path: Path) -> Path:
    build_store(encoder, items, tmp_path / "store")
    encoder.calls.clear()
    return tmp_path / "store"


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_a_whole_store(folder: Path) -> None:
    done: list[int] = []
    report = verify_store(folder, done.append)
    assert report.good and (report.items, report.entries, report.superseded, sum(done)) == (10, 10, 0, 10)
    assert report.bytes == sum(path.stat().st_size for path in folder.iterdir())


def test_a_changed_memory_is_made_again(
    folder: Path, encoder: FakeEncoder, items: list[KnowledgeItem]
) -> None:
    flip(folder / shard_name(0), 4 * STRIDE + 5)
    report = verify_store(folder)
    assert report.damaged == {"i4": "its memory in shard-00000.bin was changed"}
    drop_damaged(folder, report)
    assert verify_store(folder).good and len(MemoryStore(folder)) == 9
    assert build_store(encoder, items, folder).unchanged == 9 and encoder.calls == [("i4",)]
    assert verify_store(folder).good and len(MemoryStore(folder)) == 10


def test_a_cut_shard_loses_only_what_lay_behind(
    folder: Path, encoder: FakeEncoder, items: list[KnowledgeItem]
) -> None:
    path = folder / shard_name(0)
    path.write_bytes(path.read_bytes()[: 7 * STRIDE + 3])
    with MemoryStore(folder) as store:
        assert store.read(["i6"]).shape == (1, 2, 16)
        with pytest.raises(StoreError, match="it was cut or lost: run comem bank verify --drop-damaged"):
            store.read(["i7"])
    report = verify_store(folder)
    assert set(report.damaged) == {"i7", "i8", "i9"} and "was cut or lost" in report.damaged["i8"]
    drop_damaged(folder, report)
    assert build_store(encoder, items, folder).encoded == 3 and verify_store(folder).good
    path.unlink()
    assert len(verify_store(folder).damaged) == 10


def test_a_changed_entry(folder: Path) -> None:
    flip(folder / TABLE, 2 * ENTRY.itemsize + 50)  # its time
    flip(folder / TABLE, 5 * ENTRY.itemsize + 3)  # half a hash: nobody can tell whose it is
    report = verify_store(folder)
    assert report.damaged == {"i2": "its entry in table.bin was changed"} and report.nameless == 1
    assert not report.good


def test_a_changed_id(folder: Path) -> None:
    flip(folder / IDS, 1)
    assert verify_store(folder).nameless == 1


def test_manifests(folder: Path) -> None:
    path = folder / MANIFEST
    text = "\n".join(line for line in path.read_text().split("\n") if '"checksum"' not in line)
    text = text.replace("},\n}", "}\n}")
    for old, new, message in [
        ('"version": 1', '"version": 2', "store version 2, known is 1: update comem"),
        ('"comem-memory-store"', '"something"', "not a memory store's manifest"),
        ('"stride": 64', '"stride": 65', "the manifest says 65 bytes an item, the form bf16 has 64"),
        ('"stride": 64', '"stride": "64"', "stride is '64'"),
        ('"form": "bf16"', '"form": "bf17"', "unknown form of a memory bank 'bf17'; did you mean bf16"),
        ('"form": "bf16",', "", "incomplete"),
        ('"fingerprint"', '"finger"', "incomplete"),
    ]:
        path.write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=message):
            verify_store(folder)
    path.unlink()
    with pytest.raises(StoreError, match="it is no memory store; make one with comem bank build"):
        MemoryStore(folder)
    with pytest.raises(StoreError, match="no such folder"):
        MemoryStore(folder / "none")
