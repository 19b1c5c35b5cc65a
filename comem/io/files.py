"""Files and folders that are whole or not there, the lock, and one error for a full disk.

What is being written is called `.NAME.PID.TAG.tmp` beside its final place, a folder that is being replaced
`.NAME.PID.TAG.old`: `sweep` finds what killed processes left by these names.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# How libraries written in Rust (safetensors, tokenizers) report a system error: in text only.
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")
_NO_SPACE_TEXT = os.strerror(errno.ENOSPC)  # how FAISS and Arrow report it
#: Names of unfinished files and folders; those of version 0.1 had no tag, or no process, or ended in .part.
_UNFINISHED = re.compile(r"\.(?P<name>.+?)(\.(?P<pid>\d+))?(\.\w+)?\.(?P<kind>tmp|part|old)")


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

    On an error what was there stays. A reader never sees half of it, nor does a power cut leave half.

    Raises:
        StorageError: no space is left.
    """
    path = Path(path)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
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


def lock_file(fd: int, path: Path, holder: str = "") -> None:
    """Lock a file for this process; the system lets go when the process ends, however it ends.

    Args:
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
        if _alive(int(found["pid"])) if found["pid"] else name is not None:
            continue
        if found["kind"] == "old" and not (final := path.with_name(found["name"])).exists():
            os.replace(path, final)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _unfinished(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.{kind}")


def _alive(pid: int) -> bool:
    """Whether another process of this number lives."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        pass
    return pid != os.getpid()


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
