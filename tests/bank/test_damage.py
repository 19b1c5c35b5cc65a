"""A changed bit anywhere in a bank: what is read is right or refused, and verify always says it."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from comem.bank import format as format_module
from comem.bank.build import build_store
from comem.bank.format import (
    ENTRY,
    HEADER,
    IDS,
    LOOKUP,
    MANIFEST,
    TABLE,
    EntryTable,
    StoreError,
    content_hash,
    shard_name,
)
from comem.bank.reader import MemoryStore
from comem.bank.serve import open_bank
from comem.bank.settings import VerifySettings
from comem.bank.show import show_report
from comem.bank.upkeep import drop_damaged, export_store, verify, verify_store
from comem.bank.writer import StoreWriter
from comem.io.files import StorageError
from comem.memory.bank import MemoryBank
from comem.types import ImageRef, KnowledgeItem, VideoRef

from .conftest import MADE_BY, FakeEncoder, memory_of

IDS_HERE = [f"i{n}" for n in range(10)]


@pytest.fixture()
def folder(encoder: FakeEncoder, items: list[KnowledgeItem], tmp_path: Path) -> Path:
    build_store(encoder, items[:6], tmp_path / "store")
    build_store(encoder, items, tmp_path / "store")
    return tmp_path / "store"


def damaged(path: Path, step: int = 1) -> list[tuple[int, bytes]]:
    """The file with one bit changed, at every `step`-th byte."""
    whole = path.read_bytes()
    return [
        (place, whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        for place in range(0, len(whole), step)
    ]


def check_what_is_read(folder: Path) -> int:
    """Each id gives its own memory or an error; how many were to be had."""
    found = 0
    for item_id in IDS_HERE:
        try:
            with MemoryStore(folder) as store:
                memory = store.read([item_id])[0]
        except ValueError:
            continue
        assert np.array_equal(memory, memory_of(f"text {item_id[1:]}"))
        found += 1
    return found


def check_it_mends(folder: Path, encoder: FakeEncoder, items: list[KnowledgeItem]) -> None:
    report = verify_store(folder)
    assert not report.good
    drop_damaged(folder, report)
    build_store(encoder, items, folder)
    assert verify_store(folder).good and check_what_is_read(folder) == 10


@pytest.mark.parametrize("cheap", [0, 1 << 20])
def test_lookup(folder: Path, cheap: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small or too large to be checked at once: no id becomes unfindable."""
    monkeypatch.setattr(format_module, "_CHEAP", cheap)
    path = folder / LOOKUP
    for place, content in damaged(path, step=7):
        path.write_bytes(content)
        assert not verify_store(folder).good, place
        assert check_what_is_read(folder) == 10
        with MemoryStore(folder) as store:
            assert sorted(store.table.ids()) == IDS_HERE and len(store) in (9, 10, 11)


def test_a_changed_lookup_is_not_handed_on(
    folder: Path, encoder: FakeEncoder, items: list[KnowledgeItem], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(format_module, "_CHEAP", 0)
    for place in (HEADER.size + 3, HEADER.size + 85):
        path = folder / LOOKUP
        content = bytearray(path.read_bytes())
        content[place] ^= 16
        path.write_bytes(content)
        with StoreWriter(folder) as writer:
            writer.remove(["nobody"])
        assert verify_store(folder).good and check_what_is_read(folder) == 10


@pytest.mark.parametrize("name", [TABLE, IDS, shard_name(0)])
def test_table_ids_and_memories(
    folder: Path, name: str, encoder: FakeEncoder, items: list[KnowledgeItem]
) -> None:
    path = folder / name
    saved = {each.name: each.read_bytes() for each in folder.iterdir()}
    for place, content in damaged(path, step=5 if name == IDS else 59):
        path.write_bytes(content)
        assert not verify_store(folder).good, place
        last = name == TABLE and place >= 9 * ENTRY.itemsize  # as if it had been cut off: all is refused
        assert check_what_is_read(folder) >= (0 if last else 9)
        if place % 4 == 0:
            check_it_mends(folder, encoder, items)
            for other, before in saved.items():
                (folder / other).write_bytes(before)


@pytest.mark.parametrize("name", [TABLE, IDS, shard_name(0)])
def test_cut_files(folder: Path, name: str, encoder: FakeEncoder, items: list[KnowledgeItem]) -> None:
    path = folder / name
    for left in (path.stat().st_size - 1, path.stat().st_size // 2, 1, 0):
        path.write_bytes(path.read_bytes()[:left])
        check_what_is_read(folder)
        check_it_mends(folder, encoder, items)


@pytest.mark.parametrize("name", [TABLE, IDS, LOOKUP, shard_name(0)])
@pytest.mark.parametrize("emptied", [False, True])
def test_lost_and_emptied_files(
    folder: Path, name: str, emptied: bool, encoder: FakeEncoder, items: list[KnowledgeItem]
) -> None:
    (folder / name).unlink()
    if emptied:
        (folder / name).touch()
    if name == LOOKUP and not emptied:  # it may be deleted
        assert "nobody knows" in verify_store(folder).unverified[0] and check_what_is_read(folder) == 10
        return
    if name == TABLE or (name == IDS and not emptied):  # without the ids' names, memories are found by hash
        with pytest.raises(StoreError, match="bank verify --drop-damaged"):
            open_bank(folder).of(items[:1])
    check_it_mends(folder, encoder, items)


def test_a_cut_table_is_refused_with_the_remedy(folder: Path) -> None:
    os.truncate(folder / TABLE, 7 * ENTRY.itemsize)
    with pytest.raises(StoreError, match="3 of 10 entries are lost: run comem bank verify --drop-damaged"):
        open_bank(folder)


def test_the_manifest(folder: Path) -> None:
    path = folder / MANIFEST
    for place, content in damaged(path, step=11):
        path.write_bytes(content)
        try:
            report = verify_store(folder)
        except ValueError as error:
            assert MANIFEST in str(error) or "store" in str(error)
        else:
            raise AssertionError(f"byte {place} was taken over: {report}")


def test_damage_is_not_exported(folder: Path, tmp_path: Path) -> None:
    """The bytes are taken over as they are, and would get a new checksum."""
    path = folder / shard_name(0)
    path.write_bytes(path.read_bytes()[:-3] + b"xyz")
    with pytest.raises(StoreError, match="a memory in shard-00000.bin or its entry was changed"):
        export_store(folder, tmp_path / "new")
    with pytest.raises(StoreError, match="--drop-damaged"):
        open_bank(folder).of([KnowledgeItem("i9", "text 9", None)])


@pytest.mark.parametrize("more", ["repeated", "noise", "another shard"])
def test_bytes_that_are_no_memory(folder: Path, more: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Behind the last memory nobody reads, but verify says that they are there."""
    path = folder / shard_name(0)
    whole = path.read_bytes()
    if more == "another shard":
        (folder / shard_name(1)).write_bytes(whole)
    else:
        path.write_bytes(whole + (whole[-100:] if more == "repeated" else os.urandom(100)))
    report = verify_store(folder)
    size, name = (len(whole), shard_name(1)) if more == "another shard" else (100, path.name)
    assert report.good and report.unverified == (
        f"{size} bytes at the end of {name} are no memory: an append that was cut, or damage",
    )
    show_report(report, VerifySettings(folder))
    assert "are no memory" in capsys.readouterr().out and check_what_is_read(folder) == 10


def without_checksum(path: Path, swap: tuple[int, int] | None = None) -> None:
    """lookup.bin as 0.2 wrote it; with a slot exchanged for another."""
    content = path.read_bytes()
    head = list(HEADER.unpack(content[: HEADER.size]))
    head[2] = head[7] = head[6] = 0
    head[6] = zlib.crc32(HEADER.pack(*head)[:36])
    body = np.frombuffer(content[HEADER.size :], "<u8").copy()
    if swap is not None:
        slots = body[len(body) // 2 :]
        slots[slots == swap[0]] = swap[1]
    path.write_bytes(HEADER.pack(*head) + body.tobytes())


@pytest.mark.parametrize("cheap", [0, 1 << 20])
def test_a_slot_of_0_2_that_points_to_an_older_memory(
    empty_store: Callable[..., Path], cheap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its key is right, so that it has to be the newest of its id."""
    monkeypatch.setattr(format_module, "_CHEAP", cheap)
    folder = empty_store()
    with StoreWriter(folder) as writer:
        for text in ("one", "two", "three"):
            writer.append(["a", "b"], [bytes(16)] * 2, np.stack([memory_of(text), memory_of(text)]))
    without_checksum(folder / LOOKUP)
    assert verify_store(folder).good
    without_checksum(folder / LOOKUP, swap=(4, 0))  # "a", as it was at first
    report = verify_store(folder)
    assert not report.good and "lookup.bin was changed" in report.faults[0]
    if cheap:
        with MemoryStore(folder) as store:
            assert np.array_equal(store.read(["a"])[0], memory_of("three"))


def test_what_0_2_wrote_is_read_and_what_cannot_be_verified_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / LOOKUP
    without_checksum(path)
    manifest = folder / MANIFEST
    lines = [line for line in manifest.read_text().split("\n") if '"checksum"' not in line]
    manifest.write_text("\n".join(lines).replace("},\n}", "}\n}"))
    report = verify_store(folder)
    assert report.good and len(report.unverified) == 2 and check_what_is_read(folder) == 10
    assert show_report(report, VerifySettings(folder)) == 0
    assert "not verified: lookup.bin has no checksum" in capsys.readouterr().out
    for place, changed in damaged(path, step=9):
        path.write_bytes(changed)
        assert not verify_store(folder).good, place
        assert check_what_is_read(folder) == 10


def test_one_file(tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    bank = MemoryBank(torch.randn(3, 2, 4), ("a", "b", "c"), MADE_BY)
    bank.save(path)
    assert verify(VerifySettings(path)).unverified == ()
    for place, content in damaged(path, step=3):
        path.write_bytes(content)
        try:
            back = MemoryBank.load(path)
        except ValueError as error:
            assert str(path) in str(error)
        else:  # padding of the header
            assert torch.equal(back.embeddings, bank.embeddings) and back.ids == bank.ids, place


def test_a_reader_beside_an_append_that_fails(
    empty_store: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sees entries that are taken back, and others in their slots: no id gives another's memory."""
    folder = empty_store()
    text = np.stack([memory_of(name) for name in "abcd"])
    with StoreWriter(folder) as writer:
        writer.append(["a"], [bytes(16)], text[:1])
        store, real = MemoryStore(folder), os.fdatasync

        def fails(handle: int) -> None:
            if handle == writer._table_fd:
                store.refresh()
                assert "b" in store and "c" in store
                raise OSError(28, "No space left on device")
            real(handle)

        monkeypatch.setattr(os, "fdatasync", fails)
        with pytest.raises(StorageError):
            writer.append(["b", "c"], [bytes(16)] * 2, text[1:3])
        monkeypatch.setattr(os, "fdatasync", real)
        assert "b" not in store
        store.refresh()
        assert len(store) == 1 and "c" not in store and store.table.ids() == ["a"]
        monkeypatch.setattr(os, "fdatasync", fails)
        with pytest.raises(StorageError):
            writer.append(["b", "c"], [bytes(16)] * 2, text[1:3])
        monkeypatch.setattr(os, "fdatasync", real)
        writer.append(["d", "c"], [bytes(16)] * 2, text[[3, 2]])
        assert "b" not in store and np.array_equal(store.read(["c"])[0], text[2])
        store.refresh()
        assert sorted(store.table.ids()) == ["a", "c", "d"] and len(store) == 3
        assert np.array_equal(store.read(["d", "c", "a"]), text[[3, 2, 0]])
    with StoreWriter(folder) as writer:  # a removal that is taken back
        store.refresh()
        monkeypatch.setattr(os, "fdatasync", fails_once := lambda handle: _fail(store, handle, writer))
        with pytest.raises(StorageError):
            writer.remove(["a"])
        monkeypatch.setattr(os, "fdatasync", real)
        store.refresh()
        assert "a" in store and fails_once is not None


def _fail(store: MemoryStore, handle: int, writer: StoreWriter) -> None:
    if handle == writer._table_fd:
        store.refresh()
        assert "a" not in store
        raise OSError(28, "No space left on device")


def test_an_old_table_under_a_new_lookup(folder: Path) -> None:
    table = EntryTable(folder)
    assert table.promised == table.count == 10 and table.lookup_fault == ""


@pytest.mark.parametrize("what", ["pipe", "device", "folder", "empty", "nul", "outside"])
def test_what_is_no_file_is_a_fault_of_its_item(tmp_path: Path, what: str) -> None:
    """It is told before it is read: a pipe, or a device, would never end."""
    path = tmp_path / "image.png"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "empty":
        path.touch()
    place = {"device": "/dev/zero", "nul": "a\0b.png"}.get(what, str(path))
    image = ImageRef(place, fault="outside the data's folder" if what == "outside" else "")
    with pytest.raises(ValueError, match="knowledge item 'i'"):
        content_hash(KnowledgeItem("i", "text", image))
    if what in ("pipe", "device", "folder", "outside"):
        with pytest.raises(ValueError, match="knowledge item 'i'"):
            content_hash(KnowledgeItem("i", "text", None, video=VideoRef(place, fault=image.fault)))
