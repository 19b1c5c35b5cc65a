"""Files and folders that are whole or not there, the lock, one error for a full disk; records, their texts.

What is being written is called `.NAME.PID.TAG.tmp` beside its final place, a folder that is being replaced
`.NAME.PID.TAG.old`: `sweep` finds what killed processes left by these names.
"""

from __future__ import annotations

import csv
import errno
import fcntl
import gzip
import hashlib
import itertools
import json
import logging
import os
import re
import secrets
import shutil
import stat
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any

logger = logging.getLogger(__name__)

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# How libraries written in Rust (safetensors, tokenizers) report a system error: in text only.
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")
_NO_SPACE_TEXT = os.strerror(errno.ENOSPC)  # how FAISS and Arrow report it
#: Names of unfinished files and folders; those of version 0.1 had no tag, or no process, or ended in .part.
_UNFINISHED = re.compile(r"\.(?P<name>.+?)(\.(?P<pid>\d+))?(\.(?P<tag>\w+))?\.(?P<kind>tmp|part|old)")
_TAG = secrets.token_hex(4)  # of this process: in a container, the next one often has the same number
_NUMBERS = itertools.count()


class StorageError(OSError):
    """Nothing can be written here (no space left, a quota); the message names the file and the remedy."""


def no_space(error: BaseException) -> int | None:
    """The system's error number if the error, of whatever library, means that no space is left."""
    if isinstance(error, OSError):
        number = error.errno
    else:
        found = _RUST_ERROR.search(str(error))
        number = int(found[1]) if found else errno.ENOSPC if _NO_SPACE_TEXT in str(error) else None
    return number if number in _NO_SPACE else None


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn 'no space left' into an error that names the file and the remedy."""
    try:
        yield
    except Exception as error:
        number = no_space(error)
        if number is None or isinstance(error, StorageError):
            raise
        raise StorageError(
            number,
            f"{os.strerror(number)}; nothing already written is lost: free some space and run again",
            str(path),
        ) from error


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A name beside `path` to write a file under, with whatever library; on success it takes the name `path`.

    On an error what was there stays. A reader never sees half of it, nor does a power cut leave half. What
    killed processes had not finished of it goes.

    Raises:
        StorageError: no space is left.
    """
    path = Path(path)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in _left_in(os.path.abspath(path.parent)).pop(path.name, ()):
            left.unlink(missing_ok=True)
        temporary = _unfinished(path, "tmp")
        try:
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_atomic(path: str | Path, data: str | bytes) -> None:
    """Write a whole file, or leave what was there.

    Raises:
        StorageError: no space is left.
    """
    with whole_file(path) as temporary, open(temporary, "wb", buffering=0) as file:
        write_all(file.fileno(), data.encode("utf-8") if isinstance(data, str) else data)


def write_json(path: str | Path, obj: Any) -> None:
    """Write an object as readable JSON, atomically."""
    write_atomic(path, json.dumps(obj, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


_SEAL, _SEALED = "checksum", "sha256-of-the-rest:"


def write_sealed(path: str | Path, obj: Mapping[str, Any]) -> None:
    """Write an object as `write_json`, with a checksum of its content that `read_json` compares."""
    write_json(path, {**obj, _SEAL: _seal_of(obj)})


def _seal_of(obj: Mapping[str, Any]) -> str:
    text = json.dumps(json.loads(json.dumps(obj)), sort_keys=True)
    return _SEALED + hashlib.sha256(text.encode()).hexdigest()


def _is_seal(key: str, value: Any) -> bool:
    """Whether this is a checksum of ours, or what damage has left of one."""
    size = len(_SEALED) + 64
    return isinstance(value, str) and (value.startswith(_SEALED) or (key == _SEAL and len(value) == size))


def is_sealed(path: str | Path) -> bool:
    """Whether a JSON file brings a checksum of its content."""
    return f'"{_SEAL}": "{_SEALED}' in Path(path).read_text(encoding="utf-8", errors="replace")


def _unsealed(obj: Any, path: str | Path, edited: bool) -> Any:
    """Without the checksum of `write_sealed`, compared where there is one."""
    if not isinstance(obj, dict):
        return obj
    seals = [key for key, value in obj.items() if _is_seal(key, value)]
    if not seals:
        return obj
    rest = {name: value for name, value in obj.items() if name not in seals}
    if _seal_of(rest) == obj.get(_SEAL):
        return rest
    if not edited:
        raise RecordError(
            f"{path}: was changed after it was written (its checksum differs): copy it again; if it was"
            f" changed on purpose, take its line {_SEAL!r} out"
        )
    logger.warning("%s: was changed after it was written (its checksum differs)", path)
    return rest


def lock_file(fd: int, path: Path, holder: str = "") -> None:
    """Lock a file for this process; the system lets go when the process ends, however it ends.

    Args:
        fd: the open file.
        path: its path, for messages.
        holder: the number of the process that holds it, where that is known.

    Raises:
        StorageError: another process holds it.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        who = f"in use by process {holder}: another process" if holder else "another process"
        message = f"{who} is writing this file; wait for it, stop it, or choose another folder"
        raise StorageError(errno.EAGAIN, message, str(path)) from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):  # a file system without locks
            raise


@contextmanager
def one_writer(lock: Path) -> Iterator[None]:
    """Hold a lock file while a folder is written; the lock goes with the process, however it ends.

    The file keeps the number of the process, for the message of those who are refused.

    Raises:
        StorageError: another process holds it, or no space is left.
    """
    with storage_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        lock_file(handle, lock, os.pread(handle, 20, 0).decode("ascii", "replace").strip())
        with storage_errors(lock):
            os.ftruncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """Fill a temporary folder; on success it takes the name `folder`, on error nothing changes.

    An older folder of that name is replaced as a whole: files of two saves never mix.

    Raises:
        StorageError: no space is left, whichever library met it; an older folder is as it was.
    """
    folder = Path(os.path.abspath(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary, retired = _unfinished(folder, "tmp"), _unfinished(folder, "old")
    sweep(folder.parent, folder.name)
    try:
        temporary.mkdir()
        yield temporary
        sync_tree(temporary)
        if folder.exists():
            os.replace(folder, retired)
        os.replace(temporary, folder)
    except BaseException as error:
        if retired.exists() and not folder.exists():
            os.replace(retired, folder)
        if (number := no_space(error)) is None:
            raise
        left = "the older folder is as it was" if folder.exists() else "nothing was written"
        message = f"{os.strerror(number)}; {left}: free some space, or write to another disk, and run again"
        raise StorageError(number, message, str(folder)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(retired, ignore_errors=True)


def check_free(folder: str | Path | None) -> None:
    """Refuse a place to write to where a file or a folder of other things lies.

    Raises:
        ValueError: names it.
    """
    place = None if folder is None else Path(folder)
    if place and place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise ValueError(f"{folder} exists and is not empty; give another folder, or remove it")


def remove_folder(folder: Path) -> None:
    """Remove a folder so that a kill midway leaves none of this name: what is left is swept the next time."""
    sweep(folder.parent, folder.name)
    gone = _unfinished(folder, "tmp")
    os.replace(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)


def sweep(folder: Path, name: str | None = None, *, recursive: bool = False) -> None:
    """Remove what killed processes had not finished writing; call it before writing there.

    What another process that is alive is writing stays. An older folder caught in mid-swap comes back.

    Args:
        folder: where the unfinished files and folders lie.
        name: only those that were to take this name; None for whoever holds the folder's lock: then those
            that do not say whose they are go, too.
        recursive: in the folders below as well.
    """
    for path in sorted(folder.rglob(".*") if recursive else folder.glob(".*")):
        found = _UNFINISHED.fullmatch(path.name)
        if found is None or name not in (None, found["name"]):
            continue
        if _alive(found) if found["pid"] else name is not None:
            continue
        if found["kind"] == "old" and not (final := path.with_name(found["name"])).exists():
            os.replace(path, final)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@lru_cache(maxsize=1024)
def _left_in(folder: str) -> dict[str, list[Path]]:
    """By name, what dead processes had not finished in a folder when this one first wrote there.

    Listed once: a folder may hold a million images, each written by itself.
    """
    left: dict[str, list[Path]] = {}
    with suppress(PermissionError), os.scandir(folder) as entries:  # one may write where one may not list
        for each in entries:
            found = _UNFINISHED.fullmatch(each.name) if each.name.startswith(".") else None
            if found and found["pid"] and found["kind"] == "tmp" and each.is_file() and not _alive(found):
                left.setdefault(found["name"], []).append(Path(each.path))
    return left


def _unfinished(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{_TAG}{next(_NUMBERS)}.{kind}")


def _alive(unfinished: re.Match[str]) -> bool:
    """Whether the process that is writing under this name lives."""
    pid = int(unfinished["pid"])
    if pid == os.getpid():
        return (unfinished["tag"] or "").startswith(_TAG)
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Hand all of `data` to the system, however many calls that takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync(path: Path) -> None:
    """Push a file or a folder's list of files to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Push a folder and all that is in it to the disk, before a rename makes it count."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


#: Stands for half of a UTF-16 pair, which no tokenizer, no file and no terminal takes.
REPLACEMENT = "\ufffd"


def valid(text: str) -> str:
    r"""The text as valid Unicode: pairs of surrogates are joined, lone ones become U+FFFD.

    Example:
        >>> valid("town \ud83d")
        'town \ufffd'
    """
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def all_valid(value: Any) -> Any:
    """The same JSON value with all its texts, names included, made `valid`."""
    if isinstance(value, str):
        return valid(value)
    if isinstance(value, Mapping):
        return {all_valid(name): all_valid(each) for name, each in value.items()}
    return [all_valid(each) for each in value] if isinstance(value, list) else value


def is_missing(value: Any) -> bool:
    """Whether a value stands for nothing: null, NaN or an empty text. A word, "None" or "N/A", is a word."""
    if value is None:
        return True
    if isinstance(value, str):
        return not value.strip(" \t\r\n\x00")
    return isinstance(value, float) and value != value


def exact(value: Any) -> str:
    """A value as it stands, for paths, addresses and ids: "" if it is missing.

    Only line breaks and ASCII blanks around it go. Blanks that a name may hold, the narrow one in the time of
    a screenshot among them, are kept.
    """
    return "" if is_missing(value) else str(value).strip(" \t\r\n")


def prose(value: Any) -> str:
    """A value as running text: single blanks, none around it; "" if it is missing."""
    return "" if is_missing(value) else " ".join(valid(str(value)).replace("\x00", "").split())


def short(name: str, length: int = 120) -> str:
    """A name for messages, which may be a text of any length."""
    return name if len(name) <= length else f"{name[: length - 30]}… ({len(name)} characters)"


def listed(names: Iterable[Any]) -> str:
    """Names of columns for messages, however many and however long a file has them."""
    every = [short(str(name), 60) for name in names]
    more = f" and {len(every) - 20} more" if len(every) > 20 else ""
    return (", ".join(every[:20]) or "none") + more


def marks(tokens: Iterable[str]) -> re.Pattern[str]:
    """What matches any of these special tokens, the longest first."""
    found = sorted({token for token in tokens if token.strip()}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, found)) or r"(?!)")


def harmless(text: str, special: re.Pattern[str], by: str = " ") -> str:
    """A text that holds no special token, so that data cannot change the structure of a prompt.

    What replaces a token may complete another one around it, hence until none is left.

    Args:
        text: a passage or a question.
        special: of `marks`.
        by: what takes a token's place.
    """
    text = valid(text)
    while special.search(text):
        text = special.sub(by, text)
    return text


_TAIL_BLOCK = 65536


class RecordError(ValueError):
    """A file of records that cannot be read; the message starts with file:line, and stays short."""

    def __init__(self, message: str) -> None:
        super().__init__(message if len(message) <= 1500 else f"{message[:900]} … {message[-500:]}")


#: An escape of a surrogate in JSON: half of a pair, or the first of a whole one.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str | bytes) -> tuple[Any, bool]:
    r"""A JSON text, whoever wrote it: the value, and whether text in it was not Unicode and was made so.

    Example:
        >>> parse_json('{"a": "town \\ud83d"}')
        ({'a': 'town \ufffd'}, True)

    Raises:
        ValueError: not JSON in UTF-8, nested too deep, or a number of thousands of digits.
    """
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value = json.loads(text)
    except UnicodeDecodeError as error:
        if text[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise ValueError("not UTF-8 but UTF-16; save the file as UTF-8") from error
        raise ValueError(f"not UTF-8 ({error.reason}); save the file as UTF-8") from error
    except RecursionError as error:
        raise ValueError("not JSON that can be read (nested too deep); repair or remove it") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error}); repair or remove the line") from error
    except ValueError as error:  # Python's limit for the digits of a number
        raise ValueError("a number of thousands of digits; repair or remove it") from error
    if not _SURROGATE.search(text):
        return value, False
    clean = all_valid(value)
    return clean, bool(clean != value)


def read_jsonl(path: str | Path, *, tolerate_torn_tail: bool = False) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file, in order; blank lines are skipped.

    Text that is not Unicode (a lone surrogate) is made so; at the end a warning says in how many records.

    Args:
        path: the file; `.gz` is unpacked on the way.
        tolerate_torn_tail: pass over a last line that a crash cut short (no newline at its end and no JSON).

    Raises:
        RecordError: a line is not a JSON object, or the file is not UTF-8 or not gzip; names file and line.
    """
    repaired = list[int]()
    for number, raw in numbered_lines(path):
        try:
            row, changed = parse_line(raw)
        except ValueError as error:
            if tolerate_torn_tail and not raw.endswith(b"\n"):
                break
            raise RecordError(f"{path}:{number}: {error}") from error
        repaired += [number] * changed
        yield row
    warn_of_repairs(path, repaired)


def warn_of_repairs(path: str | Path, lines: Sequence[int]) -> None:
    """Say in how many records of a file text was made Unicode; nothing where there are none."""
    if lines:
        logger.warning(
            "%s: %d records (the first on line %d) had text that is not Unicode; it was replaced",
            path, len(lines), lines[0],
        )  # fmt: skip


def numbered_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file (or a `.gz`) that are not blank, with their numbers from 1.

    Raises:
        RecordError: there is no such file, it cannot be read, or it is not gzip; names file and line.
    """
    number = 0
    try:
        with open_binary(path) as file:
            for number, raw in enumerate(file, start=1):
                if raw.strip():
                    yield number, raw
    except FileNotFoundError as error:
        raise RecordError(f"{path}: no such file; check the path") from error
    except DAMAGED as error:
        raise RecordError(f"{path}:{number + 1}: damaged gzip file ({error}); copy it again") from error
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror or error})") from error


#: What reading a damaged or cut `.gz` raises.
DAMAGED = (gzip.BadGzipFile, EOFError, zlib.error)


def open_binary(path: str | Path) -> IO[bytes]:
    """A file's bytes; `.gz` is unpacked on the way."""
    if str(path).endswith(".gz"):
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return open(path, "rb")


def parse_line(raw: str | bytes) -> tuple[dict[str, Any], bool]:
    """As `parse_json`, of a line that holds an object.

    Raises:
        ValueError: as `parse_json`, or the value is another.
    """
    row, repaired = parse_json(raw)
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, found {type(row).__name__}")
    return row, repaired


def read_csv(path: str | Path, columns: Sequence[str], delimiter: str = ",") -> Iterator[dict[str, str]]:
    """The rows of a CSV file with a header.

    Args:
        path: UTF-8, with or without a byte order mark.
        columns: those that must be there.
        delimiter: between the fields.

    Raises:
        RecordError: no such file, not CSV, a column is missing, or a row is of another width; names the line.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True, delimiter=delimiter)
            if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
                there = listed(reader.fieldnames or ())
                raise RecordError(f"{path}:1: no column {', '.join(missing)}; it has {there}")
            for row in reader:
                if None in row or None in row.values():
                    raise RecordError(
                        f"{path}:{reader.line_num}: not as many fields as columns; fetch it again"
                    )
                yield row
    except (csv.Error, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: not a CSV file in UTF-8 ({error}); fetch it again") from error
    except FileNotFoundError as error:
        raise RecordError(f"{path}: no such file; check the path") from error


def unique(rows: Iterable[dict[str, Any]], key: str, path: str | Path) -> Iterator[dict[str, Any]]:
    """The rows, each id (as text) seen once.

    Raises:
        RecordError: an id comes twice, or a row has none; names the file and the record's number.
    """
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        if is_missing(row.get(key)):
            lacks = f"has {key!r}: {json.dumps(row[key])}" if key in row else f"has no {key!r}"
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


def read_json(path: str | Path, *, edited: bool = False) -> Any:
    """The content of a JSON file (or `.json.gz`).

    Args:
        path: the file.
        edited: people edit such files: one that was changed since `write_sealed` wrote it is a warning only.

    Raises:
        RecordError: missing, not JSON, or changed since `write_sealed` wrote it; names the file.
    """
    try:
        with open_binary(path) as file:
            value, repaired = parse_json(file.read())
    except FileNotFoundError as error:
        raise RecordError(f"{path}: no such file; check the path") from error
    except DAMAGED as error:
        raise RecordError(f"{path}: damaged gzip file ({error}); copy it again") from error
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        at = getattr(error.__cause__, "lineno", "")
        raise RecordError(f"{path}{f':{at}' if at else ''}: {error}") from error
    if repaired:
        logger.warning("%s: text that is not Unicode was replaced", path)
    return _unsealed(value, path, edited or repaired)


SUMS = "sha256"  # of a folder's other files, in the JSON file that describes it


def sums_of(folder: Path) -> dict[str, str]:
    """The checksums of all files in a folder and below, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


def compare_sums(folder: Path, sums: Any, only: Collection[str] | None = None) -> list[str]:
    """What differs from the checksums of when it was written, a sentence a file.

    Args:
        folder: with the files.
        sums: by relative path, as `sums_of` gives them.
        only: look at these alone.
    """
    if not isinstance(sums, Mapping):
        return [f"{folder}: its list of checksums is damaged; copy the folder again"]
    wrong = []
    for name, expected in sums.items():
        path = folder / str(name)
        if only is not None and name not in only:
            continue
        if not path.is_file():
            wrong.append(f"{path}: is missing; copy the folder again")
        elif sha256_of(path) != expected:
            wrong.append(f"{path}: was changed after it was written (its checksum differs); copy it again")
    return wrong


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
