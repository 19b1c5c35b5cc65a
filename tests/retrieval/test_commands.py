"""The commands, from the corpus to retrieved items."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from comem.cli import main


def test_build_search_retrieve(
    corpus: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, index = corpus(6, ("en", "no")), tmp_path / "kb"
    build = ["index", "build", "--corpus", str(path), "--output", str(index), "--embedder", "toy"]
    assert main([*build, "--languages", "no"]) == 0  # which YAML would read as false
    assert "12 rows read, 6 kept, dropped: 6 language" in capsys.readouterr().out
    assert (
        main(["index", "search", "--index", str(index), "--image", str(path.parent / "2.png"), "-k", "1"])
        == 0
    )
    assert "no2" in capsys.readouterr().out
    assert main(["index", "search", "--index", str(index), "--text", "a red star"]) == 0

    questions, found = tmp_path / "q.jsonl", tmp_path / "found.jsonl"
    questions.write_text(
        "".join(json.dumps({"data_id": f"q{i}", "image_path": f"{i}.png"}) + "\n" for i in range(6))
    )
    retrieve = [
        "retrieve",
        "--index",
        str(index),
        "--questions",
        str(questions),
        "--images",
        str(path.parent),
    ]
    assert main([*retrieve, "-k", "2", "--output", str(found)]) == 0
    rows = [json.loads(line) for line in found.read_text().splitlines()]
    assert [row["ids"][0] for row in rows] == [f"no{i}" for i in range(6)]
    assert main([*retrieve, "-k", "3", "--output", str(found)]) == 2  # other settings
    assert "other settings (k: 2 there, 3 now)" in capsys.readouterr().err.replace("\n", " ")


def test_evaluate_writes_numbers(corpus: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "recall.json"
    assert (
        main(["index", "evaluate", "--images", str(corpus(4).parent), "--baseline", "--output", str(out)])
        == 0
    )
    assert set(json.loads(out.read_text())["reports"]) == {"toy", "raw 16 x 16 pixels"}


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["index", "build", "--corpus", str(tmp_path / "x.tsv"), "--output", str(tmp_path / "kb")]
    assert main([*arguments, "--embedder", "toyy"]) == 2
    assert "unknown embedder 'toyy'" in capsys.readouterr().err
    assert main([*arguments, "--embedder", "toy"]) == 2
    assert "no such corpus file" in capsys.readouterr().err.replace("\n", " ")


def test_the_index_is_announced_searched_by_both_and_measured(
    corpus: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, index, page = corpus(6), tmp_path / "kb", tmp_path / "page.html"
    build = ["index", "build", "--corpus", str(path), "--output", str(index), "--embedder", "toy"]
    assert main([*build, "--factory", "HNSW8", "--memory-gb", "0.5"]) == 0
    assert "index HNSW8: about" in capsys.readouterr().out
    both = ["--image", str(path.parent / "2.png"), "--text", "red", "--weight", "0.9", "--html", str(page)]
    assert main(["index", "search", "--index", str(index), *both, "-k", "3"]) == 0
    assert "en2" in capsys.readouterr().out and page.read_text().count("data:image/jpeg") == 4
    out = tmp_path / "numbers.json"
    assert main(["index", "evaluate", "--index", str(index), "--output", str(out)]) == 0
    numbers = json.loads(out.read_text())["numbers"]
    assert numbers["vectors"] == 6 and numbers["recall@1"] == numbers["recall@5"] == 1.0
    assert main(["index", "verify", str(index)]) == 0
    with open(index / "rows.npy", "r+b") as file:
        file.seek(-8, 2)
        file.write(b"\x01")
    assert main(["index", "verify", str(index)]) == 1
    assert "rows.npy: was changed" in capsys.readouterr().out.replace("\n", "")
    assert main(["index", "search", "--index", str(index)]) == 2
    assert "give --image FILE, --text TEXT, or both" in capsys.readouterr().err


def test_evaluate_by_known_items(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c").write_text('{"example_id": "a", "ids": ["x", "y"]}\n')
    (tmp_path / "r").write_text('{"example_id": "a", "relevant": ["y"]}\n')
    words = ["index", "evaluate", "--contexts", str(tmp_path / "c")]
    assert main([*words, "--relevant", str(tmp_path / "r")]) == 0
    shown = capsys.readouterr().out
    assert "mrr: 0.5" in shown and "recall@1: 0" in shown and "recall@5: 1" in shown
    assert main(words) == 2
    assert "give one of --images DIR" in capsys.readouterr().err
