"""Parts of a run: together they are the run, whoever answered what."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from comem.eval.answering import answer
from comem.eval.run_folder import Shard, is_complete, merge_shards, row_of
from comem.eval.score import score_run
from comem.io.files import JsonlAppender, StorageError, read_json, read_jsonl
from comem.types import ImageRef
from tests.eval.fakes import TOY, FakeMode, questions, rows


def answer_part(folder: Path, part: str, count: int = 20, image: ImageRef | None = None) -> None:
    answer(TOY, questions(count, image), FakeMode(), None, folder, batch_size=3, shard=Shard.parse(part))


def test_parts_equal_the_whole(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    answer_part(whole, "1/1")
    for i in (3, 1, 2):
        assert not is_complete(parts, questions(20))
        answer_part(parts, f"{i}/3")
    assert is_complete(parts, questions(20))
    assert not (parts / "predictions.jsonl").exists()
    counts, answers = merge_shards(parts, questions(20))
    assert (counts.total, counts.answered, counts.failed, counts.missing) == (20, 20, 0, 0)
    assert [row["data_id"] for row in rows(parts)] == [f"q{i}" for i in range(20)]
    assert [row_of(answers[row["data_id"]]) for row in rows(parts)] == rows(parts)
    assert sorted(rows(parts), key=str) == sorted(rows(whole), key=str)
    assert score_run(TOY, questions(20), parts).metrics["accuracy"] == 100.0
    run = read_json(parts / "run.json")
    assert run["counts"]["answered"] == 20 and set(run["shards"]) == {"1-of-3", "2-of-3", "3-of-3"}
    part = read_json(parts / "shards" / "2-of-3" / "run.json")
    assert part["shard"] == "2/3" and part["counts"]["predicted"] == 7


def test_merging_again_changes_nothing_and_takes_what_is_new(tmp_path: Path) -> None:
    answer_part(tmp_path, "1/2")
    assert merge_shards(tmp_path, questions(20))[0].missing == 10
    before = (tmp_path / "predictions.jsonl").read_bytes()
    assert merge_shards(tmp_path, questions(20))[0].answered == 10
    assert (tmp_path / "predictions.jsonl").read_bytes() == before
    answer_part(tmp_path, "2/2")
    merge_shards(tmp_path, questions(20))
    assert (tmp_path / "predictions.jsonl").read_bytes().startswith(before)
    assert len({row["data_id"] for row in rows(tmp_path)}) == len(rows(tmp_path)) == 20


def test_any_division_goes_on_where_another_stopped(tmp_path: Path) -> None:
    answer_part(tmp_path, "1/4")
    mode = FakeMode()
    counts = answer(TOY, questions(20), mode, None, tmp_path, shard=Shard(1, 2))
    assert (counts.total, counts.resumed, counts.predicted) == (10, 5, 5)
    assert not {"q0", "q4", "q8"} & {name for batch in mode.batches for name in batch}
    counts = answer(TOY, questions(20), FakeMode(), None, tmp_path)
    assert (counts.total, counts.resumed, counts.predicted) == (20, 10, 10)
    assert len({row["data_id"] for row in rows(tmp_path)}) == len(rows(tmp_path)) == 20


def test_failures_of_parts_are_merged_and_forgotten_when_answered(tmp_path: Path) -> None:
    bad = ImageRef(path=str(tmp_path / "gone.png"))
    run = tmp_path / "run"
    for part in ("1/2", "2/2"):
        answer_part(run, part, image=bad)
    counts, _ = merge_shards(run, questions(20, bad))
    assert (counts.answered, counts.failed, counts.missing) == (19, 1, 0)
    assert [row["data_id"] for row in read_jsonl(run / "errors.jsonl")] == ["q3"]
    assert score_run(TOY, questions(20, bad), run).metrics["failed"] == 1
    answer_part(run, "2/2")
    assert merge_shards(run, questions(20))[0].failed == 0
    assert (run / "errors.jsonl").read_bytes() == b""


def test_parts_of_other_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run here"):
        merge_shards(tmp_path, questions(2))
    answer(TOY, questions(4), FakeMode(), None, tmp_path, shard=Shard(1, 2), config={"k": 3})
    with pytest.raises(ValueError, match="k: 3 there, 5 now"):
        answer(TOY, questions(4), FakeMode(), None, tmp_path, shard=Shard(2, 2), config={"k": 5})
    answer(TOY, questions(4), FakeMode(), None, tmp_path, shard=Shard(2, 2), config={"k": 3})
    path = tmp_path / "shards" / "2-of-2" / "run.json"
    path.write_text(path.read_text().replace('"k": 3', '"k": 5'))
    with pytest.raises(ValueError, match="2-of-2 holds another run .*k: 5 there, 3 now"):
        merge_shards(tmp_path, questions(4))


def test_two_do_not_merge_at_once(tmp_path: Path) -> None:
    answer_part(tmp_path, "1/2")
    with JsonlAppender(tmp_path / "predictions.jsonl"), pytest.raises(StorageError) as caught:
        merge_shards(tmp_path, questions(20))
    assert caught.value.errno == errno.EAGAIN
