"""Files mixed: drawn by the seed, ids apart, paths and counts right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from comem.cli import main
from comem.data.mix import Part, mix_parts, parse_part
from comem.io.files import RecordError, read_jsonl
from comem.training.data import load_examples

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write("a", 3)` writes a training file of three records in a folder of its own."""

    def make(name: str, count: int, **fields: object) -> Path:
        path = tmp_path / name / "train.jsonl"
        path.parent.mkdir()
        same = {"question": "Why?", "answer": "so", "image": "p.png", **fields}
        rows = [{"id": f"{name}{n}", **same} for n in range(count)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return make


def test_so_many_of_each_with_paths_that_hold(write: Write, tmp_path: Path) -> None:
    parts = {"first": Part(write("a", 6), 4), "second": Part(write("b", 3, language="fr"))}
    parts |= {"third": Part(write("c", 2), 9)}
    manifest = mix_parts(parts, tmp_path / "new" / "mixed")
    assert manifest["mixture"]["origin"] == {"first": 4, "second": 3, "third": 2}
    assert manifest["mixture"]["language"] == {"en": 6, "fr": 3}
    assert manifest["kept"] == 9 and manifest["parts"]["first"]["records"] == 6
    kept = load_examples(tmp_path / "new" / "mixed" / "train.jsonl")
    folders = [Path(str(each.images[0].path)).resolve().parent.name for each in kept]
    assert folders == ["a"] * 4 + ["b"] * 3 + ["c"] * 2
    rows = list(read_jsonl(tmp_path / "new" / "mixed" / "train.jsonl"))
    assert [row["origin"] for row in rows] == ["first"] * 4 + ["second"] * 3 + ["third"] * 2
    before = (tmp_path / "new" / "mixed" / "train.jsonl").read_bytes()
    mix_parts(parts, tmp_path / "new" / "mixed")
    mix_parts(parts, tmp_path / "other", seed=1)
    assert (tmp_path / "new" / "mixed" / "train.jsonl").read_bytes() == before
    other = {row["id"] for row in read_jsonl(tmp_path / "other" / "train.jsonl")}
    assert other != {row["id"] for row in rows}


def test_pictures_of_turns_and_items_move_too(write: Write, tmp_path: Path) -> None:
    turns = [{"question": "A?", "answer": "b"}, {"question": "C?", "answer": "d", "image": ["q.png"]}]
    item = {"id": "w", "text": "t", "image": "w.png"}
    file = write("a", 1, conversations=turns, knowledge=[item], image=["p.png", "r.png"])
    mix_parts({"a": Part(file)}, tmp_path / "mixed")
    (kept,) = load_examples(tmp_path / "mixed" / "train.jsonl")
    found = [str(image.path) for image in kept.images] + [
        str(kept.items[0].image and kept.items[0].image.path)
    ]
    names = ["p.png", "r.png", "q.png", "w.png"]
    assert [Path(path).resolve() for path in found] == [tmp_path / "a" / name for name in names]


def test_what_does_not_go_together_is_named(write: Write, tmp_path: Path) -> None:
    first, again = Part(write("a", 2)), Part(write("b", 2))
    again.file.write_text(first.file.read_text())
    with pytest.raises(ValueError, match="the id 'a0' is in x and in y"):
        mix_parts({"x": first, "y": again}, tmp_path / "mixed")
    again.file.write_text('{"id": "q", "question": "Why?"}\n')
    with pytest.raises(RecordError, match=r"b/train\.jsonl: record 1: needs 'question' with 'answer'"):
        mix_parts({"y": again}, tmp_path / "broken")
    mix_parts({"x": first}, tmp_path / "whole")
    with pytest.raises(ValueError, match=r"begun with other settings \(seed: 0 there, 3 now\)"):
        mix_parts({"x": first}, tmp_path / "whole", seed=3)


def test_the_command(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [f"a={write('a', 4)}:2", f"b={write('b', 3)}:5"]
    assert main(["data", "mix", *files, "--output", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "2 fewer than asked for" in shown and len(load_examples(tmp_path / "out" / "train.jsonl")) == 5
    assert main(["data", "mix", files[0], files[0], "--output", str(tmp_path / "x")]) == 2
    assert "a name of its own" in capsys.readouterr().err


def test_parts_are_parsed() -> None:
    assert parse_part("a=b.jsonl:20") == ("a", Part(Path("b.jsonl"), 20))
    assert parse_part("a=c:/b.jsonl") == ("a", Part(Path("c:/b.jsonl")))
    for text in ("b.jsonl", "=b.jsonl", "a="):
        with pytest.raises(ValueError, match="write NAME=FILE"):
            parse_part(text)
    with pytest.raises(ValueError, match="give at least 1"):
        parse_part("a=b:0")
