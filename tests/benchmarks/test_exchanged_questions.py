"""Questions in the forms that EchoSight and ReflectiVA exchange."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from comem.benchmarks import BENCHMARKS
from comem.benchmarks.scoring import ScoreFiles
from comem.io.files import RecordError

HEAD = "question,answer,dataset_image_ids,dataset_name,question_type,wikipedia_url,data_id\n"
ROW = (
    "When was it built?,1204|the year 1204,oven_01|oven_02,infoseek,infoseek,https://w/Mill,infoseek_val_7\n"
)


def test_infoseek_as_echosights_csv(tmp_path: Path) -> None:
    path = tmp_path / "infoseek_test_filtered.csv"
    path.write_text(HEAD + ROW)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "oven_01.jpg")
    row = BENCHMARKS["infoseek"]
    (example,) = row.load(path, image_folder=tmp_path / "images")
    assert (example.id, example.question) == ("infoseek_val_7", "When was it built?")
    assert example.answers == ("1204", "the year 1204")
    assert example.image is not None and str(example.image).endswith("images/oven_01.jpg")
    assert example.meta["wikipedia_url"] == "https://w/Mill"
    report = row.score({"infoseek_val_7": "1204"}, [example], "official")
    assert report.metrics["accuracy"] == 100.0 and report.count == 1


def test_the_filtered_split_takes_answers_and_splits_of_the_published_file(tmp_path: Path) -> None:
    path = tmp_path / "infoseek_test_filtered.csv"
    path.write_text(HEAD + ROW + ROW.replace("infoseek_val_7", "infoseek_val_9"))
    row = BENCHMARKS["infoseek_filtered"]
    said = {"infoseek_val_7": "1250", "infoseek_val_9": "1204"}
    alone = list(row.load(tmp_path))
    assert row.score(said, alone).metrics["accuracy"] == 50.0
    published = [
        {"data_id": "infoseek_val_7", "answer_eval": [{"wikidata": 1204, "range": [1200, 1260]}],
         "answer": ["1204"], "data_split": "val_unseen_question"},
        {"data_id": "infoseek_val_9", "answer_eval": ["1204"], "answer": ["1204"],
         "data_split": "val_unseen_entity"},
        {"data_id": "infoseek_val_1", "answer_eval": ["x"], "answer": ["x"],
         "data_split": "val_unseen_entity"},
    ]  # fmt: skip
    (tmp_path / "infoseek_val.jsonl").write_text("".join(json.dumps(each) + "\n" for each in published))
    types = [("infoseek_val_7", "Numerical"), ("infoseek_val_9", "Time")]
    lines = (json.dumps({"data_id": name, "question_type": kind}) + "\n" for name, kind in types)
    (tmp_path / "infoseek_val_qtype.jsonl").write_text("".join(lines))
    examples = list(row.load(tmp_path))
    metrics = row.score(said, examples).metrics
    assert metrics["final_score"] == 100.0 and metrics["total"] == 2, "the third question is not in the split"
    assert set(metrics["by_type"]) == {"numerical", "time"}
    (tmp_path / "said.jsonl").write_text(
        "".join(json.dumps({"data_id": name, "prediction": text}) + "\n" for name, text in said.items())
    )
    files = ScoreFiles({"": tmp_path / "said.jsonl"}, {"": path})
    assert row.score_files(files).metrics["final_score"] == 100.0
    path.write_text(HEAD + ROW.replace("infoseek_val_7", "infoseek_train_3"))
    with pytest.raises(RecordError, match=r"'infoseek_train_3' is not in .*infoseek_val\.jsonl"):
        list(row.load(tmp_path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + ROW + ROW, "infoseek_val_7"),
        (HEAD + "one,two\n", "not as many fields"),
        ("question,answer\na,b\n", "no column data_id"),
        (HEAD + '"open,1,2', r"\.csv"),
    ],
)
def test_a_damaged_csv_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(RecordError, match=said):
        list(BENCHMARKS["infoseek"].load(path))


def picture(colour: str) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (6, 6), colour).save(data, "JPEG")
    return data.getvalue()


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_infoseek_as_reflectivas_archives(tmp_path: Path) -> None:
    folder = tmp_path / "wds"
    folder.mkdir()
    record = {"question": "When?", "answer": ["1204"], "answer_eval": ["1204"], "data_id": "infoseek_val_1"}
    archive(folder / "val-0000.tar", {"a.question": b"What is it?", "a.img.jpg": picture("red")})
    archive(folder / "val-0001.tar", {
        "../b.question.json": json.dumps(record).encode(), "../b.img.jpg": picture("blue"),
    })  # fmt: skip
    images = tmp_path / "images"
    one, two = BENCHMARKS["infoseek"].load(folder, image_folder=images)
    assert (one.id, one.question, two.id, two.answers) == ("a", "What is it?", "infoseek_val_1", ("1204",))
    assert sorted(each.name for each in images.iterdir()) == ["val-0000_a.jpg", "val-0001_b.jpg"], (
        "nothing beside the folder"
    )
    assert Image.open(str(two.image)).convert("RGB").getpixel((0, 0)) == (0, 0, 254)


def test_samples_of_one_name_in_two_archives_keep_their_own_pictures(tmp_path: Path) -> None:
    for number, colour in enumerate(["red", "blue"]):
        record = {"question": "When?", "data_id": f"q{number}", "note": "town \ud83d"}
        archive(tmp_path / f"val-000{number}.tar", {
            "a.question.json": json.dumps(record).encode(), "a.img.jpg": picture(colour),
        })  # fmt: skip
    one, two = BENCHMARKS["infoseek"].load(tmp_path, image_folder=tmp_path / "images")
    shown = [Image.open(str(each.image)).convert("RGB").getpixel((0, 0)) for each in (one, two)]
    assert shown == [(254, 0, 0), (0, 0, 254)]
    assert one.meta["note"] == "town \ufffd"


def test_archives_need_a_place_for_their_pictures_and_must_be_whole(tmp_path: Path) -> None:
    path = archive(tmp_path / "val-0000.tar", {"a.img.jpg": picture("red")})
    with pytest.raises(ValueError, match="--images"):
        list(BENCHMARKS["infoseek"].load(path))
    with pytest.raises(RecordError, match="'a' has no question"):
        list(BENCHMARKS["infoseek"].load(path, image_folder=tmp_path))
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(RecordError, match="not a whole archive"):
        list(BENCHMARKS["infoseek"].load(path, image_folder=tmp_path))
