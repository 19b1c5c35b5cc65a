"""What run.json says, and when a folder is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from comem.eval.answering import answer
from comem.eval.run_folder import Failures, read_answers
from comem.io.files import RecordError, StorageError, read_json, read_jsonl, sha256_of, write_json
from comem.io.run_folder import checksums
from tests.eval.fakes import TOY, FakeMode, questions, rows


def test_run_json_says_how_to_repeat_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "questions.jsonl"
    data.write_text("{}\n")
    monkeypatch.setattr(sys, "argv", ["comem", "predict", "--first"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)  # no `python -m`, however pytest runs
    folder, config = tmp_path / "run", {"generation": {"seed": 7}}
    noted = {"config": config, "inputs": {"data": data}}
    for limit in (4, 10):
        answer(TOY, questions(10), FakeMode(), None, folder, limit=limit, **noted)
        monkeypatch.setattr(sys, "argv", ["comem", "predict", "--second"])
    run = read_json(folder / "run.json")
    assert run["command"] == ["comem", "predict", "--first"] and run["config"]["generation"] == {"seed": 7}
    assert run["inputs"] == {"data": {"path": str(data), "sha256": sha256_of(data)}}
    assert {"python", "numpy", "comem"} <= set(run["versions"]) and "git_commit" in run and run["platform"]
    assert [call["command"][-1] for call in run["calls"]] == ["--first", "--second"]
    assert [call["counts"]["predicted"] for call in run["calls"]] == [4, 6]


def test_changed_data_is_refused(tmp_path: Path) -> None:
    data, folder = tmp_path / "questions.jsonl", tmp_path / "run"
    data.write_text("one\n")
    answer(TOY, questions(2), FakeMode(), None, folder, inputs={"data": data})
    answer(TOY, questions(2), FakeMode(), None, folder, inputs={"data": data})
    moved = data.rename(tmp_path / "moved.jsonl")
    answer(TOY, questions(2), FakeMode(), None, folder, inputs={"data": moved})
    moved.write_text("two\n")
    with pytest.raises(ValueError, match=r"data \(.*moved.jsonl\) has changed since the run was begun"):
        answer(TOY, questions(3), FakeMode(), None, folder, inputs={"data": moved})
    assert len(rows(folder)) == 2


def test_the_checksum_of_a_folder_is_that_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "sub").mkdir()
    (first,) = checksums({"index": tmp_path}).values()
    (tmp_path / "sub" / "c").write_text("not looked at")
    assert checksums({"index": tmp_path})["index"] == first
    for change in (lambda: (tmp_path / "a").write_text("2"), lambda: (tmp_path / "b").touch()):
        change()
        (after,) = checksums({"index": tmp_path}).values()
        assert after["sha256"] != first["sha256"]
        first = after
    with pytest.raises(ValueError, match="no such file"):
        checksums({"data": tmp_path / "gone"})


def test_failures_are_noted_once_and_survive_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "errors.jsonl"
    failures = Failures(path)
    failures.add("a", ValueError("first"))
    failures.add("b", ValueError("x"))
    failures.add("a", ValueError("again"))
    assert [(row["data_id"], row["error"]) for row in read_jsonl(path)] == [("a", "again"), ("b", "x")]
    path.write_bytes(path.read_bytes()[:-5])
    failures = Failures(path)
    assert set(failures.rows) == {"a"}
    failures.add("c", KeyError("k"))
    failures.settle({"a"})
    assert [(row["data_id"], row["kind"]) for row in read_jsonl(path)] == [("c", "KeyError")]


@pytest.mark.parametrize(
    "odd",
    [
        {"seconds": {}},
        {"seconds": ""},
        {"prompt_tokens": "null"},
        {"context_tokens": [1]},
        {"knowledge_ids": 5},
    ],
)
def test_what_an_answer_cost_is_a_number(tmp_path: Path, odd: dict[str, object]) -> None:
    path = tmp_path / "predictions.jsonl"
    row = {"data_id": "q", "prediction": "Paris"}
    path.write_text(json.dumps({**row, "seconds": None, "knowledge_ids": None}) + "\n")
    assert read_answers(path)["q"].seconds == 0
    path.write_text(json.dumps(row | odd) + "\n")
    with pytest.raises(
        RecordError, match=rf"predictions.jsonl: record 1: {next(iter(odd))} is .*; expected a"
    ):
        read_answers(path)


def test_a_full_disk_keeps_what_is_written_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    real, written = os.fsync, []

    def fsync(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("predictions.jsonl"):
            written.append(fd)
        if len(written) > 5:
            raise OSError(28, "No space left on device")
        real(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(StorageError, match="predictions.jsonl"):
            answer(TOY, questions(10), FakeMode(), None, tmp_path, batch_size=2)
    kept = [row["data_id"] for row in rows(tmp_path)]
    assert len(kept) == len(set(kept)) >= 5
    answer(TOY, questions(10), FakeMode(), None, tmp_path, batch_size=2)
    names = [row["data_id"] for row in rows(tmp_path)]
    assert names[: len(kept)] == kept and len(names) == len(set(names)) == 10


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    write_json(tmp_path / ".run.json.x.tmp", {})
    answer(TOY, questions(1), FakeMode(), None, tmp_path)
    assert not list(tmp_path.glob(".*"))
