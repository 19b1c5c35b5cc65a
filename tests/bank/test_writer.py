"""One writer: appending, replacing, the lock, a full disk, and a crash at every single write."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from comem.bank import writer as writer_module
from comem.bank.format import ENTRY, IDS, LOOKUP, MANIFEST, TABLE, EntryTable, StoreError
from comem.bank.reader import MemoryStore
from comem.bank.upkeep import verify_store
from comem.bank.writer import StoreWriter
from comem.io.files import StorageError

from .conftest import QUERIES, WIDTH, memory_of

NOTHING = bytes(16)


def append(writer: StoreWriter, *ids: str, text: str = "") -> None:
    writer.append(ids, [NOTHING] * len(ids), np.stack([memory_of(text or item_id) for item_id in ids]))


def test_what_goes_in_comes_out(empty_store: Callable[..., Path]) -> None:
    folder = empty_store()
    ids = [f"дунав {n}" for n in range(13)]
    with StoreWriter(folder) as writer:
        for start in range(0, 13, 4):
            append(writer, *ids[start : start + 4])
        assert writer.content(ids[3]) == NOTHING and writer.content("no") is None
    with MemoryStore(folder) as store:
        assert len(store) == 13 and ids[12] in store and "no" not in store and 3 not in store
        order = [ids[7], ids[0], ids[12], ids[7]]
        assert np.array_equal(store.read(order), np.stack([memory_of(item_id) for item_id in order]))
        assert store.table.ids() == ids and store.read([]).shape == (0, QUERIES, WIDTH)
    assert sorted(path.name for path in folder.glob("shard-*")) == [f"shard-0000{n}.bin" for n in range(3)]


def test_the_last_memory_of_an_id_counts(empty_store: Callable[..., Path]) -> None:
    folder = empty_store()
    with StoreWriter(folder) as writer:
        append(writer, "a", "b", "c")
    with StoreWriter(folder) as writer:
        append(writer, "b", text="new b")
        writer.remove(["c"])
        assert writer.table.slot("c") == -1
    with MemoryStore(folder) as store:
        assert store.table.ids() == ["a", "b"] and len(store) == 2
        assert np.array_equal(store.read(["b"])[0], memory_of("new b"))
    with StoreWriter(folder) as writer:
        append(writer, "c", text="c is back")
    with MemoryStore(folder) as store:
        assert len(store) == 3 and np.array_equal(store.read(["c"])[0], memory_of("c is back"))
    assert verify_store(folder).good and verify_store(folder).superseded == 3


def test_a_reader_sees_what_is_added_when_it_asks(empty_store: Callable[..., Path]) -> None:
    folder = empty_store()
    store = MemoryStore(folder)
    with StoreWriter(folder) as writer:
        append(writer, "a")
        assert "a" not in store
        store.refresh()
        assert np.array_equal(store.read(["a"])[0], memory_of("a"))
        append(writer, "b", "c", "d", "e", "f", "g")
        store.refresh()
        assert len(store) == 7 and np.array_equal(store.read(["e", "g"])[1], memory_of("g"))


def test_a_reader_from_before_the_first_lookup_sees_what_was_replaced(
    empty_store: Callable[..., Path],
) -> None:
    folder = empty_store()
    with StoreWriter(folder) as writer:
        append(writer, "a", "b")
        store = MemoryStore(folder)
        assert np.array_equal(store.read(["a"])[0], memory_of("a"))
        append(writer, "a", text="new a")
        writer.remove(["b"])
    assert (folder / LOOKUP).is_file()
    with StoreWriter(folder) as writer:
        append(writer, "c")
        store.refresh()
    assert np.array_equal(store.read(["a"])[0], memory_of("new a"))
    assert "b" not in store and "c" in store and len(store) == 2


def test_a_lookup_replaced_while_it_is_read(
    empty_store: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = empty_store()
    ids = [f"i{n}" for n in range(20)]
    with StoreWriter(folder) as writer:
        append(writer, *ids[:5])
    small = (folder / LOOKUP).read_bytes()
    with StoreWriter(folder) as writer:
        append(writer, *ids[5:])
    large, real = (folder / LOOKUP).read_bytes(), EntryTable.entry

    def entry(table: EntryTable, slot: int) -> object:
        """A writer is quicker than what comes after the header's checks."""
        (folder / "new").write_bytes(large)
        os.replace(folder / "new", folder / LOOKUP)
        return real(table, slot)

    (folder / LOOKUP).write_bytes(small)
    monkeypatch.setattr(EntryTable, "entry", entry)
    with MemoryStore(folder) as store:
        assert np.array_equal(store.read(ids), np.stack([memory_of(item_id) for item_id in ids]))
        assert len(store) == 20


@pytest.mark.parametrize("damage", ["gone", "cut", "foreign", "old"])
def test_lookup_is_only_a_help(
    empty_store: Callable[..., Path], damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = empty_store()
    with StoreWriter(folder) as writer:
        append(writer, "a", "b", "c")
    path = folder / LOOKUP
    before = path.read_bytes()
    with StoreWriter(folder) as writer:
        append(writer, "b", text="new b")
    content = {
        "gone": b"",
        "cut": before[:-3],
        "foreign": before.replace(b"LOOKUP", b"PUKOOL"),
        "old": before,
    }
    path.write_bytes(content[damage])
    with MemoryStore(folder) as store:
        assert len(store) == 3 and np.array_equal(store.read(["b"])[0], memory_of("new b"))


def test_many_checkpoints_change_nothing(
    empty_store: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "CHECKPOINT", 2)
    folder = empty_store()
    generator = np.random.default_rng(0)
    expected: dict[str, str] = {}
    with StoreWriter(folder, durable=False) as writer:
        for turn in range(60):
            name = f"i{generator.integers(12)}"
            if generator.random() < 0.3 and name in expected:
                writer.remove([name])
                del expected[name]
            else:
                append(writer, name, text=f"{name} {turn}")
                expected[name] = f"{name} {turn}"
            assert len(writer.table) == len(expected)
    with MemoryStore(folder) as store:
        assert sorted(store.table.ids()) == sorted(expected) and len(store) == len(expected)
        for name, text in expected.items():
            assert np.array_equal(store.read([name])[0], memory_of(text))


def test_bad_memories_are_refused_and_change_nothing(empty_store: Callable[..., Path]) -> None:
    folder = empty_store()
    good = np.zeros((1, QUERIES, WIDTH), np.float32)
    with StoreWriter(folder) as writer:
        with pytest.raises(StoreError, match="memory of 'a' is not finite"):
            writer.append(["a"], [NOTHING], np.full_like(good, np.nan))
        with pytest.raises(StoreError, match=r"shape \(1, 2, 3\), expected \(1, 2, 16\)"):
            writer.append(["a"], [NOTHING], good[:, :, :3])
        with pytest.raises(StoreError, match="'a' comes twice"):
            writer.append(["a", "a"], [NOTHING] * 2, np.concatenate([good, good]))
        with pytest.raises(StoreError, match="content hash of 'a': 3 bytes"):
            writer.append(["a"], [b"abc"], good)
        assert len(writer.table) == 0
        append(writer, "a")
    assert verify_store(folder).items == 1


def test_two_writers_at_once(empty_store: Callable[..., Path]) -> None:
    folder = empty_store()
    with StoreWriter(folder) as first:
        with pytest.raises(StorageError, match="another process is writing"):
            StoreWriter(folder)
        append(first, "a")
    with StoreWriter(folder) as second:
        append(second, "b")
    assert verify_store(folder).items == 2


class Crash(BaseException):
    """The power goes."""


def test_a_crash_at_every_write_loses_only_what_was_not_finished(
    empty_store: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call that writes fails once, after half of its bytes; each time the store opens and goes on."""
    real, step, number = os.pwrite, 0, 0
    while True:
        number += 1
        folder = empty_store(name=f"store{number}")
        writer = StoreWriter(folder, durable=False)
        append(writer, "a", "b", "c")
        calls = 0

        def torn(fd: int, data: bytes, offset: int, at: int = number) -> int:
            nonlocal calls
            calls += 1
            if calls == at:
                real(fd, bytes(data)[: len(data) // 2], offset)
                raise Crash
            return real(fd, data, offset)

        monkeypatch.setattr(os, "pwrite", torn)
        monkeypatch.setattr(os, "ftruncate", lambda *_: None)  # a process that died repairs nothing
        try:
            append(writer, "d", "e", "f", "g")
            crashed = False
        except Crash:
            crashed = True
        monkeypatch.undo()
        writer._release()  # as the end of the process would
        with MemoryStore(folder) as store:
            known = store.table.ids()
            assert known[:3] == ["a", "b", "c"] and set(known) <= set("abcdefg")
            assert np.array_equal(store.read(known), np.stack([memory_of(i) for i in known]))
        with StoreWriter(folder, durable=False) as again:
            append(again, *(i for i in "defgh" if i not in known))
        assert verify_store(folder).good and verify_store(folder).items == 8
        step += crashed
        if not crashed:
            break
    assert step >= 4  # two shards, ids, entries


def test_a_power_cut_at_any_moment_leaves_only_whole_memories(
    empty_store: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entries may reach the disk by themselves; of all else it holds only what was waited for."""
    folder, finished, cuts = empty_store(), list[str](), 0
    on_disk: dict[str, bytes] = {}  # what was synced
    listed: set[str] = set()  # files whose names were
    write, sync_data, sync = os.pwrite, os.fdatasync, os.fsync

    def place(fd: int) -> Path:
        return Path(os.readlink(f"/proc/self/fd/{fd}"))

    def cut() -> None:
        """Opens what a cut at this moment would leave."""
        nonlocal cuts
        cuts += 1
        left = tmp_path / f"cut{cuts}"
        left.mkdir()
        for path in folder.iterdir():
            if path.name in (TABLE, MANIFEST):
                (left / path.name).write_bytes(path.read_bytes())
            elif path.name in listed or not path.name.startswith("shard-"):
                (left / path.name).write_bytes(on_disk.get(path.name, b""))
        assert verify_store(left).good
        with MemoryStore(left) as store:
            known = store.table.ids()
            assert set(finished) <= set(known)
            assert all(np.array_equal(store.read([i])[0], memory_of(i)) for i in known)

    def written(fd: int, data: bytes, offset: int) -> int:
        done = write(fd, data, offset)
        cut()
        return done

    def synced(fd: int) -> None:
        sync_data(fd)
        on_disk[place(fd).name] = place(fd).read_bytes()
        cut()

    def synced_folder(fd: int) -> None:
        sync(fd)
        if place(fd) == folder:
            listed.update(path.name for path in folder.iterdir())
            cut()

    with StoreWriter(folder) as writer:
        monkeypatch.setattr(os, "pwrite", written)
        monkeypatch.setattr(os, "fdatasync", synced)
        monkeypatch.setattr(os, "fsync", synced_folder)
        for ids in ("a", "bcdefg", "hi", "jklmnopqr"):
            append(writer, *ids)
            finished += ids
        monkeypatch.undo()
    assert cuts > 20 and len(list(folder.glob("shard-*"))) == 4


@pytest.mark.parametrize("step", ["half of the entries", "the wait for the disk"])
def test_entries_of_a_failed_write_do_not_stay(
    empty_store: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A batch whose entries cannot all be written is not there at all, nor behind a smaller one after it."""
    folder = empty_store()
    write, sync = os.pwrite, os.fdatasync

    def full(fd: int, data: bytes, offset: int) -> int:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(TABLE):
            if offset > ENTRY.itemsize:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(fd, bytes(data)[: 2 * ENTRY.itemsize], offset)
        return write(fd, data, offset)

    def broken(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(TABLE):
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(fd)

    with StoreWriter(folder) as writer:
        append(writer, "a")
        if step == "half of the entries":
            monkeypatch.setattr(os, "pwrite", full)
        else:
            monkeypatch.setattr(os, "fdatasync", broken)
        with pytest.raises(StorageError):
            append(writer, "b", "c", "d", "e")
        monkeypatch.undo()
        with MemoryStore(folder) as store:
            assert store.table.ids() == ["a"]
        append(writer, "f")
    with MemoryStore(folder) as store:
        assert store.table.ids() == ["a", "f"] and np.array_equal(store.read(["f"])[0], memory_of("f"))
    assert verify_store(folder).good and verify_store(folder).entries == 2


def test_a_full_disk_leaves_what_was_there(
    empty_store: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = empty_store()
    with StoreWriter(folder) as writer:
        append(writer, "a")

        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(StorageError, match="free some space and run again"):
            append(writer, "b")
        monkeypatch.undo()
        append(writer, "c")
    with MemoryStore(folder) as store:
        assert store.table.ids() == ["a", "c"]


def test_a_quota(empty_store: Callable[..., Path]) -> None:
    """A real limit of the system on the size of a file, in a process of its own."""
    folder = empty_store("fp32")
    code = (
        "import sys, numpy as np\n"
        "from comem.bank.writer import StoreWriter\n"
        "from comem.io.files import StorageError\n"
        "writer = StoreWriter(sys.argv[1])\n"
        "try:\n"
        "    for n in range(100):\n"
        f"        writer.append([f'i{{n}}'], [bytes(16)], np.full((1, {QUERIES}, {WIDTH}), n, 'f4'))\n"
        "except StorageError as error:\n"
        "    print(error)\n"
    )

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    done = subprocess.run(
        [sys.executable, "-B", "-c", code, str(folder)],  # -B: the limit would cut __pycache__, too
        capture_output=True, text=True, preexec_fn=limit,
    )  # fmt: skip
    assert "nothing already written is lost" in done.stdout, done.stderr
    report = verify_store(folder)
    assert report.good and report.items == 1000 // 64 == (folder / TABLE).stat().st_size // 64
    with MemoryStore(folder) as store:
        assert (store.read(["i14"]) == 14).all()


def test_cut_ids_are_refused(empty_store: Callable[..., Path]) -> None:
    folder = empty_store()
    with StoreWriter(folder) as writer:
        append(writer, "a", "b")
    (folder / IDS).write_bytes(b"a")
    with pytest.raises(StoreError, match="ids.bin: 2 bytes were written, it was cut"):
        StoreWriter(folder)
