"""Files that are whole or not there, and a full disk that is told as one, whoever met it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from comem.io.files import (
    RecordError,
    StorageError,
    listed,
    no_space,
    one_writer,
    read_json,
    remove_folder,
    storage_errors,
    sweep,
    sync_tree,
    whole_file,
    write_atomic,
    write_json,
)


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


def test_whole_file_takes_its_name_only_on_success(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.npy"
    with whole_file(path) as temporary:
        temporary.write_bytes(b"first")
        assert not path.exists() and temporary.parent == path.parent
    with pytest.raises(KeyError), whole_file(path) as temporary:
        temporary.write_bytes(b"second")
        raise KeyError
    assert path.read_bytes() == b"first" and [each.name for each in path.parent.iterdir()] == ["a.npy"]
    with pytest.raises(StorageError, match="free some space"), whole_file(path):
        raise RuntimeError("write error in a.npy: 5 != 10 (No space left on device)")  # as FAISS says it


def test_a_folder_is_removed_as_a_whole_whenever_it_is_killed(tmp_path: Path) -> None:
    """Killed after the first of its files: no half folder has its name; the next call takes the rest."""
    code = """
        import os, signal, sys
        from pathlib import Path
        real = os.unlink
        def unlink(*given, **more):
            real(*given, **more)
            os.kill(os.getpid(), signal.SIGKILL)
        os.unlink = unlink
        from comem.io.files import remove_folder
        remove_folder(Path(sys.argv[1]))
    """
    folder = tmp_path / "out.parts"
    for left in (0, 2):  # the second call is killed while it sweeps what the first one left
        folder.mkdir()
        for name in ("items", "table"):
            (folder / name).touch()
        subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(folder)], check=False)
        assert len(list(folder.glob("*"))) == left, "gone, or whole"
        assert list(tmp_path.glob(".*.tmp")), "what was killed lies under another name"
    remove_folder(folder)
    assert not list(tmp_path.iterdir())


def test_one_sweep_removes_what_killed_processes_left(tmp_path: Path) -> None:
    """Killed in the middle of a file and of a folder; a living process's and other files stay."""
    code = """
        import os, signal, sys
        from comem.io.files import new_folder, whole_file
        with whole_file(sys.argv[1] + "/deep/a.json") as file, new_folder(sys.argv[1] + "/b") as folder:
            file.write_text("half")
            (folder / "c").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], check=False)
    of_01 = (".run.json.k2j3_a9x.tmp", ".items.parquet.999999999.part")
    kept = (".hidden", "notes.tmp", f".live.{os.getppid()}.0badf00d.tmp")
    for name in (*of_01, *kept):
        (tmp_path / name).touch()
    left = [path for path in tmp_path.rglob(".*.tmp") if path.name not in (*of_01, *kept)]
    assert len(left) == 2
    sweep(tmp_path, "b")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".b.")] == []
    assert all((tmp_path / name).exists() for name in of_01)
    sweep(tmp_path, recursive=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted((*kept, "deep"))


def test_the_next_write_of_a_file_removes_what_killed_processes_left_of_it(tmp_path: Path) -> None:
    """12 GB each for the items of all of WIT; in a container the next process often has the same number."""
    dead, ours, alive = 999_999_999, os.getpid(), os.getppid()
    left = [f".items.parquet.{pid}.0badf00d.tmp" for pid in (dead, ours)]
    other = f".other.parquet.{dead}.0badf00d.tmp"
    theirs = f".items.parquet.{alive}.0badf00d.tmp"
    for name in (*left, other, theirs):
        (tmp_path / name).touch()
    with whole_file(tmp_path / "items.parquet") as outer:
        outer.write_text("one")
        with whole_file(tmp_path / "items.parquet") as inner:  # of another thread, say
            inner.write_text("two")
        assert outer.exists()
        sweep(tmp_path, "items.parquet")
        assert outer.exists(), "it is being written"
    assert {path.name for path in tmp_path.iterdir()} == {"items.parquet", other, theirs}


def test_who_is_refused_is_told_by_whom(tmp_path: Path) -> None:
    code = "import sys, pathlib, comem.io.files as f\nwith f.one_writer(pathlib.Path(sys.argv[1])):"
    code += "\n    print(flush=True)\n    sys.stdin.read()"
    words = [sys.executable, "-c", code, str(tmp_path / ".lock")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline() == b"\n"
        refused = f"in use by process {child.pid}: another process is writing"
        with pytest.raises(StorageError, match=refused), one_writer(tmp_path / ".lock"):
            pass
        child.kill()
    with one_writer(tmp_path / ".lock"):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_columns_in_messages_are_few_and_short() -> None:
    said = listed(["id", "x" * 70_000, *map(str, range(40))])
    assert said.startswith("id, xxx") and said.endswith("and 22 more") and len(said) < 300
    assert listed([]) == "none"


def test_messages_about_records_stay_short_and_keep_both_ends() -> None:
    said = str(RecordError(f"a.jsonl:3: {'9' * 70_000}; give the number as text"))
    assert (
        said.startswith("a.jsonl:3: 999") and said.endswith("; give the number as text") and len(said) < 2000
    )
