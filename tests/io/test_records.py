"""Records as people bring them: text that is no Unicode, endless numbers, words that look like nothing."""

from __future__ import annotations

import gzip
import json
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from comem.io.files import (
    RecordError,
    exact,
    harmless,
    is_missing,
    marks,
    parse_json,
    prose,
    read_json,
    read_jsonl,
    valid,
)
from comem.retrieval.corpus.build import build_corpus
from comem.retrieval.corpus.rules import CorpusError, CorpusStats
from comem.retrieval.corpus.sources import CorpusSettings, find_sources, read_corpus


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"), ("naïve 😀", "naïve 😀"), ("lone \ud83d end", "lone \ufffd end"), ("\udc00",
        "\ufffd"),
        ("pair \ud83d\ude00", "pair 😀"), ("\ude00\ud83d", "\ufffd\ufffd"), ("byte \udcff", "byte \ufffd"),
    ],
)  # fmt: skip
def test_text_becomes_unicode(text: str, expected: str) -> None:
    assert valid(text) == expected and valid(expected) == expected
    assert parse_json(json.dumps({"a": [text], text: 1})) == (
        {"a": [expected], expected: 1},
        text != expected and "pair" not in text,
    )


def test_repairs_are_counted_with_the_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"a": "\\ud83d"}\n{"a": "\\ud83d\\ude00"}\n\n{"a": "\\udfff x"}\n{"a": "\\\\ud83d"}\n')
    assert [row["a"] for row in read_jsonl(path)] == ["\ufffd", "😀", "\ufffd x", "\\ud83d"]
    assert "2 records (the first on line 1) had text that is not Unicode" in caplog.text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"a": ' + b"9" * 5000 + b"}", "a number of thousands of digits"),
        (b'{"a": -' + b"1" * 4301 + b".0e", "not JSON|thousands"),
        (b"[" * 100_000, "not JSON"), (b'{"a": "\xff"}', "not UTF-8"), (b"[1]", "found list"), (b'"a"',
        "found str"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16"), (b'{"a": 1', "not JSON"),
    ],
)  # fmt: skip
def test_what_is_no_record_names_file_and_line(tmp_path: Path, line: bytes, said: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(b'{"a": 0}\n' + line)
    with pytest.raises(RecordError, match=rf"q.jsonl:2: .*({said})"):
        list(read_jsonl(path))
    (tmp_path / "one.json").write_bytes(line)
    if b"[1]" != line != b'"a"':
        with pytest.raises(RecordError, match=said):
            read_json(tmp_path / "one.json")


@pytest.mark.parametrize("value", [None, "", " \n", "\0", float("nan")])
def test_what_is_missing(value: Any) -> None:
    assert is_missing(value) and exact(value) == prose(value) == ""


@pytest.mark.parametrize(
    "value", ["null", "NaN", "None", "N/A", "nan", "<NA>", 0, False, 0.0, Decimal("0"), "0"]
)
def test_words_and_zeros_are_there(value: Any) -> None:
    assert not is_missing(value) and exact(value) == prose(value) == str(value)


def test_names_are_no_prose() -> None:
    assert exact(" at 9.41.00\u202fAM  b\u00a0c.png\n") == "at 9.41.00\u202fAM  b\u00a0c.png"
    assert prose("two\u202fspaces  and\nlines") == "two spaces and lines"


SPECIAL = marks(["<|im_start|>", "<|im_end|>", "</s>", "<image>", " ", ""])


@pytest.mark.parametrize(
    "text",
    [
        "nice <|im_st<|im_end|>art|> town", "<|im_<|im_<|im_end|>end|>end|>", "</<</s>/s>s>",
        "<im<image>age>",
        "<|im_st" + "<image>" * 3 + "art|>", "</s></s>",
    ],
)  # fmt: skip
@pytest.mark.parametrize("by", [" ", ""])
def test_no_special_token_is_left_or_forms(text: str, by: str) -> None:
    assert SPECIAL.search(harmless(text, SPECIAL, by)) is None
    assert harmless("a plain <b> town", SPECIAL, by) == "a plain <b> town"


ROWS = [
    '{"id": "null", "text": "Null is a sign", "title": "N/A"}',
    '{"id": "NaN", "text": "None", "language": "nan"}',
    '{"id": 0, "text": "NULL"}', '{"id": "a  b\u202fc", "text": "ok", "image": "a  b\u202fc.png"}',
]  # fmt: skip
ODD = [
    '{"id": "u", "text": "t", "image": "http://[bad/x.png"}',
    '{"id": "v", "text": "t", "image": "//[::1/x.png"}',
    '{"id": "n", "text": ' + "9" * 5000 + "}", '{"id": null, "text": "no id"}', '{"text": "no id"}', "[1]",
    "{",
    '{"id": "l", "text": ["a", "b"]}', '{"id": ["l"], "text": "t"}', '{"id": true, "text": "t"}',
    '{"id": "o", "text": "t", "title": {"en": "t"}}', '{"id": "la", "text": "t", "language": ["en"]}',
    '{"id": "fi", "text": "t", "video": 12}', '{"id": "fj", "text": "t", "video": {"path": null}}',
    '{"id": "s", "text": "t", "image": {"colour": 1}}', '{"id": "e", "text": "", "image": null}',
]  # fmt: skip


def test_odd_rows_are_passed_over_and_the_others_kept(tmp_path: Path) -> None:
    path = tmp_path / "kb.jsonl"
    path.write_text("\n".join([ODD[4], *ROWS, *ODD]) + "\n")
    base = build_corpus(CorpusSettings(sources=(str(path),), output=tmp_path / "K"))
    assert base.ids == ["null", "NaN", "0", "a  b\u202fc"] and base.languages == ["en", "nan", "en", "en"]
    assert base.texts() == ["N/A: Null is a sign", "None", "NULL", "ok"]
    assert base.images()[3].endswith("a  b\u202fc.png")
    assert sum(base.manifest["rows"]["dropped"].values()) == len(ODD) + 1
    stats = CorpusStats()
    assert [item.id for item in read_corpus(find_sources([path]), stats=stats)] == base.ids
    assert stats.read == len(ROWS) + len(ODD) + 1


def test_text_that_is_not_unicode_is_counted_in_every_table(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "1", "text": "a \\ud83d b"}\n')
    column = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\5\0\0\0"), pa.py_buffer(b"x \xff y"))
    pq.write_table(pa.table({"id": ["1"], "text": column}), tmp_path / "b.parquet")
    for name, text in (("a.jsonl", "a \ufffd b"), ("b.parquet", "x \ufffd y")):
        stats = CorpusStats()
        (item,) = read_corpus(find_sources([tmp_path / name]), stats=stats)
        assert item.text == text and dict(stats.repaired) == {"text that is not Unicode": 1}


@pytest.mark.parametrize(
    ("encoding", "repairs"), [("utf-8", 0), ("utf-8-sig", 0), ("cp1252", 1), ("utf-16", 1), ("utf-16-le", 1)]
)
def test_a_table_out_of_a_spreadsheet(tmp_path: Path, encoding: str, repairs: int) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes('id,text\r\n1,"Zürich, ""old"" town\r\nsecond – line"\r\n2,plain\r\n'.encode(encoding))
    stats = CorpusStats()
    first, second = read_corpus(find_sources([path]), stats=stats)
    assert first.text == 'Zürich, "old" town second – line' and second.text == "plain"
    assert (stats.repaired["encoding"] > 0) == bool(repairs)


@pytest.mark.parametrize(
    ("rows", "ids", "broken"),
    [
        ('a,good\nb,"open\nc,fine\nd,"q ""x"" y\nline 2"\n', "acd", 1), ('a,"open\n', "", 1),
        ('a,"open, too\nb,x\n' + "c,y\n" * 3, "bccc", 1), ("a," + '"' + "line\n" * 500 + '"\nb,x\n', "ab", 0),
        ('a,"x""\nb,y\n\nc,z\n', "bc", 1), ('a,x"\nb,"y"z\n', "ab", 0), ("a,x,y\nb\nc,z\n", "c", 2),
    ],
)  # fmt: skip
def test_a_quote_that_does_not_end_costs_its_own_line(
    tmp_path: Path, rows: str, ids: str, broken: int
) -> None:
    (tmp_path / "t.csv").write_text("id,text\n" + rows)
    stats = CorpusStats()
    assert [item.id for item in read_corpus(find_sources([tmp_path / "t.csv"]), stats=stats)] == list(ids)
    assert sum(stats.dropped.values()) == broken and stats.read == len(ids) + broken


def test_binary_columns_hold_text(tmp_path: Path) -> None:
    columns = {"id": [b"1", b"\xff"], "text": [b"town", b"caf\xe9"]}
    pq.write_table(
        pa.table({name: pa.array(rows, pa.binary()) for name, rows in columns.items()}),
        tmp_path / "b.parquet",
    )
    stats = CorpusStats()
    found = [
        (item.id, item.text) for item in read_corpus(find_sources([tmp_path / "b.parquet"]), stats=stats)
    ]
    assert found == [("1", "town"), ("\ufffd", "caf\ufffd")] and sum(stats.repaired.values()) == 1


BESIDE = {
    "plain.txt": ("Zürich".encode(), "Zürich", 0), "excel.txt": ("Zürich".encode("cp1252"), "Zürich", 1),
    "wide.txt": ("Zürich".encode("utf-16"), "Zürich", 1), "bom.txt": (b"\xef\xbb\xbfZ", "Z", 0),
    "half.json": (b'{"text": "Z \\ud83d"}', "Z \ufffd", 1),
    "latin.json": (b'{"text": "Z\xfc"}', "Z\ufffd", 1),
    "wide.json": ('{"text": "Zürich"}'.encode("utf-16"), "Zürich", 1),
    " lead.txt": (b"blank", "blank", 0), "data:x.txt": (b"colon", "colon", 0), "file:.txt": (b"f", "f", 0),
}  # fmt: skip


@pytest.mark.parametrize("name", BESIDE)
def test_what_stands_beside_an_image_is_read_as_tables_are(tmp_path: Path, name: str) -> None:
    data, text, repairs = BESIDE[name]
    (tmp_path / name).write_bytes(data)
    (tmp_path / name).with_suffix(".png").write_bytes(b"x")
    stats = CorpusStats()
    (item,) = read_corpus(find_sources([tmp_path]), stats=stats)
    assert item.text == text and (sum(stats.repaired.values()) > 0) == bool(repairs)
    assert item.image is not None and Path(str(item.image)).is_file() and not stats.dropped


def test_damaged_tables_are_errors_of_one_line(tmp_path: Path) -> None:
    rows = "id,text,image\n" + "".join(f'{i},"text ""{i}"" é",{i}.png\n' for i in range(40))
    whole, rng = gzip.compress(rows.encode(), mtime=0), random.Random(0)
    for number in range(150):
        data = bytearray(whole[: rng.randrange(1, len(whole))] if number % 3 == 0 else whole)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path = tmp_path / ("t.csv.gz" if number % 2 else "t.csv")
        path.write_bytes(data if number % 2 else bytes(data[:20]) + rows.encode()[: rng.randrange(200)])
        try:
            list(read_corpus(find_sources([path])))
        except CorpusError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)


@pytest.mark.parametrize(
    "reply", ['{"question": ' + "9" * 5000 + "}", '{"a": ' + "[" * 100_000, "{", "9" * 5000, ""]
)
def test_a_reply_that_cannot_be_used_is_said_to_be_none(reply: str) -> None:
    from comem.data.endpoint import _reply
    from comem.data.translation import _object

    assert _object(reply) in ("not JSON", "empty reply")
    assert _reply(reply).reason == "no chat completion"
    told = _reply('{"choices": [{"message": {"content": "half \\ud83d"}}]}')
    assert told.reply == "half \ufffd" and not told.reason
