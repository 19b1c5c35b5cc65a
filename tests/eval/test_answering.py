"""The runner: nothing lost, nothing twice, whatever stops it; failures are recorded, other runs refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from comem.eval.answering import answer
from comem.eval.score import score_run
from comem.io.files import RecordError, StorageError, read_json, read_jsonl
from comem.io.images import ImageError
from comem.types import Example, ImageRef, KnowledgeItem, RetrievedContext
from tests.eval.fakes import TOY, FakeMode, questions, rows


def test_a_run_folder_is_complete(tmp_path: Path) -> None:
    seen: list[Any] = []

    @contextmanager
    def progress(title: str, total: int | None = None, *, done: int = 0, unit: str = "") -> Iterator[Any]:
        seen.append((done, total))
        yield lambda count: seen.append((seen[-1][0] + count, total))

    item = KnowledgeItem("k1", "a passage", None)
    contexts = {"q1": RetrievedContext("q1", (item,))}
    counts = answer(
        TOY,
        questions(10),
        FakeMode(),
        contexts,
        tmp_path,
        batch_size=4,
        config={"seed": 7, "decoding": {"max_new_tokens": 3}},
        progress=progress,
    )
    assert (counts.total, counts.resumed, counts.predicted, counts.failed) == (10, 0, 10, 0)
    assert seen == [(0, 10), (4, 10), (8, 10), (10, 10)]
    report = score_run(TOY, questions(10), tmp_path)
    assert report.metrics["accuracy"] == 100.0
    assert report.metrics["mean"] == {"context_tokens": 8, "prompt_tokens": 20, "seconds": 0.25}
    assert report.metrics["with_knowledge"] == 1
    run = read_json(tmp_path / "run.json")
    assert run["config"] == {
        "benchmark": "toy",
        "mode": "fake",
        "seed": 7,
        "decoding": {"max_new_tokens": 3},
    }
    assert run["counts"]["predicted"] == 10 and run["versions"]["python"]
    assert read_json(tmp_path / "metrics.json")["accuracy"] == 100.0
    lengths = [int(row["prediction"]) for row in rows(tmp_path)]
    assert lengths[:1] == [1] and sorted(lengths[:9]) == lengths[:9]  # like lengths together
    assert next(row for row in rows(tmp_path) if row["data_id"] == "q1")["knowledge_ids"] == ["k1"]


def test_limit_then_the_rest_then_nothing(tmp_path: Path) -> None:
    for limit, expected in ((4, 4), (None, 6), (None, 0)):
        counts = answer(TOY, questions(10), FakeMode(), None, tmp_path, limit=limit)
        assert counts.predicted == expected
    assert sorted(row["data_id"] for row in rows(tmp_path)) == sorted(f"q{i}" for i in range(10))


def test_ctrl_c_keeps_what_is_answered(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        answer(TOY, questions(10), FakeMode(stop_at=2), None, tmp_path, batch_size=3)
    assert len(rows(tmp_path)) == 6
    assert read_json(tmp_path / "run.json")["counts"]["predicted"] == 6
    assert answer(TOY, questions(10), FakeMode(), None, tmp_path).resumed == 6
    assert len({row["data_id"] for row in rows(tmp_path)}) == len(rows(tmp_path)) == 10


def test_a_bad_picture_is_recorded_and_tried_again(tmp_path: Path) -> None:
    bad = questions(10, ImageRef(path=str(tmp_path / "gone.png")))
    counts = answer(TOY, bad, FakeMode(), None, tmp_path / "run", batch_size=5)
    assert (counts.predicted, counts.failed) == (9, 1)
    errors = list(read_jsonl(tmp_path / "run" / "errors.jsonl"))
    assert [(row["data_id"], row["kind"]) for row in errors] == [("q3", "ImageError")]
    assert "gone.png: no such image file" in errors[0]["error"]
    report = score_run(TOY, bad, tmp_path / "run")
    assert report.metrics["failed"] == 1
    assert (report.metrics["accuracy"], report.metrics["accuracy_missing_wrong"]) == (100.0, 90.0)
    with pytest.raises(ImageError, match="gone.png"):
        answer(TOY, bad, FakeMode(), None, tmp_path / "run", strict=True)
    counts = answer(TOY, questions(10), FakeMode(), None, tmp_path / "run")
    assert (counts.resumed, counts.predicted, counts.failed) == (9, 1, 0)
    assert score_run(TOY, questions(10), tmp_path / "run").metrics["failed"] == 0


def test_when_everything_fails_the_run_says_so(tmp_path: Path) -> None:
    class Broken(FakeMode):
        def answer_batch(self, examples: Any, contexts: Any) -> Any:
            raise ValueError("the bank was made by another encoder")

    with pytest.raises(ValueError, match="first 10 examples failed.*another encoder"):
        answer(TOY, questions(50), Broken(), None, tmp_path / "many")
    with pytest.raises(ValueError, match="none of the 3 examples.*errors.jsonl"):
        answer(TOY, questions(3), Broken(), None, tmp_path / "few")


def test_images_that_cannot_be_used_are_their_own_questions_fault(tmp_path: Path) -> None:
    """Ten at the start stop nothing; ten that are not there do: the folder is a wrong one."""
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"\x89PNG\r\n\x1a\n")
    asked = questions(14)
    bad = [replace(each, image=ImageRef(path=str(damaged))) for each in asked[:12]]
    counts = answer(TOY, [*bad, *asked[12:]], FakeMode(), None, tmp_path / "run", batch_size=5)
    assert (counts.predicted, counts.failed) == (2, 12)
    gone = [replace(each, image=ImageRef(path=str(tmp_path / "gone.png"))) for each in questions(12)]
    with pytest.raises(ValueError, match=r"first 10 examples failed.*no such image file"):
        answer(TOY, gone, FakeMode(), None, tmp_path / "gone")


def test_programming_errors_are_not_swallowed(tmp_path: Path) -> None:
    class Wrong(FakeMode):
        def answer_batch(self, examples: Any, contexts: Any) -> Any:
            raise TypeError("bug")

    with pytest.raises(TypeError):
        answer(TOY, questions(3), Wrong(), None, tmp_path)


def test_another_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    config = {"k": 3, "decoding": {"temperature": 0.0}, "limits": (1, 2)}
    answer(TOY, questions(2), FakeMode(), None, tmp_path, config=config)
    answer(TOY, questions(2), FakeMode(), None, tmp_path, config=config)
    other = {**config, "decoding": {"temperature": 0.1}, "new": 1}
    with pytest.raises(ValueError, match=r"decoding.temperature: 0.0 there, 0.1 now; new: None there, 1 now"):
        answer(TOY, questions(2), FakeMode(), None, tmp_path, config=other)
    with pytest.raises(ValueError, match="mode: 'fake' there, 'rag' now"):
        answer(TOY, questions(2), FakeMode("rag"), None, tmp_path, config=config)
    with pytest.raises(ValueError, match="holds predictions already"):
        answer(TOY, questions(2), FakeMode(), None, tmp_path, config=config, resume=False)
    (tmp_path / "run.json").unlink()
    with pytest.raises(ValueError, match="unknown run"):
        answer(TOY, questions(2), FakeMode(), None, tmp_path, config=config)


def test_bad_calls_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'q0' comes twice"):
        answer(TOY, questions(1) * 2, FakeMode(), None, tmp_path)
    with pytest.raises(ValueError, match="batch_size is 0"):
        answer(TOY, questions(1), FakeMode(), None, tmp_path, batch_size=0)
    with pytest.raises(RecordError, match="no such file"):
        score_run(TOY, questions(1), tmp_path)
    answer(TOY, questions(1), FakeMode(), None, tmp_path / "run")
    with pytest.raises(ValueError, match="none of the 1 predictions belongs"):
        meta = {"data_id": "other", "answer_eval": ["x"]}
        score_run(TOY, [Example("other", "?", None, meta=meta)], tmp_path / "run")


def test_two_runs_at_once_in_one_folder_are_refused(tmp_path: Path) -> None:
    class Nested(FakeMode):
        def answer_batch(self, examples: Any, contexts: Any) -> Any:
            answer(TOY, questions(2), FakeMode(), None, tmp_path)

    with pytest.raises(StorageError, match="another process is writing"):
        answer(TOY, questions(2), Nested(), None, tmp_path)
