"""Corpora: passages, faults of real TSVs, and what is kept, dropped or refused."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from comem.retrieval.corpus.build import build_corpus
from comem.retrieval.corpus.rows import WIT_COLUMNS
from comem.retrieval.corpus.rules import CorpusError, CorpusRules, CorpusStats, CutShardError, passage
from comem.retrieval.corpus.sources import CorpusSettings, find_sources, read_corpus
from comem.types import KnowledgeItem


def read(
    path: Path, stats: CorpusStats | None = None, images: Path | None = None, **rules: object
) -> Iterator[KnowledgeItem]:
    return read_corpus(find_sources([path], images), CorpusRules(**rules), stats)  # type: ignore[arg-type]


def line(**values: str) -> str:
    row = {"language": "en", "page_url": "p/a", "image_url": "a.png", "page_title": "A", **values}
    row.setdefault("context_page_description", "text of A")
    return "\t".join(row.get(name, "") for name in WIT_COLUMNS) + "\n"


def shard(folder: Path, *lines: str | bytes, name: str = "wit.tsv") -> Path:
    raw = b"".join(x if isinstance(x, bytes) else x.encode() for x in ("\t".join(WIT_COLUMNS) + "\n", *lines))
    path = folder / name
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return path


NAN = float("nan")  # as pandas has what is missing; the word is a word


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"page_title": "T", "context_section_description": "s", "context_page_description": "p"}, "T: s"),
        ({"page_title": "T", "context_section_description": NAN, "context_page_description": "p"}, "T: p"),
        (
            {"page_title": "T", "context_section_description": " ", "caption_alt_text_description": "c"},
            "T: c",
        ),
        ({"page_title": "T", "context_page_description": NAN}, "T"),
        ({"page_title": NAN, "context_page_description": "p"}, "p"),
        ({"page_title": "Nan", "context_page_description": "a town"}, "Nan: a town"),
        ({"page_title": None}, ""),
        ({"page_title": "None"}, "None"),
        ({"page_title": "Nancy", "context_page_description": "in France"}, "Nancy: in France"),
    ],
)
def test_passage_takes_the_best_description_and_never_nan(row: dict[str, Any], expected: str) -> None:
    assert passage(row) == expected


def test_rows_become_items_in_order(tmp_path: Path) -> None:
    path = shard(
        tmp_path, line(), line(page_url="p/b", image_url="sub/b.png", language="ru"), name="wit.tsv.gz"
    )
    first, second = read(path)
    assert (first.id, first.text, first.language, first.source) == ("p/a#a.png", "A: text of A", "en", "p/a")
    assert second.image is not None and second.image.path == str(tmp_path / "sub" / "b.png")


def test_language_filter_counts_what_it_drops(tmp_path: Path) -> None:
    stats = CorpusStats()
    items = list(read(shard(tmp_path, line(), line(language="ru")), stats, languages=("ru",)))
    assert [item.language for item in items] == ["ru"]
    assert (stats.read, stats.kept, dict(stats.dropped)) == (2, 1, {"language": 1})


def test_a_broken_line_is_skipped_with_its_number(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stats = CorpusStats()
    path = shard(tmp_path, line(), "only\tthree\tfields\n", line(page_url="p/c"))
    with caplog.at_level(logging.WARNING):
        assert len(list(read(path, stats))) == 2
    assert f"{path}:3" in caplog.text
    assert dict(stats.dropped) == {"broken line (3 of 17 fields)": 1}


def test_quoted_fields_hold_quotes_line_breaks_and_tabs(tmp_path: Path) -> None:
    texts = ['"say ""hi"" now"', '"two\nlines"', '"a\ttab"', 'an "inner" quote']
    lines = [line(page_url=f"p/{i}", context_page_description=text) for i, text in enumerate(texts)]
    items = list(read(shard(tmp_path, *lines)))
    assert [item.text for item in items] == [
        'A: say "hi" now',
        "A: two lines",
        "A: a tab",
        'A: an "inner" quote',
    ]


def test_an_unclosed_quote_costs_one_line_only(tmp_path: Path) -> None:
    stats = CorpusStats()
    broken = 'en\tp/x\tx.png\tX\t"never closed\n'
    lines = [broken, *(line(page_url=f"p/{i}") for i in range(30))]
    assert len(list(read(shard(tmp_path, *lines), stats=stats))) == 30
    assert sum(stats.dropped.values()) == 1


def test_bytes_that_are_not_utf8_are_replaced_and_counted(tmp_path: Path) -> None:
    stats = CorpusStats()
    path = shard(tmp_path, line(page_title="caf@").encode().replace(b"@", b"\xe9"))
    (item,) = read(path, stats)
    assert item.text == "caf\ufffd: text of A" and stats.repaired["encoding"] == 1


def test_byte_order_mark_and_carriage_returns(tmp_path: Path) -> None:
    path = shard(tmp_path, line())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert [item.text for item in read(path)] == ["A: text of A"]


def test_wrong_columns_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text("language\tpage_url\ttext\nen\ta\tb\n")
    with pytest.raises(CorpusError, match=r"missing columns image_url, page_title, one of context_section"):
        list(read(path))


def test_empty_missing_and_unknown_files(tmp_path: Path) -> None:
    (tmp_path / "empty.tsv").write_text("")
    (tmp_path / "no.tsv.gz").write_text("not gzip")
    for name, message in [
        ("empty.tsv", "empty"),
        ("none.tsv", "no such"),
        ("no.tsv.gz", "not a gzip"),
        ("a.xml", "known"),
    ]:
        with pytest.raises(CorpusError, match=message):
            list(read(tmp_path / name))


def test_a_cut_gzip_delivers_its_whole_rows_first(tmp_path: Path) -> None:
    import random

    rng = random.Random(0)
    lines = [line(page_url=f"p/{i}", context_page_description=rng.randbytes(200).hex()) for i in range(500)]
    path = shard(tmp_path, *lines, name="wit.tsv.gz")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    items = []
    with pytest.raises(CutShardError, match="cut or damaged after line"):
        for item in read(path):
            items.append(item)
    assert 150 < len(items) < 300
    assert [item.source for item in items] == [f"p/{i}" for i in range(len(items))]


def test_rows_without_text_or_local_image_are_dropped(tmp_path: Path) -> None:
    stats = CorpusStats()
    url = "https://upload.example.org/a/Fl%C3%A4che.png?x=1"
    path = shard(
        tmp_path, line(page_title="", context_page_description=""), line(image_url=""), line(image_url=url)
    )
    assert list(read(path, stats)) == []
    assert dict(stats.dropped) == {"no text": 1, "no local image": 2}
    (item,) = read(path, images=tmp_path / "downloads")  # a folder of downloaded pictures
    assert item.image is not None and item.image.path == str(tmp_path / "downloads" / "Fläche.png")


def test_jsonl_items(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMEM_IMAGES", "/x")
    path = tmp_path / "items.jsonl"
    rows = [
        {"id": 1, "text": "one", "image": "1.png"},
        {"id": 2, "text": "zwei", "image": "/x/2.png", "language": "de"},
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    first, second = read(path)
    assert (first.id, first.language, first.image.path) == ("1", "en", str(tmp_path / "1.png"))  # type: ignore[union-attr]
    assert (second.language, second.image.path) == ("de", "/x/2.png")  # type: ignore[union-attr]
    path.write_text('{"id": 1, "text": "a", "image": "b"}\n{"id": 2, ')
    stats = CorpusStats()
    with caplog.at_level(logging.WARNING):
        assert len(list(read(path, stats))) == 1
    assert "items.jsonl:2" in caplog.text and stats.dropped == {"broken line (no JSON object)": 1}
    path.write_text('{"text": "a", "image": "b"}\n')
    with pytest.raises(CorpusError, match="items.jsonl:1: the rows have no column 'id'"):
        list(read(path))


def test_repeated_ids_are_refused_or_dropped(tmp_path: Path) -> None:
    path = shard(tmp_path, line(), line(page_url="p/b"), line())
    settings = CorpusSettings(sources=(str(path),), output=tmp_path / "kb", unique="none")
    with pytest.raises(CorpusError, match="'p/a#a.png' repeats"):
        build_corpus(settings)
    base = build_corpus(replace(settings, on_duplicate="drop"))
    rows = base.manifest["rows"]
    assert len(base) == 2
    assert (rows["read"], rows["kept"], rows["dropped"]) == (3, 2, {"repeated id": 1})


def test_the_real_flags(flags_dir: Path) -> None:
    stats = CorpusStats()
    items = list(read(flags_dir / "wit_flags.tsv.gz", stats))
    assert len(items) == stats.read == len({item.id for item in items}) == 1225
    assert {item.language for item in items} == {"en", "es", "pt", "zh", "ru"}
    assert all(Path(item.image.path).is_file() for item in items if item.image and item.image.path)
    assert not any("nan" in item.text.lower().split(": ")[1:] for item in items)
