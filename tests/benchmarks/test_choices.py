"""MRAG-Bench and CVQA: multiple choice in the hub's parquet files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from comem.benchmarks import BENCHMARKS
from comem.benchmarks.cvqa import PAPER_PAIRS
from comem.io.files import RecordError
from comem.io.images import open_image

MRAG, CVQA = BENCHMARKS["mrag_bench"], BENCHMARKS["cvqa"]


def mrag_row(picture: Any, number: int = 0, **fields: Any) -> dict[str, Any]:
    base = {
        "id": str(number), "aspect": "perspective", "scenario": "Angle", "image": picture(number),
        "gt_images": [picture(1), picture(2)], "question": "Can you identify this animal?", "A": "Red Maple",
        "B": "White Oak", "C": "golden retriever", "D": "Boeing 707", "answer_choice": "C",
        "answer": "golden retriever", "image_type": "jpeg", "source": "imagenet",
        "retrieved_images": [picture(3)],
    }  # fmt: skip
    return {**base, **fields}


def test_mrag_bench_loads_in_order_over_shards(tmp_path: Path, write_parquet: Any, picture: Any) -> None:
    rows = [mrag_row(picture, number) for number in range(5)]
    examples = list(MRAG.load(write_parquet(tmp_path, "test", rows, shards=2)))
    assert [example.id for example in examples] == ["0", "2", "4", "1", "3"]
    first = examples[0]
    assert first.choices == ("Red Maple", "White Oak", "golden retriever", "Boeing 707")
    assert first.answers == ("golden retriever",) and first.group == "Angle"
    assert first.image and open_image(first.image).size == (8, 8)
    assert "gt_images" not in first.meta, "pictures that nobody asks for stay on the disk"
    assert "C: golden retriever\n" in MRAG.ask(first, False) + "\n"


@pytest.mark.parametrize(
    ("said", "overall", "named"),
    [("C", 100, 100), ("Golden Retriever", 0, 100), ("A", 0, 0), ("Red maple", 0, 0)],
)
def test_mrag_bench_is_strict_and_says_what_leniency_gives(
    tmp_path: Path, write_parquet: Any, picture: Any, said: str, overall: int, named: int
) -> None:
    examples = list(MRAG.load(write_parquet(tmp_path, "test", [mrag_row(picture)])))
    metrics = MRAG.score({"0": said}, examples).metrics
    assert (metrics["overall"], metrics["overall_named"]) == (overall, named)


def test_golden_outputs_score_as_officially(
    golden_dir: Path, tmp_path: Path, write_parquet: Any, picture: Any
) -> None:
    folder = golden_dir / "scores" / "mrag_bench"
    said = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    rows = [
        mrag_row(
            picture, row["id"], scenario=row["scenario"], answer_choice=row["gt_choice"], **row["choices"]
        )
        for row in said
    ]
    examples = list(MRAG.load(write_parquet(tmp_path, "test", rows)))
    metrics = MRAG.score({str(row["id"]): row["output"] for row in said}, examples).metrics
    expected = json.loads((folder / "expected.json").read_text())
    assert {key: metrics[key] for key in expected} == expected


def cvqa_row(picture: Any, number: int, pair: tuple[str, str], **fields: Any) -> dict[str, Any]:
    base = {
        "image": picture(number), "ID": f"5919991144272485961_{number}", "Subset": str(pair),
        "Question": "写真に写っているキャラクターの名前は? ", "Translated Question": "What is its name?",
        "Options": ["コスモ星丸", "ミャクミャク", " フリービー ", "ハイバオ"],
        "Translated Options": ["Cosmo Hoshimaru", "MYAKU-MYAKU", "Freebie ", "Haibao"], "Label": 1,
        "Category": "Objects / materials / clothing", "Image Type": "Self", "Image Source": "Self-open",
        "License": "CC BY-SA",
    }  # fmt: skip
    return {**base, **fields}


PAIRS = [("Japanese", "Japan"), ("Spanish", "Spain"), ("Spanish", "Mexico"), ("Chinese", "China")]


@pytest.fixture
def cvqa(tmp_path: Path, write_parquet: Any, picture: Any) -> Path:
    return write_parquet(tmp_path, "test", [cvqa_row(picture, n, pair) for n, pair in enumerate(PAIRS)])


def test_cvqa_has_the_papers_pairs_all_or_one(cvqa: Path) -> None:
    def groups(split: str | None) -> list[str]:
        return [example.group for example in CVQA.load(cvqa, split=split)]

    assert groups(None) == ["Spanish-Spain", "Chinese-China"] and set(groups(None)) < set(PAPER_PAIRS)
    assert groups("test") == ["Japanese-Japan", "Spanish-Spain", "Spanish-Mexico", "Chinese-China"]
    assert groups("test:Spanish-Mexico") == ["Spanish-Mexico"]
    with pytest.raises(
        RecordError, match="no question of Spanish-Chile; the files have Japanese-Japan, Spanish"
    ):
        groups("test:Spanish-Chile")
    with pytest.raises(ValueError, match="cvqa has no split 'validation'; it has test"):
        groups("validation")


def test_cvqa_asks_in_the_language_and_scores_by_pair(cvqa: Path) -> None:
    examples = list(CVQA.load(cvqa, split="test"))
    japanese, spanish, _, chinese = examples
    assert (japanese.language, spanish.language, chinese.language) == ("ja", "es", "zh")
    assert "1. コスモ星丸 2. ミャクミャク 3. フリービー" in CVQA.ask(spanish, False)
    assert r"\boxed{el número" in CVQA.ask(spanish, False) and "编号" in CVQA.ask(chinese, True)
    assert r"\boxed{the number" in CVQA.ask(japanese, True), "no prompts of their own: asked in English"
    said = {japanese.id: "2", spanish.id: "ミャクミャク", chinese.id: "3"}
    metrics = CVQA.score(said, examples).metrics
    assert metrics["by_pair"]["Japanese-Japan"] == metrics["by_pair"]["Spanish-Spain"] == 100.0
    assert metrics["by_pair"]["Chinese-China"] == 0.0
    assert metrics["overall"] == pytest.approx(200 / 3) and metrics["overall_missing_wrong"] == 50.0


def test_cvqa_with_withheld_labels_is_not_scored(tmp_path: Path, write_parquet: Any, picture: Any) -> None:
    rows = [cvqa_row(picture, 0, ("Spanish", "Spain"), Label=-1)]
    (example,) = CVQA.load(write_parquet(tmp_path, "test", rows))
    assert example.answers == ()
    with pytest.raises(RecordError, match="withholds the answers.*eval.ai"):
        CVQA.score({example.id: "1"}, [example])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"Subset": "Spain"}, r"\.parquet: question '.*' has Subset 'Spain'"),
        ({"Options": []}, "has no Options"),
        ({"Question": ""}, "has no question text"),
        ({"image": {"bytes": None, "path": None}}, "has no picture"),
    ],
)
def test_broken_cvqa_records_are_named(
    tmp_path: Path, write_parquet: Any, picture: Any, fields: dict[str, Any], message: str
) -> None:
    rows = [cvqa_row(picture, 0, ("Spanish", "Spain"), **fields)]
    with pytest.raises(RecordError, match=message):
        list(CVQA.load(write_parquet(tmp_path, "test", rows)))


def test_mrag_bench_needs_a_letter(tmp_path: Path, write_parquet: Any, picture: Any) -> None:
    rows = [mrag_row(picture, answer_choice="E")]
    with pytest.raises(RecordError, match="'0' has answer_choice 'E'; expected A, B, C, D"):
        list(MRAG.load(write_parquet(tmp_path, "test", rows)))
