"""MMMU, MathVista, COCO and WikiVQABench: published forms, and scores equal to lmms-eval's (lmms/make.py)."""

from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from comem.benchmarks import BENCHMARKS, coco, mathvista, mmmu, wikivqabench
from comem.benchmarks.scoring import ScoreFiles
from comem.cli import main
from comem.io.files import RecordError
from comem.io.images import open_image

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).with_name("lmms") / "golden.json").read_text(encoding="utf-8")
)


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def png(size: tuple[int, int] = (6, 4)) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, "PNG")
    return buffer.getvalue()


# --- MMMU ---


def test_mmmu_letters_are_the_official_ones() -> None:
    for options, said, letter in GOLDEN["mmmu_choice"]:
        assert mmmu.parse_choice(said, options) == (letter or ""), (options, said)
    drawn = sum(letter is None for *_, letter in GOLDEN["mmmu_choice"])
    assert 20 < drawn < 250, "both kinds are among the cases"


def test_mmmu_open_answers_are_judged_officially() -> None:
    for said, gold, right in GOLDEN["mmmu_open"]:
        assert mmmu.is_right(mmmu.parse_open(said), mmmu.gold({"answer": gold}, "q")) is right, (said, gold)
    assert 20 < sum(right for *_, right in GOLDEN["mmmu_open"]) < 480


def mmmu_rows() -> list[dict[str, Any]]:
    cell = {"bytes": png(), "path": None}
    empty: dict[str, Any] = dict.fromkeys(f"image_{n}" for n in range(3, 8))
    pictures = {"image_1": cell, "image_2": None, **empty}
    choice = {
        "question_type": "multiple-choice",
        "explanation": "",
        "img_type": "['Tables']",
        "subfield": "x",
    }
    return [
        {"id": "validation_Accounting_1", "question": "What? <image 1>", "options": "['$6', '$7']",
         "answer": "B"} | choice | pictures,
        {"id": "validation_Art_Theory_2", "question": "<image 1> or <image 2>?", "options": "['a b', 'c d']",
         "answer": "A"} | choice | pictures | {"image_2": {"bytes": png((9, 7)), "path": None}},
        {"id": "validation_Art_Theory_3", "question": "How long? <image 1>", "options": "[]",
         "answer": "['8', 'eight']"} | choice | {"question_type": "open"} | pictures,
    ]  # fmt: skip


def test_mmmu_is_read_as_published(tmp_path: Path, write_parquet: Any) -> None:
    """A folder for each subject, as MMMU/MMMU; and all in one file, as lmms-lab/MMMU."""
    first, *others = mmmu_rows()
    for subject, rows in {"Accounting": [first], "Art_Theory": others}.items():
        made = write_parquet(tmp_path / "made" / subject, "validation", rows)
        shutil.copytree(made / "data", tmp_path / "subjects" / subject)
    write_parquet(tmp_path / "whole", "validation", [first, *others])
    row = BENCHMARKS["mmmu"]
    for folder in ("subjects", "whole"):
        one, two, three = row.load(tmp_path / folder)
        assert [each.group for each in (one, two, three)] == ["Accounting", "Art_Theory", "Art_Theory"]
        assert one.choices == ("$6", "$7") and one.answers == ("$7",) and three.answers == ("8", "eight")
        assert one.image and open_image(one.image).size == (6, 4)
        assert two.image and open_image(two.image).size == (6 + 8 + 9, 7 + 24), "side by side, numbered"
    assert row.ask(one, False) == (
        "What? <image 1>\n($6\n".replace("($6", "(A) $6") + "(B) $7\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert row.ask(three, True).endswith("Answer the question using a single word or phrase.")
    said = {one.id: r"so \boxed{B}", two.id: "I cannot see it", three.id: "It takes eight days."}
    metrics = row.score(said, [one, two, three]).metrics
    assert metrics["overall"] == pytest.approx(200 / 3) and metrics["unparsable"] == 1
    assert metrics["overall_guessed"] == pytest.approx(250 / 3), "one of two, drawn"
    assert metrics["by_pair"] == {"Accounting": 100.0, "Art_Theory": 50.0}


def test_mmmus_own_files_are_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = {
        "validation_Accounting_1": {"question_type": "multiple-choice", "ground_truth": "B"},
        "validation_Accounting_2": {"question_type": "open", "ground_truth": ["2.5", "two"]},
        "validation_Music_1": {"question_type": "multiple-choice", "ground_truth": "A"},
    }
    said = {
        "validation_Accounting_1": "B",
        "validation_Accounting_2": "about 2.50",
        "validation_Music_1": "C",
    }
    files = {
        "predictions": write(tmp_path / "said.json", said),
        "references": write(tmp_path / "a.json", answers),
    }
    words = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    assert main(["evaluate", "mmmu", *words, "--output", str(tmp_path / "r.json")]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["overall"] == pytest.approx(200 / 3)
    with pytest.raises(RecordError, match="has no answer; the test split is scored on EvalAI only"):
        mmmu.gold({"answer": "?"}, "q")
    with pytest.raises(RecordError, match="its options are no list"):
        mmmu.listed({"options": "['a'"}, "q")


# --- MathVista ---


@pytest.mark.parametrize("row", GOLDEN["mathvista"], ids=lambda row: f"{row['answer_type']} {row['said']}")
def test_mathvista_extracts_and_normalizes_officially(row: dict[str, Any]) -> None:
    """Where the official script would ask a language model, only a letter alone is taken."""
    said, found = row["said"].strip(), mathvista.extract(row["said"], row)
    asks = row["extraction"] is None
    alone = row["question_type"] == "multi_choice" and said.strip("().:") in ("A", "B", "C")
    assert found == (row["extraction"] if not asks else said if alone else None)
    assert mathvista.normalized(row["said"], row) == row["normalized_as_it_is"]


def test_edit_distances() -> None:
    for first, second, steps in (
        ("", "abc", 3),
        ("kitten", "sitting", 3),
        ("flaw", "lawn", 2),
        ("a", "a", 0),
    ):
        assert mathvista.distance(first, second) == mathvista.distance(second, first) == steps


MATH: dict[str, Any] = {
    "1": {"question": "How far?", "image": "images/1.jpg", "choices": None, "unit": "m", "precision": 1,
          "answer": "1.2", "question_type": "free_form", "answer_type": "float", "pid": "1",
          "metadata": {"split": "testmini", "task": "textbook question answering", "skills": ["a", "b"]}},
    "5": {"question": "Find it", "image": "images/5.jpg", "choices": ["97", "102"], "unit": None,
          "precision": None, "answer": "97", "question_type": "multi_choice", "answer_type": "text",
          "pid": "5", "metadata": {"split": "testmini", "task": "geometry problem solving", "skills": ["b"]}},
}  # fmt: skip


def test_mathvista_is_read_as_published(tmp_path: Path, write_parquet: Any) -> None:
    (tmp_path / "json" / "images").mkdir(parents=True)
    for pid in MATH:
        (tmp_path / "json" / "images" / f"{pid}.jpg").write_bytes(png())
    write(tmp_path / "json" / "testmini.json", MATH)
    rows = [
        {**row, "decoded_image": {"bytes": png(), "path": None}, "choices": row["choices"] or [],
         "query": "Hint: as it is published"}
        for row in MATH.values()
    ]  # fmt: skip
    write_parquet(tmp_path / "parquet", "testmini", rows)
    benchmark = BENCHMARKS["mathvista"]
    far, find = benchmark.load(tmp_path / "json")
    assert far.question == (
        "Hint: Please answer the question requiring a floating-point number with one decimal place and "
        "provide the final value, e.g., 1.2, 1.3, 1.4, at the end.\nQuestion: How far? (Unit: m)"
    )
    assert find.question.endswith("at the end.\nQuestion: Find it\nChoices:\n(A) 97\n(B) 102")
    assert benchmark.ask(find, False) == find.question and find.group == "geometry problem solving"
    assert all(each.image and open_image(each.image).size == (6, 4) for each in (far, find))
    parquet = list(benchmark.load(tmp_path / "parquet"))
    assert [each.question for each in parquet] == ["Hint: as it is published"] * 2
    assert parquet[0].image and open_image(parquet[0].image).size == (6, 4)
    metrics = benchmark.score({"1": r"1 or \boxed{1.21}", "5": "I do not know"}, [far, find]).metrics
    assert metrics["accuracy"] == 100.0 and metrics["unextracted"] == 1, "nothing said: the nearest choice"
    assert (
        metrics["by_skills"] == {"a": 100.0, "b": 100.0}
        and "a language model reads them" in metrics["notes"][0]
    )


def test_mathvistas_result_files_bring_their_extractions(tmp_path: Path) -> None:
    references = write(tmp_path / "testmini.json", MATH)
    results = {
        "1": {"response": "It is far, 1.24 in all", "extraction": "1.24"},
        "5": {"response": "surely (B), I guess", "extraction": "B"},
    }
    files = ScoreFiles({"": write(tmp_path / "output.json", results)}, {"": references})
    metrics = BENCHMARKS["mathvista"].score_files(files).metrics
    assert (metrics["accuracy"], metrics["unextracted"]) == (50.0, 0)
    assert metrics["by_pair"] == {"geometry problem solving": 0.0, "textbook question answering": 100.0}
    with pytest.raises(ValueError, match="no model judges here"):
        BENCHMARKS["mathvista"].score_files(files, judge=Path("http://localhost:8000/v1"))


# --- COCO ---


def test_captions_score_as_the_official_code(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pycocoevalcap")
    made = GOLDEN["coco"]
    rows = {str(row["image_id"]): {"captions": row["answer"]} for row in made["rows"]}
    said = {str(row["image_id"]): row["pred"] for row in made["rows"]}
    official = {name.lower(): 100 * value for name, value in made["scores"].items()}
    for java in (True, False) if shutil.which("java") else (False,):
        monkeypatch.setattr("shutil.which", lambda name, java=java: "java" if java else None)
        metrics = coco.evaluate(said, rows).metrics
        assert {name: metrics[name] for name in official} == pytest.approx(official, abs=1e-6)
        assert ("notes" in metrics) != java


@pytest.mark.parametrize(("text", "tokens"), GOLDEN["coco"]["tokens"])
def test_tokens_are_stanfords(text: str, tokens: list[str]) -> None:
    assert coco.treebank(text) == tokens


def test_coco_is_read_as_published(tmp_path: Path, write_parquet: Any) -> None:
    images = [
        {"id": 391895, "file_name": "COCO_val2014_000000391895.jpg"},
        {"id": 7, "file_name": "COCO_val2014_000000000007.jpg"},
    ]
    annotations = [
        {"image_id": 391895, "id": 1, "caption": "A man on a bike."},
        {"image_id": 7, "id": 2, "caption": "A dog.\n"},
        {"image_id": 391895, "id": 3, "caption": "A biker"},
    ]  # fmt: skip
    write(tmp_path / "original" / "captions_val2014.json", {"images": images, "annotations": annotations})
    (tmp_path / "pictures" / "val2014").mkdir(parents=True)
    for each in images:
        (tmp_path / "pictures" / "val2014" / str(each["file_name"])).write_bytes(png())
    sentences = [{"raw": "A man on a bike.", "tokens": ["a"]}, {"raw": "A biker", "tokens": ["a"]}]
    karpathy = [
        {"filepath": "val2014", "filename": images[0]["file_name"], "cocoid": 391895, "split": "test",
         "sentences": sentences},
        {"filepath": "val2014", "filename": images[1]["file_name"], "cocoid": 7, "split": "val",
         "sentences": [{"raw": "A dog.", "tokens": []}]},
    ]  # fmt: skip
    write(tmp_path / "karpathy" / "dataset_coco.json", {"images": karpathy, "dataset": "coco"})
    row = {"question_id": "COCO_val2014_000000391895.jpg", "image": {"bytes": png(), "path": None}, "id": 0}
    write_parquet(tmp_path / "parquet", "val", [{**row, "answer": ["A man on a bike.", "A biker"]}])
    benchmark = BENCHMARKS["coco_caption"]
    read = {
        form: list(benchmark.load(tmp_path / form, image_folder=tmp_path / "pictures"))
        for form in ("original", "karpathy", "parquet")
    }
    assert [len(each) for each in read.values()] == [2, 1, 1]
    for examples in read.values():
        assert examples[0].id == "391895" and examples[0].answers == ("A man on a bike.", "A biker")
        assert examples[0].image and open_image(examples[0].image).size == (6, 4)
        assert benchmark.ask(examples[0], True) == "Provide a one-sentence caption for the provided image."
    (dog,) = benchmark.load(tmp_path / "karpathy", split="val")
    assert dog.answers == ("A dog.",)


def test_the_official_results_file_is_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pycocoevalcap")
    monkeypatch.setattr("shutil.which", lambda name: None)
    content = {"images": [{"id": n, "file_name": f"{n}.jpg"} for n in (1, 2, 3)], "annotations": [
        {"image_id": n, "caption": text}
        for n, text in ((1, "a red kite in the sky"), (2, "two dogs play"), (3, "x"))
    ]}  # fmt: skip
    references = write(tmp_path / "captions_val2014.json", content)
    said = [{"image_id": 1, "caption": "A red kite in the sky."}, {"image_id": 2, "caption": "a cat sleeps"}]
    files = ScoreFiles({"": write(tmp_path / "results.json", said)}, {"": references})
    metrics = BENCHMARKS["coco_caption"].score_files(files).metrics
    assert (metrics["answered"], metrics["total"], metrics["tokenizer"]) == (2, 3, "ours")
    assert metrics["cider"] > 100 and metrics["cider_missing_wrong"] == pytest.approx(
        metrics["cider"] * 2 / 3
    )
    monkeypatch.setitem(__import__("sys").modules, "pycocoevalcap.bleu.bleu", None)
    with pytest.raises(ValueError, match=r"pip install 'comem\[captions\]'"):
        BENCHMARKS["coco_caption"].score_files(files)


# --- WikiVQABench ---


def test_wikivqabench_is_read_as_published(tmp_path: Path, write_parquet: Any) -> None:
    rows = [
        {"image": base64.b64encode(png()).decode(), "question": f"Who built {n}?", "correct": "Ann",
         "wrongs": ["Bob", "Cyd", "Dan"]}
        for n in range(5)
    ]  # fmt: skip
    write_parquet(tmp_path, "train", rows)
    benchmark = BENCHMARKS["wikivqabench"]
    first, again = (list(benchmark.load(tmp_path)) for _ in range(2))
    assert first == again and {each.choices for each in first} != {("Ann", "Bob", "Cyd", "Dan")}
    assert all(each.image and open_image(each.image).size == (6, 4) for each in first)
    assert all(
        sorted(each.choices) == ["Ann", "Bob", "Cyd", "Dan"] and each.answers == ("Ann",) for each in first
    )
    said = {each.id: f"The answer is {each.meta['letter']}." for each in first[:3]}
    said |= {first[3].id: "Ann or Bob", first[4].id: r"\boxed{Ann}"}
    metrics = benchmark.score(said, first).metrics
    assert (metrics["accuracy"], metrics["unparsable"]) == (80.0, 1)


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("B", "B"), ("(C)", "C"), ("The answer is D.", "D"), ("b", ""), ("It was Cyd", "C"), ("A or B", ""),
        ("Bob, not Cyd", ""), ("", ""), ("word " * 30 + "Cyd", ""), ("**B**", "B"),
    ],
)  # fmt: skip
def test_wikivqabench_choices(said: str, letter: str) -> None:
    assert wikivqabench.parse_choice(said, ("Ann", "Bob", "Cyd", "Dan")) == letter
