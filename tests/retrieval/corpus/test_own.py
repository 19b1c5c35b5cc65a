"""One's own pictures and texts: tables of all kinds, folders, and data sets of the datasets library."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from comem.io.images import ImageError, open_image
from comem.retrieval.corpus.build import build_corpus
from comem.retrieval.corpus.rows import RawRows, pages
from comem.retrieval.corpus.rules import CorpusError, CorpusRules, CorpusStats, CutShardError
from comem.retrieval.corpus.sources import CorpusSettings, find_sources
from comem.retrieval.knowledge import KnowledgeBase


def png(colour: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (colour, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def built(
    tmp_path: Path, *words: object, rules: CorpusRules | None = None, **options: object
) -> KnowledgeBase:
    options |= vars(rules or CorpusRules())
    settings = CorpusSettings(sources=tuple(map(str, words)), output=tmp_path / "kb", **options)  # type: ignore[arg-type]
    return build_corpus(settings)


def rows(path: Path, stats: CorpusStats) -> RawRows:
    (source,) = find_sources([path])
    return source.rows(stats)


ROWS = [
    {"id": "1", "title": "Eins", "caption": "the first", "image": "a.png", "lang": "de", "license": "cc0"},
    {"id": "2", "title": "", "caption": "the second", "image": "b.png", "lang": "en", "license": ""},
]


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "csv", "csv;", "csv.gz", "parquet"])
def test_tables_of_all_kinds_are_read_alike(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"items.{kind.removesuffix(';')}"
    separator = ";" if kind.endswith(";") else ","
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        text = "\n".join(json.dumps(row) for row in ROWS)
        if "csv" in kind:
            text = "\n".join(
                separator.join(row.values()) for row in [dict(zip(ROWS[0], ROWS[0], strict=True)), *ROWS]
            )
        path.write_bytes(gzip.compress(text.encode()) if kind.endswith("gz") else text.encode("utf-8-sig"))
    first, second = built(tmp_path, path).items([0, 1])
    assert (first.id, first.text, first.language) == ("1", "Eins: the first", "de")
    assert (second.text, second.image.path) == ("the second", str(tmp_path / "b.png"))  # type: ignore[union-attr]


def test_columns_of_any_name(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv"
    path.write_text('sku,about,pic\n7,"a ""red"" chair, wood",x.png\n')
    with pytest.raises(CorpusError, match=r"asks for the column 'image', which .*; it has sku, about, pic"):
        built(tmp_path, path)
    with pytest.raises(CorpusError, match=r"rows have no column 'id'; they have .*sku"):
        built(tmp_path, path, columns=("text=about", "image=pic"))
    item = built(tmp_path, path, columns=("id=sku", "text=about", "image=pic")).items([0])[0]
    assert (item.id, item.text) == ("7", 'a "red" chair, wood')
    with pytest.raises(CorpusError, match=r"no column 'code' \(--columns\); it has sku"):
        built(tmp_path, path, columns=("id=code",))


def test_broken_lines_are_counted_and_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_bytes(
        b'{"id": 1, "text": "a", "image": "b"}\n[1]\n\xff\xfe\n{"id": 2, \n{"id": 3, "text": "c"}\n'
    )
    stats = CorpusStats()
    assert [row["id"] for _, row in rows(path, stats)] == [1, 3]
    assert stats.read == 5 and dict(stats.dropped) == {"broken line (no JSON object)": 3}
    path = tmp_path / "items.csv"
    path.write_text('id,text\n1,a\n2,b,c\n"3","d\0e"\n')
    stats = CorpusStats()
    assert [row["id"] for _, row in rows(path, stats)] == ["1", "3"]
    assert dict(stats.dropped) == {"broken line (3 of 2 fields)": 1}


def test_files_that_are_something_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("no\njson\n")
    (tmp_path / "b.csv").write_text("")
    (tmp_path / "c.parquet").write_bytes(b"PAR1 and then nothing")
    (tmp_path / "d.xml").write_text("<x/>")
    for name, message in [
        ("a.jsonl", "not one of its 2 lines is a JSON object"), ("b.csv", "the file is empty"),
        ("c.parquet", "not a whole Parquet file"), ("d.xml", "unknown corpus format; known: .tsv"),
        ("none.csv", "no such corpus file or folder"),
    ]:  # fmt: skip
        with pytest.raises(CorpusError, match=f"{name}: {message}"):
            built(tmp_path, tmp_path / name)


def test_cut_files_give_their_whole_rows_first(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    lines = [json.dumps({"id": i, "text": os.urandom(99).hex(), "image": "x"}) for i in range(300)]
    whole = gzip.compress("\n".join(lines).encode())
    path.write_bytes(whole[: len(whole) // 2])
    stats, got = CorpusStats(), []
    with pytest.raises(CutShardError, match="cut or damaged after line"):
        got.extend(row["id"] for _, row in rows(path, stats))
    assert 100 < len(got) < 200 and got == list(range(len(got)))


def test_a_damaged_parquet_page_is_a_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = [{"id": str(i), "text": os.urandom(50).hex()} for i in range(20_000)]
    pq.write_table(pa.Table.from_pylist(table), path, row_group_size=2000, write_page_checksum=True)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 200] = b"\xff" * 200
    path.write_bytes(data)
    stats = CorpusStats()
    try:
        count = sum(1 for _ in rows(path, stats))
    except CutShardError as error:
        assert "damaged after row" in str(error)
        count = stats.read
    assert count >= 2000


def test_a_folder_of_question_image_with_texts_beside_them(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "sub").mkdir(parents=True)
    for name in ("Eiffel_Tower.jpg", "b.png", "sub/c.PNG", "silent.png", "bad.png"):
        (folder / name).write_bytes(png())
    (folder / "Eiffel_Tower.txt").write_text("A tower.\nIn Paris.", encoding="utf-8-sig")
    (folder / "b.json").write_text('{"text": "Ein Baum", "language": "de", "license": "cc0"}')
    (folder / "sub" / "c.txt").write_text("third")
    (folder / "bad.json").write_text("{")
    (folder / "notes.md").write_text("no picture")
    base = built(tmp_path, folder)
    items = {item.id: item for item in base.items(range(len(base)))}
    assert sorted(items) == ["Eiffel_Tower.jpg", "b.png", "sub/c.PNG"]
    assert items["Eiffel_Tower.jpg"].text == "A tower. In Paris." and items["b.png"].language == "de"
    assert base.manifest["rows"]["dropped"] == {"broken text file": 1, "no text": 1}
    titled = built(tmp_path, folder, names_as_titles=True)
    assert "Eiffel Tower: A tower. In Paris." in titled.texts() and "silent" in titled.texts()


def test_metadata_beside_pictures_as_in_an_image_folder(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "a.png").write_bytes(png())
    (folder / "metadata.csv").write_text("id,file_name,text\n1,a.png,about a\n")
    (item,) = built(tmp_path, folder).items([0])
    assert item.text == "about a" and open_image(item.image).size == (4, 4)  # type: ignore[arg-type]


@pytest.fixture()
def nobody() -> Iterator[Path]:
    """A folder that may be entered, and no right to read what others locked: root becomes nobody."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    (folder / "first.csv").write_text("id,text,image\n1,x,a.png\n")
    built(folder / "first", folder / "first.csv")  # imports what nobody might not be allowed to read
    open_image(png())
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        for path in folder.rglob("*"):
            path.chmod(0o755)
        shutil.rmtree(folder)


def test_a_folder_without_permission(nobody: Path) -> None:
    folder = nobody / "mine"
    (folder / "locked" / "deep").mkdir(parents=True)
    (folder / "locked").chmod(0)
    with pytest.raises(CorpusError, match="locked: cannot be read .*permissions"):
        built(nobody, folder)
    with pytest.raises(CorpusError, match="deep: cannot be read .*permissions"):
        built(nobody, folder / "locked" / "deep")


def test_a_table_and_a_picture_without_permission(nobody: Path) -> None:
    table = nobody / "items.jsonl"
    table.write_text('{"id": "1", "text": "x", "image": "a.png"}\n')
    (nobody / "a.png").write_bytes(png())
    for path in (nobody / "a.png", table):
        path.chmod(0)
        if path == table:
            with pytest.raises((CorpusError, PermissionError), match="items.jsonl"):
                built(nobody, table)
        else:
            (item,) = built(nobody, table).items([0])
            with pytest.raises(ImageError, match="a.png.*check path and permissions"):
                open_image(item.image)  # type: ignore[arg-type]


def test_a_folder_that_refuses_to_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()

    def refuse(path: object = ".") -> list[str]:
        raise PermissionError(13, "Permission denied", str(path))

    sources = find_sources([folder])
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(CorpusError, match="mine: cannot be read .*permissions"):
        list(sources[0].rows(CorpusStats()))
    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(CorpusError, match="mine: cannot be read .*permissions"):
        find_sources([folder])


@pytest.mark.slow
@pytest.mark.parametrize("how", ["saved", "loaded"])
def test_data_sets_of_the_datasets_library(tmp_path: Path, how: str) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    columns = {"image": [{"bytes": png(i)} for i in (1, 2, 1)], "text": ["one", "two", "three"]}
    data = datasets.Dataset.from_dict(columns, features=features)
    if how == "saved":
        datasets.DatasetDict({"test": data}).save_to_disk(str(tmp_path / "set"))
        word = f"hf:{tmp_path / 'set'}:test"
    else:
        (tmp_path / "set").mkdir()
        data.to_parquet(str(tmp_path / "set" / "train-00000-of-00001.parquet"))
        word = f"hf:{tmp_path / 'set'}"
    base = built(tmp_path, word)
    items = base.items(range(3))
    assert [item.text for item in items] == ["one", "two", "three"]
    assert items[0].image == items[2].image != items[1].image  # named by content
    assert open_image(items[1].image).getpixel((0, 0)) == (2, 0, 0)  # type: ignore[arg-type]
    with pytest.raises(CorpusError, match="data set .*no-such.* cannot be opened"):
        built(tmp_path, f"hf:{tmp_path / 'set'}:no-such")


def test_texts_nested_by_page_become_a_row_each() -> None:
    nested = {
        "language": ["en", "de"],
        "page_title": ["A", "B"],
        "page_url": ["u/a", "u/b"],
        "caption": ["x", ""],
    }
    row = {"image": b"", "image_url": "https://h/x.jpg", "embedding": [0.0], "wit_features": nested}
    first, second = pages(row)
    assert (first["page_title"], second["language"], first["image_url"]) == ("A", "de", "https://h/x.jpg")
    assert first["id"].startswith("u/a#") and "embedding" not in first
    assert [flat["page_title"] for flat in pages({**row, "wit_features": [{"page_title": "C"}]})] == ["C"]
