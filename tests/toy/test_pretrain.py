"""How the embedded backbone is trained: inputs as the processor and the model make them, exact resume."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from comem.toy.draw import draw
from comem.toy.world import World
from tools.toy.backbone import build_processor
from tools.toy.batches import IGNORE, collate
from tools.toy.episodes import Episode, Recipe, make_episode
from tools.toy.images import ImagePool
from tools.toy.pretrain import Pretraining, Settings, main
from tools.toy.soft_items import SoftItem, soft_item
from tools.toy.tokenizer import build_tokenizer

TINY = Settings(steps=6, entities=40, views=2, vision_steps=2, hidden=128, layers=3)
RECIPES = [
    Recipe(items=3, questions=4, batch=2),
    Recipe(items=2, questions=4, terse=True, before_system=True, batch=2),
    Recipe(items=4, questions=5, drill="recall", describe=0.5, batch=2),
    Recipe(items=2, questions=5, drill="cloze", batch=2),
    Recipe(items=3, questions=5, drill="prefix", batch=2),
    Recipe(items=1, questions=5, drill="prefix", batch=2, slots=2),
]


@pytest.fixture(scope="module")
def processor() -> Any:
    return build_processor(build_tokenizer())


@pytest.fixture(scope="module")
def pool(processor: Any) -> ImagePool:
    return ImagePool(World(0, 40).split("train"), 2, processor)


def episodes(pool: ImagePool, recipe: Recipe) -> list[Episode]:
    rng = random.Random(5)
    return [make_episode(pool, recipe, rng) for _ in range(recipe.batch)]


def test_the_pool_holds_what_the_processor_gives(pool: ImagePool, processor: Any) -> None:
    image = draw(pool.entities[3], 1)
    expected = processor.image_processor(images=[image], return_tensors="np")["pixel_values"]
    # float16 in the pool
    np.testing.assert_allclose(pool.pixel_values([3 * pool.views + 1]), expected, atol=2e-3)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: f"{r.drill or 'chat'}-{r.items}")
def test_positions_are_those_of_the_model(
    pool: ImagePool, processor: Any, recipe: Recipe, tmp_path: Path
) -> None:
    batch = collate(episodes(pool, recipe), processor.tokenizer, pool)
    model = Pretraining(TINY, tmp_path).model.model
    ids = batch["input_ids"]
    types = (ids == model.config.image_token_id).int()
    grid = batch["image_grid_thw"] if len(batch["pixel_values"]) else None
    expected, _ = model.get_rope_index(
        ids, mm_token_type_ids=types, image_grid_thw=grid, attention_mask=torch.ones_like(ids)
    )
    real = ids != processor.tokenizer.pad_token_id
    assert (batch["position_ids"] == expected)[:, real].all()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: f"{r.drill or 'chat'}-{r.items}")
def test_labels_are_exactly_the_expected_words(pool: ImagePool, processor: Any, recipe: Recipe) -> None:
    some = episodes(pool, recipe)
    batch = collate(some, processor.tokenizer, pool)
    for row, episode in enumerate(some):
        learned = batch["labels"][row] != IGNORE
        said = processor.tokenizer.decode(batch["labels"][row][learned])
        assert said == "".join(episode.text[start:end] for start, end in episode.spans)


def test_no_episode_shows_a_town_of_another_split(pool: ImagePool) -> None:
    assert {entity.split for entity in pool.entities} == {"train"}


def test_fewer_slots_hold_the_same_words(pool: ImagePool, processor: Any) -> None:
    def item(slots: int) -> SoftItem:
        return soft_item(pool.entities[3], 7, "en", processor.tokenizer, random.Random(3), slots)

    eight, two = item(8), item(2)
    assert [len(item(slots).words) for slots in (8, 4, 2, 1)] == [8, 4, 2, 1]
    together = [[token for slot in eight.words[first : first + 4] for token, _ in slot] for first in (0, 4)]
    assert [[token for token, _ in slot] for slot in two.words] == together
    assert all(slot for slot in two.words)


def test_a_finished_backbone_learns_to_read_fewer_slots(tmp_path: Path) -> None:
    run = Pretraining(replace(TINY, layers=5), tmp_path)
    run.go_on("toy", slots=(2,))
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    seen = run.learn()
    assert 0 < run.loss < 5  # a fresh one starts above 8
    assert seen["prefix facts"]
    assert any(not torch.equal(tensor, before[name]) for name, tensor in run.model.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--slots", "2"], "give --init too"),
        (["--slots", "2", "--init", "nowhere"], "--init nowhere: unknown backbone"),
        (["--slots", "2", "--init", "toy", "--hidden", "64"], "--init toy: .*, and its --hidden"),
    ],
)
def test_what_cannot_go_on_is_told(
    arguments: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    few = ["--entities", "40", "--views", "2", "--steps", "1", "--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["pretrain", *few, *arguments])
    with pytest.raises(SystemExit):
        main()
    assert re.search(reason, capsys.readouterr().err)


def test_interrupted_and_resumed_equals_undisturbed(tmp_path: Path) -> None:
    whole = Pretraining(TINY, tmp_path / "a")
    whole.start()
    for _ in range(4):
        whole.learn()
    half = Pretraining(TINY, tmp_path / "b")
    half.start()
    for _ in range(2):
        half.learn()
    half.save()
    rest = Pretraining(TINY, tmp_path / "b")
    rest.resume(tmp_path / "b" / "checkpoint.safetensors")
    for _ in range(2):
        rest.learn()
    for (name, one), other in zip(whole.model.named_parameters(), rest.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, msg=name)
