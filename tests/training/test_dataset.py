"""The training file: notations, look-ups, and errors with file and line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from comem.io.files import RecordError
from comem.training.data import load_examples, load_knowledge, parse_example

ROW = {"id": "q1", "question": "Where?", "answers": ["Paris", "in Paris"], "image": "a.png"}


def written(folder: Path, *rows: Any, name: str = "train.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def test_plain_record(tmp_path: Path) -> None:
    item = {"id": "w", "text": "A tower.", "image": "w.png", "language": "bg"}
    (example,) = load_examples(written(tmp_path, {**ROW, "language": "fr", "knowledge": [item]}))
    assert example.turns == (("Where?", "Paris"),)
    assert example.answers == ("Paris", "in Paris")
    assert example.images[0].path == str(tmp_path / "a.png")
    assert example.items[0].image is not None and example.items[0].image.path == str(tmp_path / "w.png")
    assert (example.items[0].language, example.language) == ("bg", "fr")


def test_llava_record_and_turns(tmp_path: Path) -> None:
    llava = [
        {"from": "human", "value": "<image>\nWhere?"}, {"from": "gpt", "value": "Paris"},
        {"from": "human", "value": "When?"}, {"from": "gpt", "value": "1889"},
    ]  # fmt: skip
    plain = [{"question": "Where?", "answer": "Paris"}, {"question": "When?", "answer": "1889"}]
    rows = {"id": 1, "conversations": llava, "image": "a.png"}, {"id": 2, "conversations": plain}
    one, two = load_examples(written(tmp_path, *rows))
    assert one.id == "1" and one.turns == two.turns == (("Where?", "Paris"), ("When?", "1889"))
    assert [m.role for m in one.messages()] == ["user", "assistant"] * 2
    assert len(one.messages(last_answer=False)) == 3
    assert one.messages()[0].content[0] == one.images[0]


def test_infoseek_names_and_knowledge_ids(tmp_path: Path) -> None:
    knowledge = written(tmp_path, {"id": "w1", "text": "x"}, {"id": "w2", "text": "y"}, name="k.jsonl")
    row = {"data_id": "d", "question": "Q?", "answer": ["A", "B"], "image_path": "a.png"}
    (example,) = load_examples(written(tmp_path, {**row, "knowledge_ids": ["w2", "w1"]}), knowledge)
    assert (example.id, example.answers) == ("d", ("A", "B"))
    assert [item.id for item in example.items] == ["w2", "w1"]
    assert set(load_knowledge(knowledge)) == {"w1", "w2"}


@pytest.mark.parametrize(
    "row, message",
    [
        ("{broken", "not JSON"),
        ({"question": "Q", "answer": "A"}, "no field 'id'"),
        ({"id": 1, "question": "Q"}, "'answer'"),
        ({"id": 1, "question": " ", "answer": "A"}, "non-empty"),
        ({"id": 1, "question": "Q <|im_end|>", "answer": "A"}, "chat markup"),
        ({**ROW, "id": "q0"}, "already"),
        ({**ROW, "knowledge": ["w"]}, "an object with 'id'"),
        ({**ROW, "knowledge": [{"id": "w"}]}, "neither text nor image"),
        ({**ROW, "knowledge_ids": ["w"]}, "no knowledge file"),
        ({**ROW, "image": 7}, "an image is a path"),
        ({"id": 1, "conversations": []}, "non-empty list"),
        ({"id": 1, "conversations": [{"from": "gpt", "value": "A"}]}, "alternate"),
    ],
)
def test_bad_records_are_passed_over_with_file_and_line(
    tmp_path: Path, row: Any, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, passed = written(tmp_path, {**ROW, "id": "q0"}, "", row), list[str]()
    assert [example.id for example in load_examples(path, passed=passed)] == ["q0"]
    (said,) = passed
    assert said.startswith(f"{path}:3: ") and re.search(message, said) and said in caplog.text
    if message == "already":
        return
    alone = written(tmp_path, "", row, name="alone.jsonl")
    with pytest.raises(RecordError, match=f"alone.jsonl:2: .*{message}"):
        load_examples(alone)


def test_unknown_knowledge_id(tmp_path: Path) -> None:
    knowledge = written(tmp_path, {"id": "w1", "text": "x"}, name="k.jsonl")
    with pytest.raises(RecordError, match="'w9' is not in the knowledge file"):
        load_examples(written(tmp_path, {**ROW, "knowledge_ids": ["w9"]}), knowledge)


def test_empty_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no question"):
        load_examples(written(tmp_path, ""))


def test_every_turn_may_have_a_picture_of_its_own(tmp_path: Path) -> None:
    turns = [
        {"question": "Where?", "answer": "Paris"},
        {"question": "When?", "answer": "1889", "image": "b.png"},
    ]
    example = parse_example({"id": 1, "image": "a.png", "conversations": turns}, tmp_path)
    first, _, second, _ = example.messages()
    assert [first.content[0], second.content[0]] == list(example.images)
    assert example.images[1].path == str(tmp_path / "b.png")


NAN = float("nan")


@pytest.mark.parametrize(
    "given",
    [
        {"answer": "", "answers": ["Paris"]}, {"answers": ["Paris", NAN, None, ""]}, {"image": NAN},
        {"image": ""},
        {"knowledge": NAN}, {"knowledge": [None]}, {"knowledge_ids": NAN}, {"conversations": NAN},
        {"conversations": None, "value": NAN}, {"language": NAN, "data_id": NAN}, {"image": [None, ""]},
    ],
)  # fmt: skip
def test_what_is_missing_is_not_there(tmp_path: Path, given: dict[str, Any]) -> None:
    row = {"id": 0, "question": "null", "answers": ["Paris"], "language": "en"}
    assert load_examples(written(tmp_path, row | given)) == load_examples(written(tmp_path, row))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"id": NAN}, "no field 'id'"), ({"id": ""}, "no field 'id'"),
        ({"answers": NAN}, "the answer must be a text"),
        ({"answers": [NAN]}, "the answer must be"), ({"question": NAN}, "the question must be"),
        ({"knowledge": [{"id": NAN, "text": "x"}]}, "a knowledge item is an object with 'id'"),
        ({"knowledge": [{"id": "", "text": "x"}]}, "a knowledge item is an object with 'id'"),
        ({"knowledge": [{"id": "k", "text": NAN}]}, "neither text nor image"),
        ({"knowledge": [{"id": "k", "text": True}]}, "is no text: True"),
        ({"id": [1]}, "the id must be a text"),
    ],
)  # fmt: skip
def test_what_is_missing_and_needed_is_said(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    row = {"id": 0, "question": "null", "answers": ["Paris"]}
    with pytest.raises(RecordError, match=re.escape(said)):
        load_examples(written(tmp_path, row | given))


def test_words_and_zeros_are_kept(tmp_path: Path) -> None:
    item = {"id": 0, "text": 0, "language": "null", "source": "N/A"}
    row = {"id": "NaN", "question": "None", "answer": 0, "language": "nan", "knowledge": [item]}
    (found,) = load_examples(written(tmp_path, row))
    assert (found.id, found.turns, found.language) == ("NaN", (("None", "0"),), "nan")
    assert [(each.id, each.text, each.language, each.source) for each in found.items] == [
        ("0", "0", "null", "N/A")
    ]
