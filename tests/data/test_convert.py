"""LLaVA-style JSON and MDS folders become records that `load_examples` reads."""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from comem.cli import main
from comem.data.convert import ConvertSettings, convert, read_mds
from comem.io.images import open_image
from comem.training.data import load_examples

TURNS = [{"from": "human", "value": "<image>\nWho?"}, {"from": "gpt", "value": "Eiffel"}]


def picture(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(buffer, format="JPEG")
    return buffer.getvalue()


def write_mds(folder: Path, columns: Mapping[str, str], rows: Sequence[Mapping[str, bytes]]) -> Path:
    """A folder in the documented layout: one shard, no column of fixed size."""
    folder.mkdir()
    settings, samples = json.dumps({"format": "mds"}).encode(), []
    for row in rows:
        values = [row[name] for name in columns]
        samples.append(struct.pack(f"<{len(values)}I", *map(len, values)) + b"".join(values))
    start = 4 + 4 * (len(rows) + 1) + len(settings)
    offsets = [start + sum(map(len, samples[:at])) for at in range(len(rows) + 1)]
    head = struct.pack(f"<I{len(offsets)}I", len(rows), *offsets)
    (folder / "shard.00000.mds").write_bytes(head + settings + b"".join(samples))
    shard = {
        "column_names": list(columns), "column_encodings": list(columns.values()),
        "column_sizes": [None] * len(columns), "compression": None, "format": "mds",
        "raw_data": {"basename": "shard.00000.mds"}, "samples": len(rows), "zip_data": None,
    }  # fmt: skip
    (folder / "index.json").write_text(json.dumps({"version": 2, "shards": [shard]}))
    return folder


def authors_row(text: str) -> dict[str, bytes]:
    knowledge = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": text}]
    return {
        "conversations": json.dumps(TURNS).encode(),
        "image": picture("red"),
        "knowledge_conversations": json.dumps(knowledge).encode(),
        "knowledge_image": json.dumps([base64.b64encode(picture("blue")).decode()]).encode(),
    }


COLUMNS = {
    "conversations": "json", "image": "jpeg", "knowledge_conversations": "json", "knowledge_image": "json",
}  # fmt: skip


def test_llava_json(tmp_path: Path) -> None:
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "1.jpg").write_bytes(picture("red"))
    (tmp_path / "llava.json").write_text(json.dumps([{"id": 7, "image": "1.jpg", "conversations": TURNS}]))
    output = tmp_path / "out" / "train.jsonl"
    words = ["data", "convert", str(tmp_path / "llava.json"), "--images", str(tmp_path / "coco")]
    assert main([*words, "--output", str(output)]) == 0
    (example,) = load_examples(output)
    assert (example.id, example.turns) == ("7", (("Who?", "Eiffel"),))
    assert open_image(example.images[0]).size == (40, 30)


def test_the_authors_mds(tmp_path: Path) -> None:
    folder = write_mds(tmp_path / "mds", COLUMNS, [authors_row("a tower"), authors_row("a bridge")])
    count, faults = convert(ConvertSettings(folder, tmp_path / "train.jsonl"))
    first, second = load_examples(tmp_path / "train.jsonl")
    assert (count, faults) == (2, {})
    assert [item.text for item in (*first.items, *second.items)] == ["a tower", "a bridge"]
    assert first.items[0].id != second.items[0].id and first.items[0].image is not None
    red, _, blue = open_image(first.items[0].image).getpixel((5, 5))  # type: ignore[misc]
    assert blue > 200 > 50 > red
    assert len(list((tmp_path / "train_images").iterdir())) == 2  # stored by content, once


def test_their_retrieval_results(tmp_path: Path) -> None:
    found = [{"passage_content": "p", "image": base64.b64encode(picture("red")).decode()}]
    row = {"data_id": b"d1", "question": b"Who?", "answer_eval": b'["a", "b"]', "retrieval_info": b""}
    row["retrieval_info"] = json.dumps(found).encode()
    columns = {"data_id": "str", "question": "str", "answer_eval": "json", "retrieval_info": "json"}
    convert(ConvertSettings(write_mds(tmp_path / "mds", columns, [row]), tmp_path / "o.jsonl"))
    (example,) = load_examples(tmp_path / "o.jsonl")
    assert (example.id, example.answers, example.items[0].text) == ("d1", ("a", "b"), "p")


def test_pickled_columns_are_refused_with_the_reason(tmp_path: Path) -> None:
    folder = write_mds(tmp_path / "mds", {"image": "pkl"}, [{"image": b"cos\nsystem\n"}])
    with pytest.raises(ValueError, match=r"'image' is pickled; unpickling runs code"):
        list(read_mds(folder))
    (tmp_path / "a.pkl").write_bytes(b"")
    with pytest.raises(ValueError, match="refused"):
        convert(ConvertSettings(tmp_path / "a.pkl", tmp_path / "o.jsonl"))


def test_a_shard_that_is_cut_short_is_named(tmp_path: Path) -> None:
    folder = write_mds(tmp_path / "mds", COLUMNS, [authors_row("a")])
    shard = folder / "shard.00000.mds"
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"shard\.00000\.mds: sample 1: damaged"):
        convert(ConvertSettings(folder, tmp_path / "o.jsonl"))
    shard.unlink()
    with pytest.raises(ValueError, match="no file shard"):
        convert(ConvertSettings(folder, tmp_path / "o.jsonl"))
    assert not (tmp_path / "o.jsonl").exists()


def test_faulty_records_are_named_or_left_out(tmp_path: Path) -> None:
    rows: list[Any] = [{"id": "a", "conversations": TURNS}, {"id": "b", "conversations": TURNS[:1]}]
    rows.append({"id": "c", "conversations": TURNS, "knowledge_image": ["x.png"]})
    (tmp_path / "l.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="record 2: turns must alternate"):
        convert(ConvertSettings(tmp_path / "l.json", tmp_path / "o.jsonl"))
    count, faults = convert(ConvertSettings(tmp_path / "l.json", tmp_path / "o.jsonl", skip_faults=True))
    assert count == 1 and list(faults) == ["record 2", "record 3"]
    with pytest.raises(ValueError, match="the source itself"):
        convert(ConvertSettings(tmp_path / "l.json", tmp_path / "l.json"))


#: Three records in a shard each, written by MDSWriter of mosaicml-streaming 0.13.0.
WRITTEN = Path(__file__).parent / "mds"


def test_what_their_library_writes_is_read(tmp_path: Path) -> None:
    rows = list(read_mds(WRITTEN))
    assert [(row["id"], row["number"]) for row in rows] == [("q0", -1), ("q1", 0), ("q2", 1)]
    assert convert(ConvertSettings(WRITTEN, tmp_path / "train.jsonl")) == (3, {})
    kept = load_examples(tmp_path / "train.jsonl")
    assert kept[2].turns == (("¿Qué es esto, 2?", "respuesta 2"),)
    assert [item.text for item in kept[1].items] == ["passage 1.0", "passage 1.1"]
    pictures = [*kept[0].images, *(item.image for item in kept[0].items)]
    assert all(each is not None and open_image(each).size == (16, 16) for each in pictures)


def llava(folder: Path, *records: dict[str, Any]) -> tuple[Path, Any]:
    """The converted file of some LLaVA records, and what the conversion says."""
    for name in ("1.jpg", "2.jpg"):
        (folder / name).write_bytes(picture("red"))
    (folder / "l.json").write_text(json.dumps(list(records)))
    output = folder / "out" / "deep" / "train.jsonl"  # from where the images are out of reach, but for us
    return output, convert(ConvertSettings(folder / "l.json", output, skip_faults=True))


def said(*turns: str, **more: Any) -> dict[str, Any]:
    roles = ("human", "gpt") * len(turns)
    return {"conversations": [{"from": r, "value": v} for r, v in zip(roles, turns, strict=False)], **more}


def test_ids_become_unique_and_that_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names: list[Any] = [1, "1", "1_2", None, 4, 1]
    output, (count, faults) = llava(tmp_path, *(said("Who?", "x", id=name) for name in names))
    assert count == 6 and not faults and "4 records: the id was there before" in caplog.text
    assert [each.id for each in load_examples(output)] == ["1", "1_2", "1_2_2", "4", "4_2", "1_3"]


def test_words_stay_apart_and_images_go_to_their_turns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output, (count, _) = llava(
        tmp_path,
        said("Look at this.\n<image>\nWhat is it?", "x", id="a", image="1.jpg"),
        said("See <image> there.", "x", id="b", image="1.jpg"),
        said("<image>\nWho?", "x", "And <image>?", "y", id="c", image=["1.jpg", "2.jpg"]),
        said("Who?", "x", "<image> And?", "y", id="d", image="2.jpg"),
        said("Who?", "x", id="e", image="1.jpg"),
    )
    a, b, c, d, e = load_examples(output)
    assert count == 5 and a.turns[0][0] == "Look at this.\nWhat is it?" and b.turns[0][0] == "See there."
    assert (
        [len(images) for images in c.turn_images] == [1, 1] == [len(images) for images in e.turn_images] * 2
    )
    assert list(map(len, d.turn_images)) == [0, 1]
    assert open_image(d.turn_images[1][0]).size == (40, 30)
    assert "3 records: an image amid a text goes before it" in caplog.text


def test_what_cannot_be_carried_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    system = {"from": "system", "value": "Be kind"}
    kept = said("<image>\nWho?", "x", id="ok", image="1.jpg")
    kept["conversations"].insert(0, system)
    output, (count, faults) = llava(
        tmp_path, kept,
        said("Who?", "x", video="a.mp4"), said("<video>\nWho?", "x"), said("<audio> Who?", "x"),
        said("<image><image>Who?", "x", image="1.jpg"), said("<image> Who?", "x", image=["1.jpg", "2.jpg"]),
        said("Who?", "x", image="../../../x.png"), said("Who?", "x", image="http://h/x.png"),
    )  # fmt: skip
    assert count == 1 and len(faults) == 7 and "1 records: a system turn was left out" in caplog.text
    assert [example.id for example in load_examples(output)] == ["ok"]
    assert sum("do not carry" in fault for fault in faults.values()) == 3
    assert sum("<image> marks for" in fault for fault in faults.values()) == 2


def test_one_odd_record_stops_no_conversion(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = said("<image>\nWho?", "x", id="a", image="1.jpg")
    item = {"id": "k", "text": "p", "image": "2.jpg"}
    odd: list[Any] = [
        7, None, "x", [], {}, good | {"knowledge_image": "1.jpg"}, good | {"knowledge_conversations": 7},
        good | {"retrieval_info": ["x"]}, good | {"retrieval_info": {"a": 1}}, good | {"knowledge": "k"},
        good | {"knowledge": [7]}, good | {"knowledge": [item | {"image": {"colour": 1}}]},
    ]  # fmt: skip
    kept = good | {"knowledge": [item], "videos": [], "video": None, "depth": 1, "origin": "o"}
    output, (count, faults) = llava(tmp_path, kept, *odd)
    (example,) = load_examples(output)
    assert count == 1 and len(faults) == len(odd) and example.source == "o"
    assert open_image(example.items[0].image or b"").size == (40, 30) and example.items[0].id == "k"
    assert "fields that our records do not have, left out: depth" in caplog.text
    lines = [
        json.dumps(kept),
        "{broken",
        "[1]",
        '{"id": ' + "9" * 5000 + "}",
        json.dumps(good | {"id": "\ud83d"}),
    ]
    (tmp_path / "l.jsonl").write_bytes("\n".join([*lines, ""]).encode() + b'{"id": "\xff"}\n')
    settings = ConvertSettings(tmp_path / "l.jsonl", tmp_path / "o.jsonl", skip_faults=True)
    assert convert(settings)[0] == 2 and "1 records: text that is not Unicode was replaced" in caplog.text
    with pytest.raises(ValueError, match=r"l.jsonl: record 2: not JSON"):
        convert(ConvertSettings(tmp_path / "l.jsonl", tmp_path / "o2.jsonl"))
