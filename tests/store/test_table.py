"""The file behind a memory: whole changes, deletion without traces, kills, readers, full disks."""

from __future__ import annotations

import os
import random
import re
import signal
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest

from comem.io.files import StorageError
from comem.store.index import Index, Query, conditions_of
from comem.store.scrub import Scrubber
from comem.store.table import FILE, MemoryFolderError, NoItemError, Row, Scope, Table, count_words
from comem.verifying import VerifyAnySettings, verify

WIDTH = 8


def row(name: str, seed: int = 0, text: str = "", image: bool = True, **more) -> Row:
    rng = np.random.default_rng(abs(hash((name, seed))) % 2**32)
    text = text or f"{rng.bytes(12).hex()} {rng.bytes(40).hex()}"
    vectors = tuple(rng.standard_normal(WIDTH).astype(np.float32) for _ in range(2))
    scope = Scope(more.pop("user", None), more.pop("agent", None))
    data = rng.bytes(rng.integers(100, 9000)) if image else None
    return Row(name, text, data, scope, more, f"{seed}", vectors, rng.bytes(640), count_words(text))


def traces(each: Row) -> list[bytes]:
    """Pieces of everything that is kept of an item: beginnings, middles and ends."""
    wholes = [each.text.encode(), each.image or b"", each.memory or b""]
    wholes += [vector.tobytes() for vector in each.vectors if vector is not None]
    wholes += [word.encode() for word in each.words if len(word) > 20]
    cuts = [whole[at : at + 16] for whole in wholes for at in range(0, max(1, len(whole) - 16), 200)]
    return [cut for cut in [*cuts, *(whole[-16:] for whole in wholes)] if len(cut) >= 16]


def content(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_deleted_means_no_bytes_anywhere(tmp_path: Path) -> None:
    rng, table, alive = random.Random(1), Table(tmp_path / "m", durable=False), {}
    dead: list[Row] = []
    for step in range(100):
        if len(alive) > 5 and rng.random() < 0.45:
            gone = [alive.pop(rng.choice(sorted(alive))) for _ in range(rng.randint(1, 2))]
            table.remove([each.id for each in gone])
            dead += gone
        elif alive and rng.random() < 0.2:
            name = rng.choice(sorted(alive))
            dead.append(alive[name])  # its text is in the history until the item goes: see below
            table.replace(row(name, step, image=rng.random() < 0.5))
            table.remove([name])
            alive.pop(name)
        else:
            new = [row(f"item-{step}-{n}", image=rng.random() < 0.7) for n in range(rng.randint(1, 4))]
            table.insert(new)
            alive |= {each.id: each for each in new}
    found = content(tmp_path / "m")
    assert all(piece in found for each in alive.values() for piece in traces(each)[:1]), "the search can find"
    assert len(dead) > 40
    left = [(each.id, piece) for each in dead for piece in traces(each) if piece in found]
    assert left == []
    assert table.check() == []


def hexes(data: bytes) -> set[bytes]:
    return set(re.findall(rb"(?=([0-9a-f]{12}))", data))


@pytest.mark.parametrize(("steps", "durable"), [(60, False), (15, True)])
def test_pages_that_gave_rows_to_others_keep_no_copies(tmp_path: Path, monkeypatch, steps, durable) -> None:
    """`secure_delete` alone leaves these; nor does a journal have them, which a kill would leave behind."""
    rng, table, dead = random.Random(steps), Table(tmp_path / "m", durable=durable), set()
    alive: dict[str, str] = {}
    changed = Scrubber.changed

    def looked_at(self: Scrubber):
        pages = changed(self)
        assert pages is not None and len(pages), "known from the journal, not all pages"
        assert not hexes((tmp_path / "m" / f"{FILE}-journal").read_bytes()) & dead
        return pages

    monkeypatch.setattr(Scrubber, "changed", looked_at)
    for step in range(steps):
        new = [
            row(
                f"{step}-{n}",
                text=" ".join(rng.randbytes(6).hex() for _ in range(rng.randint(1, 12))),
                image=False,
            )
            for n in range(rng.randint(1, 25))
        ]
        table.insert(new)
        alive |= {each.id: each.text for each in new}
        gone = [alive.pop(name) for name in rng.sample(sorted(alive), rng.randint(0, min(len(alive), 25)))]
        ids = [name for name in table.ids([], []) if name not in alive]
        table.remove(ids)
        dead |= {word.encode() for text in gone for word in text.split()}
    left = hexes(content(tmp_path / "m"))
    assert len(dead) > 30 * steps and not dead & left
    assert {word.encode() for text in alive.values() for word in text.split()} <= left, "the search can find"
    assert table.check() == []


def test_what_a_killed_writer_did_not_overwrite_goes_with_the_next(tmp_path: Path, monkeypatch) -> None:
    rng = random.Random(0)
    texts = {f"{n}": " ".join(rng.randbytes(6).hex() for _ in range(8)) for n in range(600)}
    first = Table(tmp_path / "m", durable=False)
    with monkeypatch.context() as patch:
        patch.setattr(Scrubber, "scrub", lambda *_: False)
        for name, text in texts.items():
            first.insert([row(name, text=text, image=False)])
        gone = rng.sample(sorted(texts), 500)
        for name in gone:
            first.remove([name])
    dead = {word.encode() for name in gone for word in texts[name].split()}
    assert dead & hexes(content(tmp_path / "m")), "SQLite leaves some"
    first._writing.close()  # as a kill does; the mark of a clean end is not there
    second = Table(tmp_path / "m", durable=False)
    second.insert([row("new")])
    assert not dead & hexes(content(tmp_path / "m")) and second.check() == []
    second.close()
    third, scrubbed = Table(tmp_path / "m", durable=False), []
    monkeypatch.setattr(Scrubber, "scrub", lambda _, changed=None: scrubbed.append(changed))
    third.insert([row("newer")])
    assert all(each is not None and len(each) < 30 for each in scrubbed), (
        "and not all again after a clean end"
    )


def test_an_updated_text_is_in_the_history_until_the_item_goes(tmp_path: Path) -> None:
    table, old = Table(tmp_path / "m", durable=False), row("a")
    table.insert([old])
    table.replace(row("a", 1))
    found = content(tmp_path / "m")
    assert old.text.encode() in found and old.image not in found
    assert [each["event"] for each in table.history("a")] == ["ADD", "UPDATE"]
    table.remove(["a"])
    assert old.text.encode() not in content(tmp_path / "m")
    assert [(each["event"], each["old_memory"]) for each in table.history("a")] == [("DELETE", None)]


def work_until_killed(folder: Path, seed: int, acknowledged: int) -> None:
    """Change a memory at random; write a byte for every change that was acknowledged."""
    rng, table = random.Random(seed), Table(folder, durable=seed % 10 == 0)
    ids = table.ids([], [])
    for step in range(100_000):
        choice = rng.random()
        if choice < 0.5 or len(ids) < 4:
            new = [row(f"s{seed}-{step}-{n}", image=rng.random() < 0.5) for n in range(rng.randint(1, 3))]
            table.insert(new)
            ids += [each.id for each in new]
        elif choice < 0.75:
            table.replace(row(rng.choice(ids), step))
        else:
            table.remove([ids.pop(rng.randrange(len(ids)))])
        os.write(acknowledged, b"x")


def test_killed_at_a_hundred_moments_nothing_is_half_there(tmp_path: Path) -> None:
    folder, rng, changes = tmp_path / "m", random.Random(7), 0
    Table(folder).close()
    for attempt in range(100):
        reading, writing = os.pipe()
        before = revision(folder)
        child = os.fork()
        if child == 0:
            try:
                work_until_killed(folder, attempt, writing)
            finally:
                os._exit(1)
        os.close(writing)
        after_work(child, rng.uniform(0.003, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        said = len(os.read(reading, 1 << 16))
        os.close(reading)
        table = Table(folder)
        assert table.check() == []
        done = revision(folder) - before
        assert done - said in (0, 1), "every acknowledged change is there, and at most one more"
        changes += done
        index = Index(table)
        index.refresh()
        assert index._count == len(table)
        read = table.read(index._numbers[: index._count].tolist())
        assert all(memory is not None and len(memory) == 640 for _, _, memory in read)
        table.close()
    assert changes > 50


def after_work(process: int, seconds: float) -> None:
    """Wait until a process has had so much time of a processor, on a busy machine as on a quiet one."""
    clock, end = (~process << 3) | 2, time.monotonic() + 30  # Linux: the clock of another process's work
    while time.clock_gettime(clock) < seconds and time.monotonic() < end:
        time.sleep(0.0005)


def revision(folder: Path) -> int:
    db = sqlite3.connect(folder / FILE)
    try:
        return int(db.execute("SELECT value FROM about WHERE name = 'revision'").fetchone()[0])
    finally:
        db.close()


def test_one_writer_and_readers_who_see_each_change_whole(tmp_path: Path) -> None:
    writer = Table(tmp_path / "m", durable=False)
    writer.insert([row(f"{n}", user="ann") for n in range(10)])
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # another process
        try:
            reader = Table(tmp_path / "m", durable=False)
            index = Index(reader)
            refused = b"-"
            try:
                reader.insert([row("mine")])
            except StorageError as error:
                refused = b"refused" if str(os.getppid()) in str(error) else b"?"
            counts = set()
            for _ in range(300):
                index.refresh()
                counts.add(index._count)
            os.write(writing, refused + b" " + repr(counts).encode())
        finally:
            os._exit(0)
    for n in range(60):  # always ten at a time
        writer.insert([row(f"{n}-{m}") for m in range(10)])
        writer.remove([f"{n}-{m}" for m in range(10)])
    os.waitpid(child, 0)
    said, counts = os.read(reading, 4096).decode().split(" ", 1)
    assert said == "refused"
    assert eval(counts) <= {10, 20}, counts


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    table = Table(tmp_path / "m", durable=False)
    table.insert([row("a")])
    pages = table._db.execute("PRAGMA page_count").fetchone()[0]
    table._db.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StorageError, match="free some space"):
        table.insert([row(f"b{n}") for n in range(20)])
    assert table.ids([], []) == ["a"] and table.check() == []
    table._db.execute("PRAGMA max_page_count = 1000000")
    table.insert([row("b")])
    assert len(table) == 2


def test_all_or_nothing(tmp_path: Path) -> None:
    table = Table(tmp_path / "m", durable=False)
    table.insert([row("a")])
    with pytest.raises(MemoryFolderError, match="'a'.*there already"):
        table.insert([row("b"), row("a")])
    with pytest.raises(NoItemError, match="'c'"):
        table.remove(["a", "c"])
    assert table.ids([], []) == ["a"]
    assert [each.id for each in table.get(["a"])] == ["a"]


def test_folders_that_are_something_else(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "holiday.jpg").write_bytes(b"")
    with pytest.raises(MemoryFolderError, match="other things"):
        Table(tmp_path / "x")
    with pytest.raises(MemoryFolderError, match="a file, or"):
        Table(tmp_path / "x" / "holiday.jpg")
    with pytest.raises(MemoryFolderError, match="no memory here"):
        Table(tmp_path / "y", must_exist=True)
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / FILE).write_bytes(b"not a database at all" * 100)
    with pytest.raises(MemoryFolderError, match="not a memory, or a damaged one"):
        Table(tmp_path / "z")
    table = Table(tmp_path / "new")
    table.note({"version": "99"})
    table.close()
    with pytest.raises(MemoryFolderError, match="version 99, known is 1: update comem"):
        Table(tmp_path / "new")


def test_the_index_equals_a_search_from_scratch_after_any_changes(tmp_path: Path) -> None:
    rng, table = random.Random(3), Table(tmp_path / "m", durable=False)
    index, rows = Index(table), {}
    for step in range(60):
        new = [row(f"{step}-{n}") for n in range(3)]
        table.insert(new)
        rows |= {each.id: each for each in new}
        if rng.random() < 0.7:
            gone = rng.sample(sorted(rows), 2)
            table.remove(gone)
            rows = {name: each for name, each in rows.items() if name not in gone}
        query = np.random.default_rng(step).standard_normal(WIDTH).astype(np.float32)
        hits = index.search(Query(image=query), 5)
        wanted = sorted(rows.values(), key=lambda each: -float(each.vectors[0] @ query))[:5]
        assert [each.id for each, _, _ in table.read([n for n, _ in hits])] == [each.id for each in wanted]
        assert [score for _, score in hits] == pytest.approx(
            [float(w.vectors[0] @ query) for w in wanted], abs=1e-5
        )


def test_words_find_what_vectors_do_not(tmp_path: Path) -> None:
    table, nothing = Table(tmp_path / "m", durable=False), np.zeros(WIDTH, np.float32)
    texts = ["The mill was built in 1204.", "The dog likes apples.", "Ann lives in Oslo.", "水车建于1204年"]
    table.insert([row(f"{n}", text=text) for n, text in enumerate(texts)])
    index = Index(table)

    def best(text: str) -> str:
        (number, _), *_ = index.search(Query(text=nothing, words=tuple(count_words(text))), 1)
        return table.read([number])[0][0].text

    assert best("When was the mill built?") == texts[0]
    assert best("what does the DOG like") == texts[1]
    assert best("oslo") == texts[2]
    assert best("水车") == texts[3]


def test_filters(tmp_path: Path) -> None:
    table = Table(tmp_path / "m", durable=False)
    table.insert(
        [
            row("a", user="ann", year=1204, place="Oslo", tags="mill river"),
            row("b", user="ann", year=1900, place="Bergen"),
            row("c", user="ben", year=1500, place="Oslo", **{"odd key": "x'; DROP TABLE items; --"}),
        ]
    )

    def ids(given: dict, **scope) -> list[str]:
        return sorted(table.ids(*conditions_of(Scope(**scope), given)))

    assert ids({}, user_id="ann") == ["a", "b"]
    assert ids({"place": "Oslo"}, user_id="ann") == ["a"]
    assert ids({"year": {"gte": 1204, "lt": 1900}}) == ["a", "c"]
    assert ids({"place": {"in": ["Oslo", "Rome"]}, "NOT": {"user_id": "ben"}}) == ["a"]
    assert ids({"OR": [{"year": 1900}, {"place": {"ne": "Bergen"}, "year": {"gt": 1400}}]}) == ["b", "c"]
    assert ids({"tags": {"contains": "mill"}}) == ["a"] and ids({"place": {"icontains": "OSL"}}) == ["a", "c"]
    assert ids({"odd key": "x'; DROP TABLE items; --"}) == ["c"]
    assert ids({"year": {"nin": [1204]}}) == ["b", "c"] and ids({"place": ["Oslo", "Rome"]}) == ["a", "c"]
    for wrong in (
        {"year": float("nan")},
        {"a\0": 1},
        {"year": {}},
        {"OR": []},
        {"NOT": [{}]},
        {"year": {"above": 3}},
        {"year": {"gt": {}}},
        {'a"b': 1},
        {"AND": [[1]]},
    ):
        with pytest.raises(MemoryFolderError):
            ids(wrong)
    deep: dict = {"a": 1}
    for _ in range(50):
        deep = {"NOT": deep}
    with pytest.raises(MemoryFolderError, match="deep"):
        ids(deep)


def state(folder: Path) -> list[str]:
    """Everything that a memory's table tells, as text."""
    table = Table(folder, must_exist=True, durable=False)
    try:
        ids = sorted(table.ids([], []))
        numbers = table.numbers(["1"], [])
        changes, items = table.changes(0), table.read(numbers.tolist())
        told = [repr(changes), repr(items), *(repr(table.history(name)) for name in ids)]
        words = sorted({word for found, _, _ in items for word in count_words(found.text)})
        return [
            *told,
            *(repr(table.postings(word)) for word in words),
            repr(table.count(["user_id = 'ann'"], [])),
        ]
    finally:
        table.close()


def damage(folder: Path) -> str:
    """What `check` says, or why the file cannot be opened."""
    try:
        table = Table(folder, must_exist=True, durable=False)
        try:
            return "; ".join(table.check())
        finally:
            table.close()
    except MemoryFolderError as error:
        return str(error)


@pytest.fixture
def three(tmp_path: Path) -> Path:
    table = Table(tmp_path / "m", durable=False)
    table.insert(
        [row(f"item{n}", text=f"The mill number {n}, built in {n}204.", user="ann") for n in range(3)]
    )
    table.replace(row("item1", 7, text="The mill was pulled down.", image=False))
    table.close()
    return tmp_path / "m"


def test_no_flipped_bit_is_read_as_what_was_written(three: Path) -> None:
    np.set_printoptions(threshold=10**6)
    path = three / FILE
    whole, before, found = path.read_bytes(), state(three), 0
    assert damage(three) == ""
    for place in random.Random(5).sample(range(len(whole)), 250):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        try:
            same = state(three) == before
        except MemoryFolderError as error:
            assert str(error)
            same = False
        if not same:
            found += 1
            assert damage(three), place
    assert found > 10


@pytest.mark.parametrize(
    "change",
    [
        "items SET text = 'The mill, built in 1240.'", "items SET metadata = '{\"a\": 1}'",
        "items SET user_id = 'bob'", "items SET created = created + 1", "images SET data = zeroblob(9)",
        "vectors SET image = NULL", "vectors SET text = zeroblob(32)", "vectors SET length = 99",
        "memories SET data = zeroblob(640)", "words SET count = 3", "words SET word = 'wind' || word",
        "history SET old = 'x' WHERE old IS NOT NULL", "history SET new = 'x'", "history SET time = time + 1",
    ],
)  # fmt: skip
def test_everything_that_is_kept_has_a_checksum(three: Path, change: str) -> None:
    db = sqlite3.connect(three / FILE)
    db.execute(f"UPDATE {change}")
    db.commit()
    db.close()
    assert "not what was written" in damage(three)
    if "memories" in change:
        with pytest.raises(MemoryFolderError, match="the memory of item 'item0' is damaged"):
            state(three)


def test_a_folder_from_before_checksums_gets_them_with_its_changes(three: Path) -> None:
    db = sqlite3.connect(three / FILE)
    db.execute("DROP TABLE sums")
    db.commit()
    db.close()
    before = state(three)
    (found,) = verify(VerifyAnySettings((three,)))
    assert (found.kind, found.faults) == ("memory", ()) and "3 items have no checksums" in found.unverified[0]
    table = Table(three, durable=False)
    table.insert([row("new")])
    assert (table.check(), table.unsummed()) == ([], 3)
    table.remove(["item0", "new"])
    assert (table.check(), table.unsummed(), len(before)) == ([], 2, len(before))
    table.close()
