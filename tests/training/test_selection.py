"""Which questions are trained on: a part drawn by the seed, languages left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from comem.training.data import TrainingExample, select
from comem.training.plan import make_plan
from comem.training.run import train
from comem.training.settings import TrainSettings

Make = Callable[..., TrainSettings]
EXAMPLES = [
    TrainingExample(f"q{n}", (("Why?", "so"),), language=("en", "fr", "ja")[n % 3]) for n in range(60)
]


def names(**changes: object) -> list[str]:
    return [each.id for each in select(EXAMPLES, replace(TrainSettings(), **changes))]  # type: ignore[arg-type]


def test_parts_are_drawn_by_the_seed_and_lie_within_larger_ones() -> None:
    quarter, half = names(data_fraction=0.25), names(data_fraction=0.5)
    assert len(quarter) == 15 and len(half) == 30 and set(quarter) < set(half)
    assert half == sorted(half, key=lambda name: int(name[1:])), "in the file's order"
    assert names(data_fraction=0.5, seed=1) != half == names(data_fraction=0.5)
    assert names() == [example.id for example in EXAMPLES]


def test_languages_are_left_out_before_the_part_is_drawn() -> None:
    kept = names(leave_out_languages=("fr",), data_fraction=0.5)
    assert len(kept) == 20 and all(int(name[1:]) % 3 != 1 for name in kept)
    with pytest.raises(ValueError, match="no question is in de; the file has en, fr, ja"):
        names(leave_out_languages=("fr", "de"))
    with pytest.raises(ValueError, match="none of 60 questions is left"):
        names(leave_out_languages=("en", "fr", "ja"))


@pytest.mark.parametrize("fraction", [0, -1, 1.5, 4])
def test_more_than_all_has_to_be_synthesised(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"data_fraction=.*above 0, at most 1; .* synthesise it"):
        TrainSettings(data_fraction=fraction)


def test_run_and_plan_take_the_same_part(settings: Make) -> None:
    chosen = settings(data_fraction=0.5, batch_size=1, epochs=1.0)
    assert make_plan(chosen).steps == 2 == train(chosen).steps
