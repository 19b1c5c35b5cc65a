"""The file behind a memory: texts, images, vectors and memories of every item, in one SQLite database.

SQLite, because a change of an item touches its text, its image, its vectors, its words and its memory, and
has to be whole: here that is one transaction. What is deleted is overwritten with zeros (`secure_delete`, and
`Scrubber` where that does not reach), and the rollback journal, unlike a write-ahead log, is gone with the
commit, so that no file keeps a copy.
The figures that decided it are in docs/serving.md.
"""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from comem.io.files import StorageError, one_writer, storage_errors, valid
from comem.store.scrub import Scrubber

FILE, LOCK, CLEAN = "memory.sqlite", ".memory.lock", ".memory.clean"
FORMAT, VERSION = "comem-memory", 1
SCOPES = ("user_id", "agent_id", "run_id")
#: Scripts without spaces by the character, all others by the word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
_WAIT = 30.0  # seconds that a reader or the writer waits for the other's transaction
_SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE items (
  number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, text TEXT NOT NULL,
  user_id TEXT, agent_id TEXT, run_id TEXT, metadata TEXT NOT NULL, content TEXT NOT NULL,
  created REAL NOT NULL, updated REAL NOT NULL, revision INTEGER NOT NULL
);
CREATE INDEX items_user ON items (user_id);
CREATE INDEX items_agent ON items (agent_id);
CREATE INDEX items_run ON items (run_id);
CREATE INDEX items_revision ON items (revision);
CREATE TABLE images (number INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE vectors (number INTEGER PRIMARY KEY, image BLOB, text BLOB, length INTEGER NOT NULL);
CREATE TABLE memories (number INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE words (word TEXT, number INTEGER, count INTEGER, PRIMARY KEY (word, number)) WITHOUT ROWID;
CREATE TABLE gone (number INTEGER PRIMARY KEY, revision INTEGER NOT NULL);
CREATE INDEX gone_revision ON gone (revision);
CREATE TABLE history (id TEXT, revision INTEGER, event TEXT, time REAL, old TEXT, new TEXT);
CREATE INDEX history_id ON history (id, revision);
"""
_SUMS = "CREATE TABLE IF NOT EXISTS sums (number INTEGER PRIMARY KEY, item INTEGER, memory INTEGER)"
_WHOLE = """
SELECT items.*, length, vectors.image, vectors.text, images.data, memories.data FROM items
LEFT JOIN vectors USING (number) LEFT JOIN images USING (number) LEFT JOIN memories USING (number)
"""
_COLUMNS = "number, id, text, user_id, agent_id, run_id, metadata, content, created, updated"


class MemoryFolderError(ValueError):
    """A memory folder that cannot be used, or what cannot be written to it; names the remedy."""


class NoItemError(MemoryFolderError):
    """An item that is not there, or no longer."""


@dataclass(frozen=True)
class Scope:
    """Whose an item is; None means nobody's in particular.

    Attributes:
        user_id: of a person.
        agent_id: of a program that acts for people.
        run_id: of one session.
    """

    user_id: str | None = None
    agent_id: str | None = None
    run_id: str | None = None

    def where(self) -> tuple[list[str], list[Any]]:
        """Conditions and their values: what was named must be equal."""
        named = [(name, value) for name in SCOPES if (value := getattr(self, name)) is not None]
        return [f"{name} = ?" for name, _ in named], [value for _, value in named]

    @property
    def named(self) -> bool:
        """Whether anybody is named."""
        return any(getattr(self, name) is not None for name in SCOPES)


@dataclass(frozen=True)
class Row:
    """An item as it is written.

    Attributes:
        id: unique in the folder.
        text: may be empty where there is an image.
        image: the encoded file, or None.
        scope: whose it is.
        metadata: any JSON.
        content: digest of text and image.
        vectors: float32 `(d,)` of image and text; None for what it lacks.
        memory: packed `(q, d)`, or None.
        words: how often each word occurs in the text.
    """

    id: str
    text: str
    image: bytes | None
    scope: Scope
    metadata: Mapping[str, Any]
    content: str
    vectors: tuple[np.ndarray | None, np.ndarray | None]
    memory: bytes | None
    words: Mapping[str, int]


@dataclass(frozen=True)
class Found:
    """An item as it is read, without image and memory."""

    number: int
    id: str
    text: str
    scope: Scope
    metadata: Mapping[str, Any]
    content: str
    created: float
    updated: float


@dataclass
class Changes:
    """What happened since a revision.

    Attributes:
        revision: the newest.
        numbers: int64 `(n,)`, of items that are new or were changed.
        images, texts: float32 `(n, d)`, NaN rows where an item has none.
        lengths: int64 `(n,)`, words of each text.
        gone: numbers of deleted items.
    """

    revision: int
    numbers: np.ndarray
    images: np.ndarray
    texts: np.ndarray
    lengths: np.ndarray
    gone: list[int] = field(default_factory=list)


class Table:
    """The items of a folder: one process writes, any number read.

    A process becomes the writer with its first change and stays it until it closes; others are then refused
    by name. Every method is one transaction; a reader sees all of a change or nothing.

    Args:
        folder: the memory's; made when missing, unless `must_exist`.
        must_exist: refuse a folder that holds no memory.
        durable: a change is on the disk before it counts (a power cut), instead of only with the system
            (kill -9).

    Raises:
        MemoryFolderError: no memory, one of a newer version, or a damaged one.
        StorageError: no space left, or another process writes.
    """

    def __init__(self, folder: str | Path, *, must_exist: bool = False, durable: bool = True) -> None:
        self.folder, self._durable = Path(folder), durable
        self.path = self.folder / FILE
        self._lock, self._writing = threading.RLock(), ExitStack()
        self._writer = False
        self._scrubber: Scrubber | None = None
        if not self.path.is_file():
            if must_exist:
                raise MemoryFolderError(f"{self.folder}: no memory here ({FILE} is missing); check the path")
            if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
                raise MemoryFolderError(
                    f"{self.folder}: a file, or a folder of other things, not a memory; give a name that is "
                    "free (a folder of images is added with memory.add(folder))"
                )
            self._create()
        try:
            self._db = self._connect()
            self._about = dict(self._db.execute("SELECT name, value FROM about").fetchall())
        except sqlite3.DatabaseError as error:
            raise MemoryFolderError(
                f"{self.path}: not a memory, or a damaged one ({error}); restore a copy"
            ) from error
        self._check_version()

    def _create(self) -> None:
        self.begin_writing()
        with self._guarded():
            db = sqlite3.connect(self.path, isolation_level=None)
            try:
                db.execute("PRAGMA auto_vacuum = INCREMENTAL")
                db.executescript(f"BEGIN EXCLUSIVE; {_SCHEMA}; {_SUMS}")
                facts = {"format": FORMAT, "version": str(VERSION), "revision": "0"}
                db.executemany("INSERT INTO about VALUES (?, ?)", facts.items())
                db.execute("COMMIT")
            finally:
                db.close()

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=_WAIT, isolation_level=None, check_same_thread=False)
        synchronous = "EXTRA" if self._durable else "OFF"
        for pragma in ("secure_delete = ON", f"synchronous = {synchronous}", "temp_store = MEMORY"):
            db.execute(f"PRAGMA {pragma}")
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("PRAGMA cache_size = -65536")
        return db

    def _check_version(self) -> None:
        if self._about.get("format") != FORMAT:
            raise MemoryFolderError(f"{self.path}: a database of something else; give another folder")
        if int(self._about["version"]) > VERSION:
            raise MemoryFolderError(
                f"{self.path}: version {self._about['version']}, known is {VERSION}: update comem"
            )

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """One thread at a time, and SQLite's errors as ours."""
        with self._lock:
            try:
                yield
            except sqlite3.OperationalError as error:
                text = str(error)
                if "full" in text or "disk I/O" in text:
                    full = OSError(28, f"{text}; nothing is half written")
                    with storage_errors(self.path):
                        raise full from error
                if "locked" in text:
                    raise StorageError(
                        11, "another process keeps this memory busy; try again", str(self.path)
                    ) from error
                if "readonly" in text:
                    gone = not self.path.exists()
                    why = "was removed or replaced while it was open" if gone else "may not be written to"
                    raise StorageError(30, f"this memory {why}", str(self.path)) from error
                raise MemoryFolderError(f"{self.path}: {text}") from error
            except (OverflowError, UnicodeEncodeError) as error:
                raise MemoryFolderError(
                    f"neither stored nor compared: a number beyond 64 bits, or half a character ({error})"
                ) from error
            except sqlite3.Error as error:
                if isinstance(error, sqlite3.IntegrityError):
                    raise
                if "closed" in str(error):
                    raise MemoryFolderError(f"{self.folder}: this memory is closed; open it again") from error
                if "binding" in str(error):
                    raise MemoryFolderError(f"ids and owners are texts ({error})") from error
                raise MemoryFolderError(f"{self.path}: damaged ({error}); restore a copy") from error

    def begin_writing(self) -> None:
        """Become the writer.

        Raises:
            StorageError: another process is.
        """
        with self._lock:
            if not self._writer:
                self._writing.enter_context(one_writer(self.folder / LOCK))
                self._writer = True

    @contextmanager
    def _change(self) -> Iterator[int]:
        """A transaction, with its revision; on any error nothing has happened."""
        self.begin_writing()
        with self._guarded():
            scrubber = self._scrubber or self._scrubbed()
            self._db.execute("BEGIN IMMEDIATE")
            try:
                revision = self._revision() + 1
                self._db.execute("UPDATE about SET value = ? WHERE name = 'revision'", (str(revision),))
                yield revision
                changed = scrubber.changed()
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            if scrubber.scrub(changed):
                self._db.execute("PRAGMA shrink_memory")  # SQLite's own copies of these pages

    def _scrubbed(self) -> Scrubber:
        """With the first change: clean what an earlier writer left that did not come to its end."""
        self._db.execute("SELECT value FROM about").fetchone()  # takes back what it had begun
        self._db.execute(_SUMS)  # of folders from before there were checksums
        self._scrubber = Scrubber(self.path, self._durable)
        clean = self.folder / CLEAN
        if clean.exists():
            clean.unlink()
            self._scrubber.scrub(np.zeros(0, np.int64))
        elif self._scrubber.scrub():
            self._db.execute("PRAGMA shrink_memory")
        return self._scrubber

    @contextmanager
    def _view(self) -> Iterator[None]:
        """A transaction that reads: all statements see the same state."""
        with self._guarded():
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                if self._db.in_transaction:
                    self._db.execute("COMMIT")

    def _revision(self) -> int:
        return int(self._db.execute("SELECT value FROM about WHERE name = 'revision'").fetchone()[0])

    def close(self) -> None:
        """Close the file, and let others write."""
        with self._lock:
            self._db.close()
            if self._scrubber is not None:
                self._scrubber.close()
                self._scrubber = None
                with suppress(OSError):  # the folder may be gone; without the mark all is looked at again
                    (self.folder / CLEAN).touch()
            self._writing.close()
            self._writer = False

    def about(self) -> dict[str, str]:
        """What the folder says of itself: version, models."""
        with self._guarded():
            return dict(self._db.execute("SELECT name, value FROM about").fetchall())

    def note(self, facts: Mapping[str, str]) -> None:
        """Write down facts about the folder."""
        with self._change():
            self._db.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", facts.items())

    # --- changes ---

    def insert(self, rows: Sequence[Row]) -> None:
        """Add items, all or none.

        Raises:
            MemoryFolderError: an id is there already.
            StorageError: no space left, or another process writes.
        """
        now = time.time()
        with self._change() as revision:
            for row in rows:
                try:
                    number = self._db.execute(
                        "INSERT INTO items (id, text, user_id, agent_id, run_id, metadata, content, created,"
                        " updated, revision) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                        (row.id, row.text, row.scope.user_id, row.scope.agent_id, row.scope.run_id,
                         _json(row.metadata), row.content, now, now, revision),
                    ).lastrowid  # fmt: skip
                except sqlite3.IntegrityError as error:
                    raise MemoryFolderError(
                        f"id {row.id!r}: an item with this id is there already; change it with update(), "
                        "or leave the id out"
                    ) from error
                assert number is not None
                self._log(row.id, revision, "ADD", now, None, row.text)
                self._put_content(number, row)

    def replace(self, row: Row) -> None:
        """Change an item; whose it is stays.

        Raises:
            NoItemError: it is not there.
            StorageError: as `insert`.
        """
        now = time.time()
        with self._change() as revision:
            number, old = self._known(row.id)
            self._drop_content(number, old)
            self._db.execute(
                "UPDATE items SET text = ?, metadata = ?, content = ?, updated = ?, revision = ?"
                " WHERE number = ?",
                (row.text, _json(row.metadata), row.content, now, revision, number),
            )
            self._log(row.id, revision, "UPDATE", now, old, row.text)
            self._put_content(number, row)

    def remove(self, ids: Sequence[str]) -> None:
        """Delete items, all or none: what they held is overwritten, in the history, too.

        Raises:
            NoItemError: one is not there.
            StorageError: as `insert`.
        """
        now = time.time()
        with self._change() as revision:
            for item_id in ids:
                number, old = self._known(item_id)
                self._drop_content(number, old)
                self._db.execute("DELETE FROM items WHERE number = ?", (number,))
                self._db.execute("INSERT INTO gone VALUES (?, ?)", (number, revision))
                self._db.execute("DELETE FROM history WHERE id = ?", (item_id,))
                self._log(item_id, revision, "DELETE", now, None, None)
            self._db.execute("PRAGMA incremental_vacuum(256)").fetchall()  # free pages, zeros already

    def _known(self, item_id: str) -> tuple[int, str]:
        row = self._db.execute("SELECT number, text FROM items WHERE id = ?", (item_id,)).fetchone()
        if row is None:
            raise NoItemError(f"no item {item_id!r} in this memory; it may have been deleted")
        return row[0], row[1]

    def _put_content(self, number: int, row: Row) -> None:
        run = self._db.execute
        image, text = (None if v is None else np.asarray(v, "<f4").tobytes() for v in row.vectors)
        length = sum(row.words.values())
        run("INSERT INTO vectors VALUES (?, ?, ?, ?)", (number, image, text, length))
        if row.image is not None:
            run("INSERT INTO images VALUES (?, ?)", (number, row.image))
        if row.memory is not None:
            run("INSERT INTO memories VALUES (?, ?)", (number, row.memory))
        postings = [(word, number, count) for word, count in row.words.items()]
        self._db.executemany("INSERT INTO words VALUES (?, ?, ?)", postings)
        whole = self._db.execute(f"{_WHOLE} WHERE items.number = ?", (number,)).fetchone()
        beside = [*row.words.items(), *run("SELECT * FROM history WHERE id = ?", (row.id,))]
        run("INSERT INTO sums VALUES (?, ?, ?)", (number, *_sums(whole, sum(map(_crc, beside)))))

    def _drop_content(self, number: int, text: str) -> None:
        for table in ("vectors", "images", "memories", "sums"):
            self._db.execute(f"DELETE FROM {table} WHERE number = ?", (number,))
        pairs = [(word, number) for word in count_words(text)]
        self._db.executemany("DELETE FROM words WHERE word = ? AND number = ?", pairs)

    def _log(
        self, item_id: str, revision: int, event: str, now: float, old: str | None, new: str | None
    ) -> None:
        values = (item_id, revision, event, now, old, new)
        self._db.execute("INSERT INTO history VALUES (?, ?, ?, ?, ?, ?)", values)

    # --- reading ---

    def __len__(self) -> int:
        with self._guarded():
            return int(self._db.execute("SELECT count(*) FROM items").fetchone()[0])

    def get(self, ids: Sequence[str]) -> list[Found]:
        """Items by id, in this order.

        Raises:
            NoItemError: one is not there.
        """
        with self._view():
            found = {each.id: each for each in self._select("id", ids)}
        for item_id in ids:
            if item_id not in found:
                raise NoItemError(f"no item {item_id!r} in this memory; it may have been deleted")
        return [found[item_id] for item_id in ids]

    def known(self, ids: Sequence[str]) -> dict[str, str]:
        """Of these ids those that are there, with the digest of their content."""
        with self._view():
            return {each.id: each.content for each in self._select("id", ids)}

    def read(self, numbers: Sequence[int]) -> list[tuple[Found, bytes | None, bytes | None]]:
        """Items by number with images and memories, in this order; those that have gone are left out.

        Raises:
            MemoryFolderError: a memory is not what was written.
        """
        with self._view():
            found = {each.number: each for each in self._select("number", numbers)}
            images = self._blobs("images", numbers)
            memories = self._blobs("memories", numbers)
            known = numbers if self._summed else ()
            for checksum, number in [*self._where("SELECT memory, number FROM sums WHERE number", known)]:
                if number in found and checksum != zlib.crc32(memories.get(number, b"")):
                    raise MemoryFolderError(
                        f"{self.path}: the memory of item {found[number].id!r} is damaged; update the item, "
                        "or restore a copy"
                    )
        return [(found[n], images.get(n), memories.get(n)) for n in numbers if n in found]

    def image(self, item_id: str) -> bytes | None:
        """An item's image as it was given; None if it has none, or there is no such item."""
        with self._guarded():
            row = self._db.execute(
                "SELECT data FROM images JOIN items USING (number) WHERE id = ?", (item_id,)
            ).fetchone()
        return None if row is None else bytes(row[0])

    def pictured(self, numbers: Sequence[int]) -> set[int]:
        """Of these items those that have an image."""
        with self._guarded():
            return {row[0] for row in self._where("SELECT number FROM images WHERE number", numbers)}

    def _blobs(self, table: str, numbers: Sequence[int]) -> dict[int, bytes]:
        return dict(self._where(f"SELECT number, data FROM {table} WHERE number", numbers))

    def _select(self, column: str, values: Sequence[Any]) -> list[Found]:
        rows = [*self._where(f"SELECT {_COLUMNS} FROM items WHERE {column}", values)]
        return [_found(row) for row in rows]

    def _where(self, query: str, values: Sequence[Any]) -> Iterator[Any]:
        """Rows of a query whose last column is one of these; SQLite takes so many values at once."""
        for start in range(0, len(values), 500):
            part = list(values[start : start + 500])
            yield from self._db.execute(f"{query} IN ({','.join('?' * len(part))})", part)

    def page(self, conditions: Sequence[str], values: Sequence[Any], limit: int, offset: int) -> list[Found]:
        """Items under conditions, the newest first."""
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        query = f"SELECT {_COLUMNS} FROM items{where} ORDER BY number DESC LIMIT ? OFFSET ?"
        with self._guarded():
            return [_found(row) for row in self._db.execute(query, [*values, limit, offset])]

    def numbers(self, conditions: Sequence[str], values: Sequence[Any]) -> np.ndarray:
        """Numbers of the items under conditions, int64."""
        query = f"SELECT number FROM items WHERE {' AND '.join(conditions)}"
        with self._guarded():
            return np.fromiter((row[0] for row in self._db.execute(query, list(values))), np.int64)

    def ids(self, conditions: Sequence[str], values: Sequence[Any]) -> list[str]:
        """Ids of the items under conditions."""
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        with self._guarded():
            return [row[0] for row in self._db.execute(f"SELECT id FROM items{where}", list(values))]

    def count(self, conditions: Sequence[str], values: Sequence[Any]) -> int:
        """How many items there are under conditions."""
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        with self._guarded():
            return int(self._db.execute(f"SELECT count(*) FROM items{where}", list(values)).fetchone()[0])

    def history(self, item_id: str) -> list[dict[str, Any]]:
        """What happened to an item, the oldest first."""
        query = "SELECT event, time, old, new FROM history WHERE id = ? ORDER BY revision"
        with self._guarded():
            rows = self._db.execute(query, (item_id,)).fetchall()
        return [
            {"id": item_id, "event": e, "time": t, "old_memory": old, "new_memory": new}
            for e, t, old, new in rows
        ]

    def postings(self, word: str) -> np.ndarray:
        """int64 `(n, 2)`: the items that a word occurs in, and how often."""
        with self._guarded():
            rows = self._db.execute("SELECT number, count FROM words WHERE word = ?", (word,)).fetchall()
        return np.array(rows, np.int64).reshape(-1, 2)

    @property
    def writes(self) -> bool:
        """Whether this process is the writer."""
        return self._writer

    def changes(self, since: int, vectors: bool = True) -> Changes | None:
        """What happened since a revision; None if nothing did.

        Args:
            since: the revision.
            vectors: read them, too; without, `images` and `texts` are `(n, 0)`.
        """
        with self._view():
            revision = self._revision()
            if revision == since:
                return None
            columns = "image, vectors.text" if vectors else "NULL, NULL"
            rows = self._db.execute(
                # The index by name: in the order of the numbers SQLite would pass over every item there is.
                f"SELECT number, {columns}, length FROM items INDEXED BY items_revision"
                " JOIN vectors USING (number) WHERE revision > ?", (since,),
            ).fetchall()  # fmt: skip
            gone = [
                row[0] for row in self._db.execute("SELECT number FROM gone WHERE revision > ?", (since,))
            ]
        numbers = np.array([row[0] for row in rows], np.int64)
        lengths = np.array([row[3] for row in rows], np.int64)
        images, texts = (_matrix([row[column] for row in rows]) for column in (1, 2))
        return Changes(revision, numbers, images, texts, lengths, gone if since else [])

    @property
    def _summed(self) -> bool:
        """Whether there are checksums; in a folder from before there were any, since its next change."""
        return self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'sums'").fetchone() is not None

    def check(self) -> list[str]:
        """What is wrong with the file, in words: damage, or an item without its parts; all of it is read."""
        with self._view():
            faults = [row[0] for row in self._db.execute("PRAGMA integrity_check") if row[0] != "ok"]
            for table in ("vectors", "images", "memories", "words", *("sums",) * self._summed):
                query = f"SELECT count(*) FROM {table} WHERE number NOT IN (SELECT number FROM items)"
                if count := self._db.execute(query).fetchone()[0]:
                    faults.append(f"{count} rows of {table} belong to no item")
            query = "SELECT count(*) FROM items WHERE number NOT IN (SELECT number FROM vectors)"
            if count := self._db.execute(query).fetchone()[0]:
                faults.append(f"{count} items have no vectors")
            if self._summed:
                faults += self._damaged()
        return faults

    def _damaged(self) -> Iterator[str]:
        """The items that are not what was written."""
        run = self._db.execute
        beside = Counter[str | int]()  # by number of words, by id of the history
        for number, *row in run("SELECT number, word, count FROM words"):
            beside[number] += _crc(row)
        for row in run("SELECT * FROM history"):
            beside[row[0]] += _crc(row)
        sums = {number: parts for number, *parts in run("SELECT * FROM sums")}
        for row in run(_WHOLE):
            number, item_id = row[:2]
            if number in sums and sums[number] != [*_sums(row, beside[number] + beside[item_id])]:
                yield f"item {item_id!r} is not what was written; delete and add it again, or restore a copy"

    def unsummed(self) -> int:
        """How many items have no checksum, because they were written before there were any."""
        with self._view():
            query = "SELECT count(*) FROM items"
            if self._summed:
                query += " WHERE number NOT IN (SELECT number FROM sums)"
            return int(self._db.execute(query).fetchone()[0])


def _sums(whole: Sequence[Any], beside: int) -> tuple[int, int]:
    """Checksums of an item with all that is found by it, and of its memory.

    Args:
        whole: a row of `_WHOLE`.
        beside: the sum over its words and its history.
    """
    *facts, image_vector, text_vector, image, memory = whole
    blobs = [None if part is None else zlib.crc32(part) for part in (image_vector, text_vector, image)]
    return _crc((beside, *facts, *blobs)), zlib.crc32(memory or b"")


def _crc(values: Iterable[Any]) -> int:
    return zlib.crc32(repr((*values,)).encode("utf-8", "surrogatepass"))


def _found(row: Sequence[Any]) -> Found:
    number, item_id, text, user, agent, run, metadata, content, created, updated = row
    try:
        facts = json.loads(metadata)
    except ValueError as error:
        raise MemoryFolderError(f"the metadata of item {item_id!r} is damaged; restore a copy") from error
    return Found(number, item_id, text, Scope(user, agent, run), facts, content, created, updated)


def _matrix(blobs: Sequence[bytes | None]) -> np.ndarray:
    """float32 `(n, d)`, NaN where there is none."""
    size = max((len(blob) for blob in blobs if blob), default=0)
    nothing = np.full(size // 4, np.nan, "<f4").tobytes()
    return np.frombuffer(b"".join(blob or nothing for blob in blobs), "<f4").reshape(len(blobs), size // 4)


def _json(value: Mapping[str, Any]) -> str:
    try:
        return valid(json.dumps(value, ensure_ascii=False, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise MemoryFolderError(
            f"metadata cannot be written as JSON ({error}); give text, numbers, lists"
        ) from error


def count_words(text: str) -> dict[str, int]:
    """The words of a text, folded, and how often each occurs."""
    counts: dict[str, int] = {}
    for word in _WORD.findall(text.casefold()):
        counts[word[:64]] = counts.get(word[:64], 0) + 1
    return counts
