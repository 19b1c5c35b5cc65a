"""Titles files in the published formats."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from comem.io.files import RecordError
from comem.linking.titles import Entity, read_titles

PAIRS = [("Q16221564", "Leaf Huang"), ("Q4933113", "Bob Lanois"), ("Q7", 'Tab\there "quoted"')]
EXPECTED = [
    Entity("Q16221564", "Leaf Huang"),
    Entity("Q4933113", "Bob Lanois"),
    Entity("Q7", 'Tab here "quoted"'),
]


def write(path: Path, text: str) -> Path:
    data = text.encode("utf-8")
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("keys", [("wikidata_id", "wikipedia_title"), ("id", "content"), ("qid", "title")])
@pytest.mark.parametrize("name", ["titles.jsonl", "titles.jsonl.gz"])
def test_json_lines(tmp_path: Path, keys: tuple[str, str], name: str) -> None:
    rows = [{keys[0]: qid, keys[1]: title, "wikipedia_summary": "ignored"} for qid, title in PAIRS]
    path = write(tmp_path / name, "".join(json.dumps(row) + "\n" for row in rows))
    assert list(read_titles(path)) == EXPECTED


@pytest.mark.parametrize("header", ["", "wikidata_id\twikipedia_title\n"])
@pytest.mark.parametrize("name", ["titles.tsv", "titles.tsv.gz"])
def test_tab_separated(tmp_path: Path, header: str, name: str) -> None:
    path = write(tmp_path / name, header + "Q16221564\tLeaf Huang\n\nQ4933113\tBob Lanois\textra\r\n")
    assert list(read_titles(path)) == EXPECTED[:2]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.jsonl", '{"page": 1}\n', "record 1 has none of wikidata_id, id"),
        (
            "t.jsonl",
            '{"id": "Q1", "content": "a"}\n{"id": "Q2", "content": null}\n',
            "record 2: id 'Q2' and title None",
        ),
        ("t.jsonl", '{"id": 5, "content": "a"}\n', "record 1: id 5"),
        ("t.jsonl", '{"id": "Q1", "content": " "}\n', "not empty"),
        ("t.jsonl", "Q1\tParis\n", "t.jsonl:1: not JSON"),
        ("t.tsv", "Q1\tParis\nParis\n", "t.tsv:2: expected id, tab, title"),
        ("t.tsv", "Q1\t\n", "t.tsv:1: id 'Q1' and title ''"),
        ("t.csv", "Q1,Paris\n", "give .jsonl or .tsv"),
    ],
)
def test_broken_files_name_the_place(tmp_path: Path, name: str, content: str, said: str) -> None:
    with pytest.raises(RecordError, match=said):
        list(read_titles(write(tmp_path / name, content)))


def test_damaged_files(tmp_path: Path) -> None:
    whole = gzip.compress("".join(f"Q{i}\ttitle {i}\n" for i in range(1000)).encode())
    for name, data in (
        ("cut.tsv.gz", whole[:-20]),
        ("latin.tsv", b"Q1\tZ\xfcrich\n"),
        ("plain.tsv.gz", b"Q1\ta\n"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(RecordError, match=f"{name}:.*copy it again"):
            list(read_titles(tmp_path / name))
    for name in ("gone.tsv", "gone.jsonl"):
        with pytest.raises(RecordError, match="no such file"):
            list(read_titles(tmp_path / name))
