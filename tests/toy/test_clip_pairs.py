"""What the embedded CLIP sees in training."""

from __future__ import annotations

from comem.toy.world import World
from tools.toy.clip import ClipTraining
from tools.toy.clip_pairs import pair_source


def test_pairs_are_seeded_and_show_no_town_of_the_other_splits() -> None:
    settings = ClipTraining(towns=1.0)
    pairs = pair_source(settings)(40)
    assert [p.caption for p in pairs] == [p.caption for p in pair_source(settings)(40)]
    shown = {p.caption for p in pairs}
    world = World(0, 2000)
    assert shown <= {town.arms.caption() for town in world.split("train")}
    assert not shown & {town.arms.caption() for split in ("val", "test") for town in world.split(split)}  # type: ignore[arg-type]
