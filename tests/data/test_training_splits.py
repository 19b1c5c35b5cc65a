"""The training splits that the paper synthesises from, in their published forms, down to training records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from comem.benchmarks import BENCHMARKS
from comem.data.synthesis import Rules, keep_right
from comem.training.data import load_examples
from comem.types import KnowledgeItem, RetrievedContext

QUESTION = "What is this bird's country of origin?"


def infoseek(folder: Path) -> str:
    row = {
        "data_id": "infoseek_train_00000000", "image_id": "oven_1", "question": QUESTION, "answer": ["Spain"],
        "answer_eval": ["Kingdom of Spain", "Spain"], "data_split": "train",
    }  # fmt: skip
    (folder / "infoseek_train.jsonl").write_text(json.dumps(row) + "\n")
    return "train"


def evqa(folder: Path) -> str:
    head = "question,answer,dataset_image_ids,dataset_name,question_type,encyclopedic_vqa_split\n"
    (folder / "train.csv").write_text(
        f"{head}{QUESTION},Kingdom of Spain|Spain,1|2,inaturalist,automatic,train\n"
    )
    return "train"


def okvqa(folder: Path) -> str:
    asked = {"image_id": 51606, "question": QUESTION, "question_id": 516065}
    answers = [{"answer_id": n, "answer": "spain", "raw_answer": "spain"} for n in range(1, 11)]
    answered = {"question_id": 516065, "question_type": "eight", "answer_type": "other", "answers": answers}
    files = {
        "OpenEnded_mscoco_train2014_questions.json": {"questions": [asked]},
        "mscoco_train2014_annotations.json": {"annotations": [answered]},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return "train2014"


def aokvqa(folder: Path) -> str:
    row = {"split": "train", "image_id": 299207, "question_id": "22jbM6", "question": QUESTION,
           "choices": ["Spain", "Italy", "Chile", "Peru"], "correct_choice_idx": 0,
           "direct_answers": ["spain"] * 10, "difficult_direct_answer": False}  # fmt: skip
    (folder / "aokvqa_v1p0_train.json").write_text(json.dumps([row]))
    return "train:direct_answer"


@pytest.mark.parametrize("write", [infoseek, evqa, okvqa, aokvqa], ids=lambda each: each.__name__)
def test_a_right_answer_becomes_a_record(write: Callable[[Path], str], tmp_path: Path) -> None:
    benchmark, split = BENCHMARKS[write.__name__], write(tmp_path)
    (example,) = benchmark.load(tmp_path, split=split, image_folder=tmp_path / "pictures")
    assert example.image is not None and example.question == QUESTION
    items = tuple(KnowledgeItem(f"w{n}", "A passage.", None) for n in range(3))
    for said, kept in (("Spain" if write in (infoseek, evqa) else "spain", True), ("Italy", False)):
        answers = {example.id: f"So \\boxed{{{said}}}"}
        found = {example.id: RetrievedContext(example.id, items)}
        if not kept:
            with pytest.raises(ValueError, match="'wrong': 1"):
                keep_right(benchmark, [example], found, answers, tmp_path / said, Rules())
            continue
        assert (
            keep_right(benchmark, [example], found, answers, tmp_path / said, Rules(min_items=3))["kept"] == 1
        )
        (record,) = load_examples(tmp_path / said / "train.jsonl")
        assert record.turns == ((QUESTION, said),) and len(record.items) == 3
