"""Files that are whole or not there, and a full disk that is told as one, whoever met it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from comem.io.files import StorageError, no_space, storage_errors, sync_tree, write_atomic, write_json
from comem.io.jsonl import read_json


def test_atomic_writes_replace_or_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"é": [1, None]})
    assert read_json(path) == {"é": [1, None]}

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, "other")
    assert read_json(path) == {"é": [1, None]}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.ENOSPC, "x"), errno.ENOSPC),
        (StorageError(errno.EDQUOT, "x", "f"), errno.EDQUOT),
        (RuntimeError("I/O error: No space left on device (os error 28)"), errno.ENOSPC),
        (ValueError("I/O error: File too large (os error 27)"), errno.EFBIG),
        (OSError(errno.EACCES, "x"), None),
        (RuntimeError("I/O error: Permission denied (os error 13)"), None),
        (RuntimeError("the disk is full of surprises"), None),
    ],
)
def test_which_errors_mean_a_full_disk(error: Exception, number: int | None) -> None:
    assert no_space(error) == number


def test_a_full_disk_names_file_and_remedy_and_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="free some space.*here") as full, storage_errors(Path("here")):
        raise RuntimeError("No space left on device (os error 28)")
    assert full.value.errno == errno.ENOSPC
    with pytest.raises(PermissionError), storage_errors(Path("here")):
        raise PermissionError(errno.EACCES, "no")


def test_sync_reaches_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "f" / "deep" / "a.json", {})
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    sync_tree(tmp_path / "f")
    assert {Path(name).name for name in synced} == {"f", "deep", "a.json"}
