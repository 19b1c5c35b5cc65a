"""Rows on the hub, and off it: what is fetched, and what is said when it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from comem.benchmarks import BENCHMARKS
from comem.benchmarks.files import HubFiles, find_parquet, read_parquet
from comem.io.files import RecordError

ON_HUB = {"mrag_bench", "okvqa", "aokvqa", "viquae", "cvqa"}
ON_HUB |= {"wikivqabench", "mmmu", "mathvista", "coco_caption"}


def test_rows_say_where_they_are_published() -> None:
    assert {name for name, row in BENCHMARKS.items() if row.hub is not None} == ON_HUB
    for name, row in BENCHMARKS.items():
        assert row.files and row.groups and row.headline, name
        assert (row.hub is None) or (row.hub.repo in row.source and row.splits), name


@pytest.mark.parametrize("name", sorted(ON_HUB))
def test_offline_says_what_to_fetch_and_where_to_put_it(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    row = BENCHMARKS[name]
    assert row.hub is not None
    pattern = row.hub.pattern.format(split=row.splits[0])
    with pytest.raises(ValueError) as caught:
        row.load()
    said = str(caught.value)
    assert said.startswith(f"{name}: {row.hub.repo} cannot be fetched (")
    assert f"hf download {row.hub.repo} --repo-type dataset --include '{pattern}' --local-dir DIR" in said
    assert said.endswith("then give --data DIR") and "\n" not in said


@pytest.mark.parametrize(
    ("name", "file"), [("infoseek_es", "infoseek_val_spanish.jsonl"), ("oven_query", "oven_query_val.jsonl")]
)
def test_rows_off_the_hub_name_their_file(name: str, file: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is not on the hub. Give --data PATH: .*{file}"):
        BENCHMARKS[name].load()


def test_a_fetched_copy_is_read_like_a_local_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_parquet: Any, picture: Any
) -> None:
    asked: list[Any] = []

    def snapshot(repo: str, **settings: Any) -> str:
        asked.append((repo, settings["repo_type"], settings["allow_patterns"]))
        row = {"question_id": "1", "image": picture(), "question": "?", "answers": ["a"] * 10}
        return str(write_parquet(tmp_path, "val2014", [row]))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    (example,) = BENCHMARKS["okvqa"].load()
    assert asked == [("lmms-lab/OK-VQA", "dataset", ["data/val2014-*.parquet"])]
    assert example.id == "1" and example.group == ""


def test_unknown_splits_are_refused_before_anything_is_fetched() -> None:
    with pytest.raises(ValueError, match="okvqa has no split 'test'; it has val2014, train2014"):
        BENCHMARKS["okvqa"].load(split="test")
    assert HubFiles("a/b", "{split}.jsonl").remedy("test").count("test.jsonl") == 1


def test_parquet_files_are_found_whole_or_not_at_all(tmp_path: Path, write_parquet: Any) -> None:
    write_parquet(tmp_path, "test", [{"a": n} for n in range(4)], shards=3)
    files = find_parquet(tmp_path, "test")
    assert [row["a"] for row in read_parquet(files, ["a"])] == [0, 3, 1, 2]
    assert find_parquet(files[0], "anything") == [files[0]]
    with pytest.raises(ValueError, match="no parquet file of split 'val'; it has the splits test"):
        find_parquet(tmp_path, "val")
    files[1].unlink()
    with pytest.raises(ValueError, match="2 of 3 shards of test; number 1 is missing"):
        find_parquet(tmp_path, "test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="it has no parquet files"):
        find_parquet(tmp_path / "empty", "val")
    with pytest.raises(ValueError, match="nowhere: no such file or folder"):
        find_parquet(tmp_path / "nowhere", "test")


def test_the_hubs_own_conversion_is_read(tmp_path: Path, write_parquet: Any) -> None:
    (file,) = (write_parquet(tmp_path, "x", [{"a": 1}]) / "data").iterdir()
    target = tmp_path / "default" / "test" / "0000.parquet"
    target.parent.mkdir(parents=True)
    file.rename(target)
    assert find_parquet(tmp_path, "test") == [target]


@pytest.mark.parametrize(
    ("damage", "message"), [("cut", "not a whole parquet file"), ("text", "not a whole parquet file")]
)
def test_damaged_parquet_files_are_named(
    tmp_path: Path, write_parquet: Any, damage: str, message: str
) -> None:
    (file,) = find_parquet(write_parquet(tmp_path, "test", [{"a": 1}]), "test")
    file.write_bytes(file.read_bytes()[:-20] if damage == "cut" else b"<html>404</html>")
    with pytest.raises(RecordError, match=f"test-00000-of-00001.parquet: {message}.*fetch it again"):
        list(read_parquet([file], ["a"]))


def test_missing_columns_are_named(tmp_path: Path, write_parquet: Any) -> None:
    files = find_parquet(write_parquet(tmp_path, "test", [{"a": 1}]), "test")
    with pytest.raises(RecordError, match="no column b, c; it has a"):
        list(read_parquet(files, ["a", "b", "c"], ["d"]))
