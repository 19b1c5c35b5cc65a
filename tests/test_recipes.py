"""Recipes are found by name, wherever the package lies, and copied with what they extend."""

from __future__ import annotations

from pathlib import Path

import pytest

from comem import recipes as module
from comem.cli import main
from comem.config import load_config
from comem.recipes import RecipeError, copy_recipe, find_recipe, recipes
from comem.training.settings import TrainSettings

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"


def test_every_file_is_a_recipe_with_a_summary() -> None:
    found = recipes()
    assert [each.path for each in found] == sorted(CONFIGS.rglob("*.yaml"))
    assert {each.kind for each in found} == {"accelerate", "data", "retrieval", "train"}
    for each in found:
        assert each.summary and "\n" not in each.summary and "#" not in each.summary, each.name
    assert {each.kind for each in recipes("data")} == {"data"}


@pytest.mark.parametrize(
    ("name", "kind", "file"),
    [
        ("train/paper", "", "train/paper.yaml"),
        ("paper", "train", "train/paper.yaml"),
        ("paper.yaml", "data", "data/paper.yaml"),
        ("ablations/queries_4", "train", "train/ablations/queries_4.yaml"),
        ("queries_4", "", "train/ablations/queries_4.yaml"),
        ("without_ja", "train", "train/ablations/without_ja.yaml"),
        ("size_0.25x", "train", "train/ablations/size_0.25x.yaml"),  # its point begins no ending
        ("fsdp2", "", "accelerate/fsdp2.yaml"),
        ("configs/train/paper.yaml", "train", "train/paper.yaml"),  # as the repository's pages write it
    ],
)
def test_found_by_name(
    name: str, kind: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_recipe(name, kind) == CONFIGS / file


def test_a_file_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "paper").write_text("epochs: 2.0\n")
    monkeypatch.chdir(tmp_path)
    assert find_recipe("paper", "train") == Path("paper")
    assert find_recipe(tmp_path / "paper") == tmp_path / "paper"


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("paper", "", "which recipe? data/paper or retrieval/paper or train/paper"),
        ("papr", "train", "papr: no such config file, nor a recipe; did you mean paper?"),
        ("train/papr", "", "did you mean train/paper"),
        ("mine/recipe.yaml", "data", "mine/recipe.yaml: no such config file"),
        ("multi_gpu", "train", "nor a recipe"),  # accelerate's, which comem train does not take
    ],
)
def test_what_is_not_there_is_refused(name: str, kind: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        find_recipe(name, kind)
    assert said in str(caught.value)


def test_a_copy_brings_what_it_extends(tmp_path: Path) -> None:
    copies = copy_recipe("queries_4", tmp_path / "mine")
    assert copies == (tmp_path / "mine/ablations/queries_4.yaml", tmp_path / "mine/paper.yaml")
    assert copies[0].read_bytes() == (CONFIGS / "train/ablations/queries_4.yaml").read_bytes()
    original = load_config(TrainSettings, find_recipe("queries_4", "train"))
    assert load_config(TrainSettings, copies[0]) == original
    assert copy_recipe("queries_4", tmp_path / "mine") == copies, "the same again is no fault"


def test_a_copy_of_one_file_lies_in_the_folder_itself(tmp_path: Path) -> None:
    assert copy_recipe("fsdp2", tmp_path) == (tmp_path / "fsdp2.yaml",)


def test_a_copy_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "paper.yaml").write_text("epochs: 2.0\n")
    with pytest.raises(RecipeError, match="there is another file"):
        copy_recipe("queries_4", tmp_path)
    assert sorted(tmp_path.rglob("*.yaml")) == [tmp_path / "paper.yaml"]
    assert (tmp_path / "paper.yaml").read_text() == "epochs: 2.0\n"


def test_a_package_without_recipes_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PACKAGE", tmp_path / "comem")
    with pytest.raises(RecipeError, match="install comem again"):
        recipes()
    (tmp_path / "comem" / "configs" / "train").mkdir(parents=True)
    (tmp_path / "comem" / "configs" / "train" / "own.yaml").write_text("# Our own. More.\n")
    assert [(each.name, each.summary) for each in recipes()] == [("train/own", "Our own")]


def test_the_command_lists_and_copies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs", "--kind", "retrieval"]) == 0
    shown = capsys.readouterr().out
    assert "retrieval/laptop" in shown and "train/paper" not in shown
    assert main(["configs", "copy", "queries_4", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == [str(path) for path in copy_recipe("queries_4", tmp_path)]
    assert main(["configs", "copy", "papr", str(tmp_path)]) == 2
    assert "papr: no such config file, nor a recipe; did you mean" in capsys.readouterr().err
