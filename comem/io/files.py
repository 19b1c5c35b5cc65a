"""Writing files that are whole or not there, locks, and one error for a full disk."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# How libraries written in Rust (safetensors, tokenizers) report a system error: in text only.
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")


class StorageError(OSError):
    """Nothing can be written here (no space left, a quota); the message names the file and the remedy."""


def no_space(error: BaseException) -> int | None:
    """The system's error number if the error, of whatever library, means that no space is left."""
    if isinstance(error, OSError):
        number = error.errno
    else:
        found = _RUST_ERROR.search(str(error))
        number = int(found[1]) if found else None
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


def write_atomic(path: str | Path, data: str | bytes) -> None:
    """Write a whole file, or leave what was there: a reader never sees half of it.

    Raises:
        StorageError: no space is left.
    """
    path = Path(path)
    content = data.encode("utf-8") if isinstance(data, str) else data
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            try:
                os.fchmod(fd, 0o644)
                write_all(fd, content)
                os.fsync(fd)
            finally:
                os.close(fd)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def write_json(path: str | Path, obj: Any) -> None:
    """Write an object as readable JSON, atomically."""
    write_atomic(path, json.dumps(obj, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def lock_file(fd: int, path: Path) -> None:
    """Lock a file for this process; the system lets go when the process ends, however it ends.

    Raises:
        StorageError: another process holds it.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        message = "another process is writing this file; wait for it, stop it, or choose another folder"
        raise StorageError(errno.EAGAIN, message, str(path)) from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):  # a file system without locks
            raise


@contextmanager
def one_writer(lock: Path) -> Iterator[None]:
    """Hold a lock file while a folder is written; the lock goes with the process, however it ends.

    Raises:
        StorageError: another process holds it, or no space is left.
    """
    with storage_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        lock_file(handle, lock)
        yield
    finally:
        os.close(handle)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Hand all of `data` to the system, however many calls that takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_tree(folder: Path) -> None:
    """Push a folder and all that is in it to the disk, before a rename makes it count."""
    for path in (*folder.rglob("*"), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
