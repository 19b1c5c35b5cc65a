"""The recipes and the bash entry points."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from comem.cli import run_command
from comem.command_line import parse
from comem.config import as_dict, load_config, save_config
from comem.memory.settings import LoraSettings, QFormerSettings
from comem.training.plan import make_plan
from comem.training.settings import MergeSettings, OptimSettings, PlanOptions, TrainSettings

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "configs" / "train").rglob("*.yaml"))
ABLATIONS = {path.stem: path for path in RECIPES if path.parent.name == "ablations"}
SCRIPTS = sorted((ROOT / "scripts" / "train").glob("[!_]*.sh"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_loads(path: Path) -> None:
    from comem.backbones.specs import BACKBONES

    assert load_config(TrainSettings, path).model in BACKBONES


def test_help_of_train_imports_no_torch() -> None:
    code = (
        "import sys\nfrom comem.cli import describe\nassert '--optim.latents-lr' in describe('train')\n"
        "assert not {'torch', 'transformers', 'peft', 'accelerate'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("cls", [TrainSettings, OptimSettings, LoraSettings, QFormerSettings])
def test_every_setting_is_explained(cls: Any) -> None:
    told = inspect.cleandoc(cls.__doc__).splitlines()  # Python 3.13 takes the indentation away itself
    assert [f.name for f in fields(cls) if not any(line.startswith(f"    {f.name}: ") for line in told)] == []


def test_the_papers_numbers_are_the_defaults() -> None:
    paper, default = load_config(TrainSettings, ROOT / "configs/train/paper.yaml"), TrainSettings()
    assert (paper.optim, paper.lora, paper.qformer) == (default.optim, default.lora, default.qformer)
    assert (paper.batch_size, paper.epochs, paper.max_items) == (16, 1.0, 3)
    assert (paper.min_pixels, paper.max_pixels) == (16 * 28**2, 64 * 28**2)


def test_the_recipe_for_a_text_only_reader() -> None:
    from comem.backbones.specs import BACKBONES

    recipe = load_config(TrainSettings, ROOT / "configs/train/text_reader.yaml")
    assert not BACKBONES[recipe.reader].sees_images and BACKBONES[recipe.model].sees_images
    assert (recipe.epochs, recipe.max_items, recipe.batch_size) == (5.0, 10, 16)  # authors_code.md 2
    assert recipe.question_picture == "auto" and recipe.optim == TrainSettings().optim


def changed(name: str) -> dict[str, Any]:
    """What an ablation sets otherwise than the paper's recipe, by dotted key."""

    def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in values.items():
            found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        return found

    paper = flat(as_dict(load_config(TrainSettings, ROOT / "configs/train/paper.yaml")))
    own = flat(as_dict(load_config(TrainSettings, ABLATIONS[name])))
    return {key: value for key, value in own.items() if value != paper[key]}


LEFT_OUT = ("bg", "zh", "arz", "fil", "fr", "ja", "pt", "ru", "es")
CHANGES: dict[str, dict[str, Any]] = {
    "queries_4": {"qformer.num_queries": 4},
    "queries_8": {},
    "queries_16": {"qformer.num_queries": 16},
    "queries_24": {"qformer.num_queries": 24},
    "data_0.25x": {"data_fraction": 0.25},
    "data_0.5x": {"data_fraction": 0.5},
    "data_2x": {},  # the data itself is larger
    "data_4x": {},
    "size_0.25x": {"lora.rank": 4, "lora.alpha": 8, "qformer.depth": 2},
    "size_0.5x": {"lora.rank": 8, "lora.alpha": 16, "qformer.depth": 4},
    "size_2x": {"lora.rank": 32, "lora.alpha": 64, "qformer.depth": 16},
    "size_4x": {"lora.rank": 64, "lora.alpha": 128, "qformer.depth": 32},
    **{f"without_{code}": {"leave_out_languages": [code]} for code in LEFT_OUT},
}


def test_every_published_ablation_has_a_recipe() -> None:
    assert set(ABLATIONS) == set(CHANGES)


@pytest.mark.parametrize("name", CHANGES)
def test_an_ablation_changes_nothing_else(name: str) -> None:
    assert changed(name) == CHANGES[name]


def test_accelerate_configs_are_yaml() -> None:
    for path in (ROOT / "configs" / "accelerate").glob("*.yaml"):
        assert yaml.safe_load(path.read_text())["num_processes"] >= 1


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script_explains_itself(path: Path) -> None:
    done = subprocess.run(["bash", str(path), "--help"], capture_output=True, text=True, check=True)
    assert "Usage:" in done.stdout and "Example:" in done.stdout


def test_dry_run_prints_the_plan(
    settings: Callable[..., TrainSettings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_config(settings(), tmp_path / "c.yaml")
    assert run_command("train", ["--config", str(tmp_path / "c.yaml"), "epochs=3", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "trainable" in shown and "4 questions, 4 knowledge items" in shown
    assert "at 300 TFLOP/s: an assumption (--tflops), not measured" in shown
    assert not Path(settings().output).exists()


def test_plan_counts(settings: Callable[..., TrainSettings], training_model: Any) -> None:
    plan = make_plan(settings(batch_size=3, epochs=2))
    assert plan.steps == 4
    # one parameter more than the fixture's encoder: the learned output scale
    assert plan.trainable == training_model.encoder.trainable_count() + 1
    assert plan.questions == 8 and plan.micro_batch == 3


def test_plan_reckons_work_from_the_data(settings: Callable[..., TrainSettings]) -> None:
    """Operations of a question as torch counts them in a step of the run that is planned."""
    from torch.utils.flop_counter import FlopCounterMode

    from comem.training.run import train

    config = settings(attn="eager", max_steps=1)
    plan = make_plan(config, PlanOptions(tflops=1e-6))
    with FlopCounterMode(display=False) as counter:
        train(config)
    # of two layers the first has no use for its inputs' gradient in the vision tower
    assert plan.flops == pytest.approx(counter.get_total_flops() / 4, rel=0.05)
    again = make_plan(settings(attn="eager", max_steps=1, checkpointing=True)).flops
    assert 1.2 < again / plan.flops < 1.5  # the forward pass of all layers once more
    hours = 4 * plan.flops / 1e6 / 3600
    assert f"{hours:,.3g} at 1e-06 TFLOP/s" in dict(plan.lines())["hours"]


def test_plan_without_data(settings: Callable[..., TrainSettings]) -> None:
    lines = dict(make_plan(settings(data="")).lines())
    assert lines["hours"].startswith("not known: set data=FILE")


def test_merge_arguments() -> None:
    settings, _ = parse(MergeSettings, ["run", "out", "--adapter"])
    assert settings.adapter
