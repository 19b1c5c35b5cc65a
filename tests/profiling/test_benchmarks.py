"""The drivers of `benchmarks/` from end to end at the smallest size, and how marks are read off."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import answering
import cross_shapes
import encode_items
import gpu_suite
import marks

SMALL = "--shape tiny --device cpu --dtype float32".split()
WORDS = "--item-tokens 12 --question-tokens 12 --image-tokens 4 --answer-tokens 2".split()


def run(driver: Any, monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", [driver.__name__, *SMALL, *map(str, words)])
    driver.main()


def test_answering_compares_all_ways_in_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(answering, monkeypatch, *WORDS, "--k", 2, "--repeats", 1, "--out", tmp_path)
    found = json.loads((tmp_path / "profile.json").read_text())
    by_engine: dict[str, list[str]] = {}
    for row in found["cells"]:
        assert row["repeats"] == 1, row
        by_engine.setdefault(row["engine"], []).append(row["mode"])
    ours = ["baseline", "rag", "comem", "comem-bank"]
    theirs = ["authors-batch", "authors-loop"]
    assert by_engine == {"comem": ours, "transformers": ours, "own": theirs}
    assert found["cells"][-1]["encode_seconds"]["p50"] > 0
    assert (tmp_path / "profile.png").is_file() and "≤ 1.35" in (tmp_path / "marks.md").read_text()


def test_items_are_encoded_by_ours_and_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = "--item-tokens 12 --image-tokens 4 --batches 1 2 --k 2 --repeats 1".split()
    run(encode_items, monkeypatch, *sizes, "--out", tmp_path / "items.json")
    rows = json.loads((tmp_path / "items.json").read_text())["rows"]
    ways = [("comem", 1), ("comem", 2), ("authors-batch", 2), ("authors-loop", 1)]
    assert [(row["way"], row["items_per_call"]) for row in rows] == ways
    assert all(0 < row["share"] < 1 and row["seconds"]["p50"] > 0 for row in rows)


def test_prefix_and_cross_at_a_shape(tmp_path: Path) -> None:
    """What is to be run at 7B's shapes on a GPU, at the smallest."""
    words = "--items 2 5 --every 1 --question-tokens 9 --new-tokens 3 --repeat 1 --out".split()
    cross_shapes.main([*SMALL, *words, str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    ways = [("none", 0), ("prefix", 2), ("cross", 2), ("prefix", 5), ("cross", 5)]
    assert [(row["way"], row["items"]) for row in found["results"]] == ways
    assert all(row["first_token_seconds"] > 0 < row["tokens_per_second"] for row in found["results"])
    # two blocks of width 64: reference/comemo.md 3, and a null key of each
    assert found["block_parameters"] == 2 * (4 * 64 * 64 + 3 * 64 * 128 + 2 * 64 + 2 + 64)


@pytest.mark.slow
def test_the_gpu_suite_rehearsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_suite, "_K", (3,))
    monkeypatch.setattr(gpu_suite, "_BATCHES", (1,))
    run(
        gpu_suite,
        monkeypatch,
        "--short",
        "--encoded",
        2,
        "--no-traces",
        "--total-seconds",
        300,
        "--out",
        tmp_path,
    )
    found = json.loads((tmp_path / "profile.json").read_text())
    assert "errors" not in found and all("repeats" in row for row in found["cells"])
    assert {row["mode"] for row in found["cells"]} > {"authors-batch", "authors-loop"}
    assert len(json.loads((tmp_path / "encode_items.json").read_text())["rows"]) == 3


def test_an_error_is_noted_and_the_next_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(suite: Any) -> None:
        suite.answer(gpu_suite._cells(["baseline"], (), (1,), "vllm"))
        suite.answer(gpu_suite._cells(["baseline"], (), (1,)))

    monkeypatch.setattr(gpu_suite, "_measure", fails)
    run(gpu_suite, monkeypatch, "--short", "--out", tmp_path)
    found = json.loads((tmp_path / "profile.json").read_text())
    assert "unknown engine" in found["errors"]["baseline k=0 batch=1 vllm"]
    assert [row["engine"] for row in found["cells"]] == ["comem"]


def row(mode: str, k: int, batch: int, first: float, rate: float, **more: Any) -> dict[str, Any]:
    cell = {"mode": mode, "k": k, "batch": batch, "engine": "own" if "authors" in mode else "comem"}
    figures = {"first_token_seconds": {"p50": first}, "questions_per_second": {"p50": rate}}
    return {**cell, "repeats": 1, **figures, **more}


def test_marks() -> None:
    rows = [
        row("baseline", 0, 1, 0.1, 1.0),
        row("baseline", 0, 32, 1.0, 20.0),
        row("comem-bank", 10, 1, 0.105, 1.0, read_seconds={"p50": 0.0005}),
        row("comem-bank", 10, 32, 1.0, 17.0),
        row("rag", 10, 1, 1.2, 0.5),
        row("comem", 10, 1, 0.4, 2.0),
        row("comem", 10, 8, 2.0, 4.0),
        row("authors-batch", 10, 1, 4.0, 0.4),
    ]
    found = {line[0]: line[2:] for line in marks.check_marks(rows, on_gpu=True)}
    assert found["first token, bank / plain, k=10"] == ("1.05", "met")
    assert found["first token, RAG / bank, k=10"] == ("11.4", "met")
    assert found["first token, bank / plain, k=50"] == ("not measured", "")
    assert found["questions/s at batch 32, bank / plain, k=10"] == ("0.85", "MISSED")
    assert found["questions/s, encoder in the loop / authors, k=10"] == ("10", "met")  # the best batch
    assert found["milliseconds to read a question's memories, k=10"] == ("0.5", "met")
    on_cpu = {line[0]: line[2:] for line in marks.check_marks(rows, on_gpu=False)}
    assert on_cpu["first token, RAG / bank, k=10"] == ("11.4", "MISSED")


def test_marks_of_encoding() -> None:
    rows = [
        {"way": "comem", "repeats": 1, "items_per_second": rate, "share": share}
        for rate, share in ((10.0, 0.3), (30.0, 0.5))
    ]
    rows.append({"way": "authors-batch", "repeats": 1, "items_per_second": 5.0, "share": 0.1})
    assert [line[2:] for line in marks.check_encoding(rows, on_gpu=True)] == [("6", "met"), ("0.5", "met")]
    assert marks.check_encoding(rows, on_gpu=False)[1] == ("s an item", "≤ 0.67", "0.0333", "met")
    assert marks.check_encoding([], on_gpu=True)[0][2] == "not measured"
