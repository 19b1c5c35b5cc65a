"""Descriptions of flag-like images that depict no real flag, with captions.

An image is described by a `Banner`; `change` gives a sibling that differs in one thing only, so that
a model has to look at more than the main colours to tell them apart.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

Colour = tuple[int, int, int]
COLOURS: dict[str, Colour] = {
    "red": (206, 32, 44), "crimson": (150, 22, 40), "orange": (238, 120, 30), "yellow": (250, 210, 30),
    "green": (20, 130, 65), "dark green": (10, 80, 45), "sky blue": (100, 175, 225), "blue": (25, 75, 170),
    "navy": (10, 25, 90), "white": (250, 250, 250), "black": (20, 20, 20), "purple": (110, 45, 130),
    "brown": (115, 65, 35), "grey": (150, 150, 155),
}  # fmt: skip
LAYOUTS = (
    "plain", "horizontal stripes", "horizontal stripes", "vertical stripes", "cross", "nordic cross",
    "saltire", "quarters", "bend", "hoist triangle", "chequers", "border",
)  # fmt: skip
CHARGES = (
    "star",
    "disc",
    "crescent",
    "ring",
    "triangle",
    "cross",
    "shield",
    "clutter",
    "writing",
    "wreath",
    "beast",
)
PLACES = {"centre": (0.5, 0.5), "canton": (0.22, 0.26), "hoist": (0.25, 0.5), "fly": (0.74, 0.5)}


@dataclass(frozen=True)
class Charge:
    """A figure on a banner; `seed` decides its details."""

    kind: str
    place: str
    size: float
    colour: str
    second: str
    count: int
    seed: int


@dataclass(frozen=True)
class Banner:
    """What is on an image, before any camera."""

    layout: str
    colours: tuple[str, ...]
    stripes: int
    widths: int
    aspect: float
    canton: Banner | None
    charges: tuple[Charge, ...]

    def caption(self) -> str:
        """The image in English words."""
        fields = " and ".join(dict.fromkeys(self.colours[: self.stripes]))
        text = f"{self.layout} of {fields}"
        if self.canton is not None:
            text += (
                f" with a canton of {' and '.join(dict.fromkeys(self.canton.colours[: self.canton.stripes]))}"
            )
        for charge in self.charges:
            number = "a" if charge.count == 1 else str(charge.count)
            text += f", {number} {charge.colour} {charge.kind} in the {charge.place}"
        return text


def random_banner(rng: random.Random, nested: bool = False) -> Banner:
    """A banner of one to four colours, often with a charge, sometimes with a canton."""
    colours = tuple(rng.sample(list(COLOURS), 4))
    layout = rng.choice(LAYOUTS)
    stripes = (
        rng.choice((2, 3, 3, 3, 4)) if "stripes" in layout else 1 if layout == "plain" else rng.choice((2, 3))
    )
    canton = random_banner(rng, nested=True) if not nested and rng.random() < 0.18 else None
    count = 0 if nested else rng.choice((0, 0, 1, 1, 1, 2)) if layout != "plain" else rng.choice((1, 1, 2))
    charges = tuple(random_charge(rng) for _ in range(count))
    return Banner(layout, colours, stripes, rng.randrange(4), rng.uniform(1.2, 2.05), canton, charges)


def random_charge(rng: random.Random) -> Charge:
    """A figure of any kind at any of the places."""
    colour, second = rng.sample(list(COLOURS), 2)
    count = rng.choice((1, 1, 1, 2, 3, 4, 5, 6, 9))
    size = rng.uniform(0.18, 0.62)
    return Charge(
        rng.choice(CHARGES), rng.choice(list(PLACES)), size, colour, second, count, rng.getrandbits(30)
    )


def change(banner: Banner, rng: random.Random) -> Banner:
    """A sibling: another figure, a figure less or more, another colour, the colours in another order."""
    kind = rng.random()
    if banner.charges and kind < 0.5:
        old, *rest = banner.charges
        new = random_charge(rng)
        kept = replace(new, place=old.place, size=old.size) if rng.random() < 0.7 else new
        return replace(banner, charges=(kept, *rest))
    if kind < 0.6:
        return replace(banner, charges=(*banner.charges[1:], random_charge(rng)))
    colours = list(banner.colours)
    if kind < 0.8 and banner.stripes > 1:
        first = rng.randrange(banner.stripes)
        second = (first + 1 + rng.randrange(banner.stripes - 1)) % banner.stripes
        colours[first], colours[second] = colours[second], colours[first]
    else:
        colours[rng.randrange(banner.stripes)] = rng.choice([c for c in COLOURS if c not in colours])
    return replace(banner, colours=tuple(colours))
