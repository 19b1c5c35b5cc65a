"""Dialogues for memory training: readable by the trainer's data set, answered by their own knowledge."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from comem.cli import main
from comem.toy.dialogues import DialogueSettings, build_dialogues
from comem.toy.world import World
from comem.training.data import TrainingExample, load_examples


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory: pytest.TempPathFactory) -> list[TrainingExample]:
    folder = tmp_path_factory.mktemp("dialogues")
    build_dialogues(DialogueSettings(folder, count=30, items=(1, 3), turns=4, entities=60, views=3))
    return load_examples(folder / "dialogues.jsonl")


def test_the_data_set_reads_them(dialogues: list[TrainingExample]) -> None:
    assert len(dialogues) == 30
    assert {len(dialogue.items) for dialogue in dialogues} == {1, 3}
    assert all(len(dialogue.turns) == len(dialogue.images) == 4 for dialogue in dialogues)


def test_every_answer_stands_in_the_item_of_the_pictured_town(dialogues: list[TrainingExample]) -> None:
    for dialogue in dialogues:
        for (_, answer), picture in zip(dialogue.turns, dialogue.images, strict=True):
            town = Path(str(picture)).stem.split("_")[0]
            (item,) = (item for item in dialogue.items if item.id.endswith(town))
            assert answer in item.text


def test_no_question_comes_twice_in_a_dialogue(dialogues: list[TrainingExample]) -> None:
    """The second answer could be copied from the first."""
    for dialogue in dialogues:
        asked = [
            (Path(str(picture)).stem.split("_")[0], answer)
            for (_, answer), picture in zip(dialogue.turns, dialogue.images, strict=True)
        ]
        assert len(set(asked)) == len(asked)


def test_the_easy_ones_come_first(tmp_path: Path) -> None:
    sizes = {"count": 12, "easy": 5, "items": (2,), "languages": ("en", "zh"), "entities": 60, "views": 2}
    build_dialogues(DialogueSettings(tmp_path, **sizes))
    read = load_examples(tmp_path / "dialogues.jsonl")
    assert [len(dialogue.items) for dialogue in read] == [1] * 5 + [2] * 7
    assert {item.language for dialogue in read[:5] for item in dialogue.items} == {"en"}


def test_pictures_exist_and_questions_show_other_views_than_items(dialogues: list[TrainingExample]) -> None:
    for dialogue in dialogues:
        shown = [Path(str(picture)) for picture in dialogue.images]
        assert all(path.exists() and not path.stem.endswith("_0") for path in shown)
        assert all(str(item.image).endswith("_0.png") for item in dialogue.items)


def test_only_training_towns_with_facts_of_their_own(dialogues: list[TrainingExample]) -> None:
    towns = {entity.id: entity for entity in World(0, 60).entities}
    texts: dict[str, set[str]] = {}
    for dialogue in dialogues:
        for item in dialogue.items:
            town = item.id.split("/")[1]
            assert towns[town].split == "train"
            texts.setdefault(town, set()).add(item.text)
    assert max(len(told) for told in texts.values()) > 1


@pytest.mark.parametrize(
    "command",
    [["dialogues", "--count", "0"], ["dialogues", "--count", "-1"], ["dialogues", "--items", "0"],
     ["dialogues", "--views", "1"], ["dialogues", "--turns", "0"], ["dialogues", "--views", "10000000000"],
     ["build", "--size", "0"], ["build", "--image-size", "0"], ["build", "--test-questions", "-1"],
     ["benchmarks", "--questions", "0"], ["videos", "--lengths", "0"], ["videos", "--lengths", "10000000000"],
     ["comemo", "--count", "0"], ["comemo", "--wide", "0"], ["comemo", "--images", "0"]],
)  # fmt: skip
def test_numbers_of_which_nothing_can_be_made(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    name, *options = command
    assert main(["toy", name, str(tmp_path / "out"), *options]) == 2
    assert re.search("give .*(to|positive)|a world has 1 to", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["videos", "text-reader"])
def test_what_lies_there_is_not_replaced(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for place in (tmp_path / "mine", tmp_path / "mine" / "notes.txt"):
        assert main(["toy", command, str(place)]) == 2
        assert f"{place} exists and is not empty" in capsys.readouterr().err
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
