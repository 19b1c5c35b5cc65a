"""Files of records: JSON and JSON lines that survive a crash."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import stat
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from comem.io.files import lock_file, storage_errors, write_all

_TAIL_BLOCK = 65536


class RecordError(ValueError):
    """A file of records that cannot be read; the message starts with file:line."""


def read_jsonl(path: str | Path, *, tolerate_torn_tail: bool = False) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file, in order; blank lines are skipped.

    Args:
        path: the file; `.gz` is unpacked on the way.
        tolerate_torn_tail: pass over a last line that a crash cut short (no newline at its end and no JSON).

    Raises:
        RecordError: a line is not a JSON object, or the file is not UTF-8 or not gzip; names file and line.
    """
    number = 0
    try:
        with _open_binary(path) as file:
            for number, raw in enumerate(file, start=1):
                if not raw.strip():
                    continue
                try:
                    yield _parse_line(raw, number, path)
                except RecordError:
                    if tolerate_torn_tail and not raw.endswith(b"\n"):
                        return
                    raise
    except FileNotFoundError as error:
        raise RecordError(f"{path}: no such file; check the path") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise RecordError(f"{path}:{number + 1}: damaged gzip file ({error}); copy it again") from error


def _open_binary(path: str | Path) -> IO[bytes]:
    if str(path).endswith(".gz"):
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return open(path, "rb")


def _parse_line(raw: bytes, number: int, path: str | Path) -> dict[str, Any]:
    try:
        row = json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}:{number}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise RecordError(f"{path}:{number}: not JSON ({error}); repair or remove the line") from error
    if not isinstance(row, dict):
        raise RecordError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
    return row


def unique(rows: Iterable[dict[str, Any]], key: str, path: str | Path) -> Iterator[dict[str, Any]]:
    """The rows, each id (as text) seen once.

    Raises:
        RecordError: an id comes twice, or a row has none; names the file and the record's number.
    """
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        if row.get(key) is None:
            lacks = f"has {key!r}: null" if key in row else f"has no {key!r}"
            fields = ", ".join(name for name in row if name != key) or "nothing else"
            raise RecordError(f"{path}: record {number} {lacks}; it has {fields}")
        name = str(row[key])
        if name in seen:
            raise RecordError(
                f"{path}: {key} {name!r} comes twice (records {seen[name]} and {number}); remove one of them"
            )
        seen[name] = number
        yield row


def done_ids(path: str | Path, key: str) -> set[str]:
    """The ids already in a JSON-lines file; none when the file does not exist yet."""
    if not Path(path).exists():
        return set()
    return {str(row[key]) for row in unique(read_jsonl(path, tolerate_torn_tail=True), key, path)}


class JsonlAppender:
    """Appends JSON lines so that a crash at any moment loses at most the line being written.

    Every line goes to the system in one call and, with `durable`, to the disk before `write` returns.
    On opening, a last line that a crash cut short is cut off, so that the next line starts cleanly.
    The file is locked while open: a second process that wants to append is refused.

    Args:
        path: the file; made with its folder when missing.
        durable: fsync after every line (a power cut), instead of only handing it to the system (kill -9).
    """

    def __init__(self, path: str | Path, *, durable: bool = True) -> None:
        self.path = Path(path)
        self.durable = durable
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                lock_file(self._fd, self.path)
                _cut_torn_tail(self._fd)
            except BaseException:
                os.close(self._fd)
                raise

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one object.

        Raises:
            StorageError: no space is left; the file then ends with the last complete line.
        """
        text = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
        line = text.encode("utf-8", "backslashreplace")  # a lone surrogate becomes its JSON escape
        with storage_errors(self.path):
            try:
                write_all(self._fd, line)
            except OSError:
                _cut_torn_tail(self._fd)
                raise
            if self.durable:
                os.fsync(self._fd)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> JsonlAppender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _cut_torn_tail(fd: int) -> None:
    """Cut what follows the last newline."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return  # a pipe or a device has no tail
    size = os.fstat(fd).st_size
    end = size
    while end > 0:
        start = max(0, end - _TAIL_BLOCK)
        block = os.pread(fd, end - start, start)
        newline = block.rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(fd, end)


def read_json(path: str | Path) -> Any:
    """The content of a JSON file (or `.json.gz`).

    Raises:
        RecordError: missing, or not JSON; names the file.
    """
    try:
        with _open_binary(path) as file:
            return json.loads(file.read().decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise RecordError(f"{path}: no such file; check the path") from error
    except json.JSONDecodeError as error:
        raise RecordError(f"{path}:{error.lineno}: not JSON ({error.msg}); repair the file") from error
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise RecordError(f"{path}: not readable as UTF-8 JSON ({error}); copy it again") from error


def sha256_of(path: str | Path) -> str:
    """The checksum of a file's content.

    Raises:
        RecordError: there is no such file.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise RecordError(f"{path}: no such file; check the path") from error
    return digest.hexdigest()
