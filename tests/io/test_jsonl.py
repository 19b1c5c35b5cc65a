"""Records: broken lines are named, and a killed or full process loses at most the line it was writing."""

from __future__ import annotations

import gzip
import os
import random
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from comem.io.files import JsonlAppender, RecordError, StorageError, done_ids, read_json, read_jsonl, unique


def test_reads_plain_gzip_blank_lines_and_byte_order_mark(tmp_path: Path) -> None:
    text = '\ufeff{"id": 1}\n\n  \n{"id": "два"}'
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("a.jsonl", "a.jsonl.gz"):
        assert list(read_jsonl(tmp_path / name)) == [{"id": 1}, {"id": "два"}]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"a": 1}\n{"a": \n', "bad.jsonl:2: not JSON"),
        (b'{"a": 1}\n[1]\n', "bad.jsonl:2: expected a JSON object, found list"),
        (b'{"a": "\xff"}\n', "bad.jsonl:1: not UTF-8"),
        (b"[" * 200_000 + b"\n", "bad.jsonl:1: not JSON"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=expected):
        list(read_jsonl(path))


def test_broken_gzip_and_missing_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n' * 100)[:-12])
    with pytest.raises(RecordError, match="bad.jsonl.gz:.*damaged gzip"):
        list(read_jsonl(path))
    path.write_bytes(b"plain")
    with pytest.raises(RecordError, match="damaged gzip"):
        list(read_jsonl(path))
    with pytest.raises(RecordError, match="none.jsonl: no such file"):
        list(read_jsonl(tmp_path / "none.jsonl"))
    with pytest.raises(RecordError, match="none.json: no such file"):
        read_json(tmp_path / "none.json")


def test_a_torn_tail_is_an_error_unless_tolerated(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2')
    with pytest.raises(RecordError, match="a.jsonl:2"):
        list(read_jsonl(path))
    assert list(read_jsonl(path, tolerate_torn_tail=True)) == [{"a": 1}]
    path.write_bytes(b'{"a": 1}\n{"a": 2\n')  # a whole line that is broken is never passed over
    with pytest.raises(RecordError):
        list(read_jsonl(path, tolerate_torn_tail=True))


def test_repeated_and_missing_ids_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"f.jsonl: data_id 'x' comes twice \(records 1 and 3\)"):
        list(unique([{"data_id": "x"}, {"data_id": "y"}, {"data_id": "x"}], "data_id", "f.jsonl"))
    with pytest.raises(RecordError, match="record 1 has no 'data_id'; it has id"):
        list(unique([{"id": "x"}], "data_id", "f.jsonl"))
    with pytest.raises(RecordError, match="record 1 has 'data_id': null; it has answer"):
        list(unique([{"data_id": None, "answer": "x"}], "data_id", "f.jsonl"))


def test_the_appender_cuts_a_torn_tail_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.jsonl"
    with JsonlAppender(path) as file:
        file.write({"id": "a", "text": "три\nlines\u2028"})
    long = b'{"id": "torn", "x": "' + b"x" * 200_000  # longer than one block of the search
    with open(path, "ab") as raw:
        raw.write(long)
    assert done_ids(path, "id") == {"a"}
    with JsonlAppender(path) as file:
        file.write({"id": "b", "text": "\ud800"})
    assert [row["id"] for row in read_jsonl(path)] == ["a", "b"]
    path.write_bytes(b'{"id": "only a torn line"')
    with JsonlAppender(path):
        pass
    assert path.read_bytes() == b""
    assert done_ids(tmp_path / "none", "id") == set()


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with JsonlAppender(path), pytest.raises(StorageError, match="another process is writing.*a.jsonl"):
        JsonlAppender(path)
    JsonlAppender(path).close()


def test_killed_again_and_again_every_id_is_there_once(tmp_path: Path) -> None:
    path = tmp_path / "ids.jsonl"
    program = textwrap.dedent(
        """
        import sys
        from comem.io.files import JsonlAppender, done_ids
        path = sys.argv[1]
        done = done_ids(path, "id")
        with JsonlAppender(path, durable=False) as file:
            for i in range(4000):
                if str(i) not in done:
                    file.write({"id": str(i), "x": "y" * 3000})
        """
    )
    random.seed(0)
    kills = 0
    for _ in range(60):
        process = subprocess.Popen([sys.executable, "-c", program, str(path)], cwd=_root())
        if kills < 6:
            grown = path.stat().st_size if path.exists() else 0
            while process.poll() is None and (not path.exists() or path.stat().st_size <= grown):
                time.sleep(0.001)
            time.sleep(random.uniform(0, 0.01))
            process.kill()
            kills += process.wait() == -9
        elif process.wait() == 0:
            break
    assert kills == 6
    assert [int(row["id"]) for row in read_jsonl(path)] == list(range(4000))


def test_a_full_disk_is_named_and_what_was_written_stays(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    with pytest.raises(StorageError, match="free some space.*dev/full"), JsonlAppender("/dev/full") as file:
        file.write({"a": 1})


def test_a_file_limit_reached_in_mid_line_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    program = textwrap.dedent(
        """
        import resource, signal, sys
        from comem.io.files import StorageError, write_atomic
        from comem.io.files import JsonlAppender
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with JsonlAppender(sys.argv[1]) as file:
            try:
                for i in range(100):
                    file.write({"id": i, "x": "y" * 90})
            except StorageError as error:
                print(error)
        try:
            write_atomic(sys.argv[1] + ".whole", "z" * 5000)
        except StorageError as error:
            print(error)
        """
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", program, str(path)],  # -B: the limit would cut __pycache__, too
        capture_output=True, text=True, cwd=_root(), check=True,
    )  # fmt: skip
    assert done.stdout.count("free some space and run again") == 2
    assert [row["id"] for row in read_jsonl(path)] == list(range(len(list(read_jsonl(path)))))
    assert path.stat().st_size > 800
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl"]  # no half file, no temporary file


def test_numbers_that_json_does_not_know_are_refused(tmp_path: Path) -> None:
    with JsonlAppender(tmp_path / "a.jsonl") as file, pytest.raises(ValueError):
        file.write({"seconds": float("nan")})


def _root() -> Path:
    return Path(__file__).resolve().parents[2]
