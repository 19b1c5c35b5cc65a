"""What the embedded CLIP is trained on: pairs of images of one thing, in families that differ in little."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from comem.toy.draw import draw
from comem.toy.world import Entity, World
from tools.toy.clip_banners import Banner, change, random_banner
from tools.toy.clip_images import camera, draw_banner
from tools.toy.clip_model import SIZE

if TYPE_CHECKING:
    from tools.toy.clip import ClipTraining


@dataclass(frozen=True)
class Pair:
    """Two images of one thing, as the model takes them, and its caption."""

    first: Image.Image
    second: Image.Image
    caption: str


def pair_source(settings: ClipTraining) -> Callable[[int], list[Pair]]:
    """Draws batches of pairs: families of banners that differ in one thing, and families of towns.

    Towns are those of the training split only; the arms of the others are never shown.
    """
    rng = random.Random(f"pairs/{settings.seed}")
    towns = list(World(settings.seed, 2000).split("train"))
    kin = _families(towns)

    def sample(count: int) -> list[Pair]:
        pairs: list[Pair] = []
        while len(pairs) < count:
            if rng.random() < settings.towns:
                family = rng.choice(kin)
                chosen = rng.sample(family, min(settings.siblings, len(family)))
                pairs += [_town_pair(town, rng) for town in chosen]
            else:
                banner = random_banner(rng)
                for _ in range(settings.siblings):
                    pairs.append(_banner_pair(banner, rng))
                    banner = change(banner, rng)
        return pairs[:count]

    return sample


def _families(towns: Sequence[Entity]) -> list[list[Entity]]:
    """Towns grouped by what they share: field and division, or charge and its colour."""
    groups: dict[tuple[str, ...], list[Entity]] = {}
    for town in towns:
        arms = town.arms
        groups.setdefault(("field", arms.field, arms.division, arms.division_colour), []).append(town)
        groups.setdefault(("charge", arms.charge, arms.charge_colour), []).append(town)
    return list(groups.values())


def _banner_pair(banner: Banner, rng: random.Random) -> Pair:
    image = draw_banner(banner)
    plain = rng.random() < 0.5  # an index holds the image as it is, a question shows it otherwise
    first = camera(image, rng, SIZE, 0.0 if plain else 1.0)
    return Pair(first, camera(image, rng, SIZE), banner.caption())


def _town_pair(town: Entity, rng: random.Random) -> Pair:
    first, second = (draw(town, rng.randrange(1 << 20), 80) for _ in range(2))
    return Pair(
        camera(first, rng, SIZE, rng.choice((0.0, 0.5))), camera(second, rng, SIZE, 0.5), town.arms.caption()
    )
