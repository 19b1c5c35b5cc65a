"""Questions of one's own: any of the usual field names, with and without images and accepted answers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from comem.benchmarks import BENCHMARKS, Benchmark, per_example
from comem.benchmarks.files import DataFiles
from comem.benchmarks.own import contains, evaluate, load
from comem.cli import main
from comem.eval.predict import PredictSettings, predict
from comem.types import Example


def written(folder: Path, *rows: dict[str, Any], name: str = "q.jsonl") -> Path:
    path = folder / name
    text = json.dumps(rows) if name.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text)
    return path


ASKED = [
    ({"question": "Who?"}, ("1", None, ())),
    ({"id": 7, "question": " Who? ", "image": None, "answer": None}, ("7", None, ())),
    ({"data_id": "a", "question": "Who?", "image_path": "a.png", "answers": ["x", "y", "x"]}, ("a", "a.png",
    ("x", "y"))),
    ({"question_id": 0, "question": "<image>\nWho?", "images": ["a.png"], "answer": 3}, ("0", "a.png",
    ("3",))),
    ({"id": "d", "question": "Who?", "image": {"path": "a.png"}, "answer": "x", "answer_eval": ["x", "z"]},
     ("d", "a.png", ("x", "z"))),
    ({"id": "l", "image": "a.png", "conversations": [{"from": "human", "value": "<image>\nWho?"},
      {"from": "gpt", "value": "x"}]}, ("l", "a.png", ("x",))),
    ({"id": "t", "conversations": [{"question": "Who?", "answer": "x"}, {"question": "How?", "answer": "y"}]},
     ("t", None, ("x",))),
]  # fmt: skip


@pytest.mark.parametrize(("row", "expected"), ASKED)
@pytest.mark.parametrize("name", ["q.jsonl", "questions.json"])
def test_the_names_that_training_files_take(
    tmp_path: Path, row: dict[str, Any], expected: Any, name: str
) -> None:
    (example,) = load(DataFiles(written(tmp_path, row, name=name)))
    image = None if example.image is None else str(example.image.path).removeprefix(f"{tmp_path}/")
    assert (example.id, image, example.answers) == expected and example.question == "Who?"


@pytest.mark.parametrize(
    ("given", "answers"),
    [({"text": ["x", "y"], "answer_start": [1, 2]}, ("x", "y")), ({"n": 1}, ()),
     ([{"answer": "x"}, {"answer": "y"}], ("x", "y")), ([None, float("nan"), ""], ()),
     ([["x"], "y"], ("x", "y")), ([{"text": "x", "n": 1}], ("x",)),
     ([1, 2.5, True], ("1", "2.5", "True")), ("None", ("None",))],
)  # fmt: skip
def test_answers_in_many_forms(tmp_path: Path, given: Any, answers: Any) -> None:
    (example,) = load(DataFiles(written(tmp_path, {"question": "Who?", "answers": given})))
    assert example.answers == answers


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_tables_of_questions(tmp_path: Path, kind: str) -> None:
    rows = [("1", "Who, and why?", "a.png", '["x, y", "z"]'), ("2", "How?", "", "[7"), ("3", "When?", "", "")]
    path = tmp_path / f"questions.{kind}"
    if kind == "parquet":
        import pyarrow as pa
        from pyarrow import parquet

        images = [{"bytes": b"pixels", "path": None}, None, None]
        answers = [["x, y", "z"], ["[7"], None]
        table = {"id": [1, 2, 3], "question": [row[1] for row in rows], "image": images, "answers": answers}
        parquet.write_table(pa.table({**table, "other": [0, 0, 0]}), path)
    else:
        with open(path, "w", newline="", encoding="utf-8-sig") as file:
            out = csv.writer(file, delimiter="," if kind == "csv" else "\t")
            out.writerows([("id", "question", "image", "answers"), *rows])
    found = list(load(DataFiles(path)))
    assert [(each.id, each.question, each.answers) for each in found] == [
        ("1", "Who, and why?", ("x, y", "z")), ("2", "How?", ("[7",)), ("3", "When?", ()),
    ]  # fmt: skip
    assert [each.image is None for each in found] == [False, True, True]
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2] + b"\xff")
    with pytest.raises(ValueError, match=f"questions.{kind}"):
        list(load(DataFiles(path)))


def test_faulty_files_are_named(tmp_path: Path) -> None:
    for rows, said in (
        (({"answer": "x"},), "has no question text"), (({"question": " "},), "has no question text"),
        (({"id": 1, "question": "a"}, {"id": "1", "question": "b"}), "comes twice"), ((), "no questions"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            list(load(DataFiles(written(tmp_path, *rows))))
    path = written(tmp_path, {"question": "a", "split": "test"}, {"question": "b", "origin": "mine"})
    assert [each.id for each in load(DataFiles(path, split="mine"))] == ["2"]
    with pytest.raises(ValueError, match=r"no question of split 'val'; it has 'test', 'mine'"):
        list(load(DataFiles(path, split="val")))


@pytest.mark.parametrize(
    ("said", "accepted", "exact", "inside"),
    [
        ("Oak.", "oak", 1, 1), ("the oak", "Oak", 1, 1), ("It is made of oak, I think", "oak", 0, 1),
        ("soak", "oak", 0, 0), ("cafe\u0301", "café", 1, 1), ("这是故宫。", "故宫", 0, 1),
        ("The", "the", 1, 1),
        ("32 km²", "32 km2", 1, 1), ("+", "+", 1, 1), ("", "oak", 0, 0), ("132", "32", 0, 0),
    ],
)  # fmt: skip
def test_what_an_answer_earns(said: str, accepted: str, exact: int, inside: int) -> None:
    report = evaluate({"q": said}, {"q": Example("q", "?", None, ("other", accepted))})
    assert report.metrics["exact_match"] == 100 * exact and report.metrics["contains"] == 100 * inside
    assert exact <= report.metrics["f1"] / 100 <= 1


def test_contains_looks_for_whole_words() -> None:
    assert (
        contains("a b c", "b")
        and not contains("abc", "b")
        and contains("x-b.", "b")
        and not contains("b", "")
    )


def test_questions_without_accepted_answers_cost_nothing() -> None:
    some = {"a": Example("a", "?", None, ("x",)), "b": Example("b", "?", None)}
    report = evaluate({"a": "x", "b": "y"}, some)
    assert report.metrics["exact_match"] == 100 and report.metrics["total"] == 1
    assert report.metrics["without_accepted_answers"] == 1 and report.count == 1
    assert evaluate({"b": "y"}, {"b": some["b"]}).metrics == {
        "answered": 1,
        "total": 1,
        "without_accepted_answers": 1,
    }


def test_text_alone_is_asked_answered_and_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (30, 30), "red").save(tmp_path / "a.png")
    asked = [
        {"question": "What are the walls made of?", "answers": ["oak"]},
        {"question": "Who?", "image": "a.png"},
    ]
    notes = written(tmp_path, {"id": "n", "text": "Its walls are made of oak."}, name="notes.jsonl")
    assert main(["corpus", "build", str(notes), "--output", str(tmp_path / "K")]) == 0
    settings = PredictSettings(
        benchmark="own", data=written(tmp_path, *asked), mode=("rag",), output=tmp_path / "run",
        retriever="bm25", index=tmp_path / "K",
    )  # fmt: skip
    report = predict(settings)["rag"].report
    assert report is not None and report.metrics["exact_match"] == 100 and report.metrics["answered"] == 1
    capsys.readouterr()
    blind = written(tmp_path, asked[1], name="blind.jsonl")
    words = ["predict", "--benchmark", "own", "--data", str(blind), "--mode", "baseline"]
    assert main([*words, "--output", str(tmp_path / "blind")]) == 0
    said = capsys.readouterr().out
    assert "1 answers" in said and "without_accepted_answers" in said


def test_a_scorer_of_a_wrong_type_is_refused_before_the_work() -> None:
    with pytest.raises(ValueError, match=r"its scorer is a function; give per_example\(f\)"):
        Benchmark("mine", load, lambda answer, example: 1.0)  # type: ignore[arg-type]
    for value in (None, "1", 2, float("nan")):
        row = Benchmark("mine", load, per_example(lambda answer, example, value=value: value))
        with pytest.raises(ValueError, match="earns .*; give 0 to 1"):
            row.score({"q": "x"}, [Example("q", "?", None)])
    assert BENCHMARKS["own"].needs_images is False
