"""Images of arms: every view of one town differs in angle, size, light, background and noise."""

from __future__ import annotations

import io
import math
import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from comem.io.files import write_atomic
from comem.toy.lexicon import COLOURS
from comem.toy.world import Arms, Entity, image_path
from comem.types import ImageRef

Colour = tuple[int, int, int]


def draw(entity: Entity, view: int, size: int = 112) -> Image.Image:
    """One image of an entity's arms.

    Args:
        entity: whose arms.
        view: which image; the same (entity, view) always gives the same pixels.
        size: edge length in pixels.

    Returns:
        An RGB image of `size` × `size`.
    """
    rng = random.Random(f"view/{entity.seed}/{entity.index}/{view}")
    edge = 96
    panel = _arms(entity.arms, edge)
    panel.putalpha(_outline(rng.choice(("square", "shield", "round")), edge))
    scale = rng.uniform(0.72, 0.98) * size / edge
    panel = panel.resize(
        (round(edge * scale * rng.uniform(0.88, 1.0)), round(edge * scale)), Image.Resampling.BILINEAR
    )
    panel = panel.rotate(rng.uniform(-14, 14), Image.Resampling.BILINEAR, expand=True)
    image = _background(rng, size)
    slack = [size - panel.width, size - panel.height]
    offset = [round(s / 2 + rng.uniform(-0.5, 0.5) * max(abs(s), 0.08 * size)) for s in slack]
    image.paste(panel, (offset[0], offset[1]), panel)
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9) * size / 112))
    return _light_and_noise(image, rng)


def png(entity: Entity, view: int, size: int = 112) -> bytes:
    """`draw` as a PNG file."""
    file = io.BytesIO()
    draw(entity, view, size).save(file, "PNG", compress_level=1)
    return file.getvalue()


def image_of(entity: Entity, view: int, size: int = 112) -> ImageRef:
    """`draw` as an image that examples and knowledge items take."""
    return ImageRef(data=png(entity, view, size))


def save_image(folder: Path, entity: Entity, view: int, size: int = 112) -> None:
    """`draw` into `folder/images`, unless it is there."""
    path = folder / image_path(entity, view)
    if not path.exists():
        write_atomic(path, png(entity, view, size))


def _arms(arms: Arms, edge: int) -> Image.Image:
    panel = Image.new("RGBA", (edge, edge), COLOURS[arms.field])
    pen = ImageDraw.Draw(panel)
    if arms.division != "plain":
        _division(pen, arms.division, COLOURS[arms.division_colour], edge)
    _charge(pen, arms.charge, COLOURS[arms.charge_colour], edge)
    return panel


def _division(pen: ImageDraw.ImageDraw, division: str, colour: Colour, e: int) -> None:
    third, half = e / 3, e / 2
    if division == "bar":
        pen.rectangle((0, third, e, 2 * third), fill=colour)
    elif division == "pale":
        pen.rectangle((third, 0, 2 * third, e), fill=colour)
    elif division == "bend":
        pen.polygon([(0, 0), (third, 0), (e, e - third), (e, e), (e - third, e), (0, third)], fill=colour)
    elif division == "cross":
        pen.rectangle((0, 0.4 * e, e, 0.6 * e), fill=colour)
        pen.rectangle((0.4 * e, 0, 0.6 * e, e), fill=colour)
    else:  # quarters
        pen.rectangle((0, 0, half, half), fill=colour)
        pen.rectangle((half, half, e, e), fill=colour)


def _charge(  # noqa: C901 (a branch a charge)
    pen: ImageDraw.ImageDraw, charge: str, colour: Colour, e: int
) -> None:
    c, r = e / 2, 0.27 * e
    box = (c - r, c - r, c + r, c + r)
    if charge == "disc":
        pen.ellipse(box, fill=colour)
    elif charge == "ring":
        pen.ellipse(box, outline=colour, width=round(0.09 * e))
    elif charge == "square":
        pen.rectangle((c - 0.85 * r, c - 0.85 * r, c + 0.85 * r, c + 0.85 * r), fill=colour)
    elif charge == "diamond":
        pen.polygon([(c, c - 1.2 * r), (c + 1.2 * r, c), (c, c + 1.2 * r), (c - 1.2 * r, c)], fill=colour)
    elif charge == "triangle":
        pen.polygon([(c, c - r), (c + 1.1 * r, c + 0.9 * r), (c - 1.1 * r, c + 0.9 * r)], fill=colour)
    elif charge == "star":
        points = [
            (c + k * math.sin(i * math.pi / 5), c - k * math.cos(i * math.pi / 5))
            for i in range(10)
            for k in ((1.25 if i % 2 == 0 else 0.5) * r,)
        ]
        pen.polygon(points, fill=colour)
    elif charge == "plus":
        pen.rectangle((c - 1.1 * r, c - 0.35 * r, c + 1.1 * r, c + 0.35 * r), fill=colour)
        pen.rectangle((c - 0.35 * r, c - 1.1 * r, c + 0.35 * r, c + 1.1 * r), fill=colour)
    elif charge == "crescent":
        pen.pieslice((c - 1.1 * r, c - 1.1 * r, c + 1.1 * r, c + 1.1 * r), 40, 320, fill=colour)
    elif charge == "bars":
        for k in (-1.0, 0.0, 1.0):
            pen.rectangle(
                (c - 1.1 * r, c + (0.75 * k - 0.22) * r, c + 1.1 * r, c + (0.75 * k + 0.22) * r), fill=colour
            )
    else:  # drop
        pen.polygon([(c, c - 1.4 * r), (c + 0.7 * r, c + 0.2 * r), (c - 0.7 * r, c + 0.2 * r)], fill=colour)
        pen.ellipse((c - 0.75 * r, c - 0.4 * r, c + 0.75 * r, c + 1.1 * r), fill=colour)


def _outline(kind: str, e: int) -> Image.Image:
    mask = Image.new("L", (e, e), 0)
    pen = ImageDraw.Draw(mask)
    if kind == "square":
        pen.rounded_rectangle((1, 1, e - 2, e - 2), radius=e // 10, fill=255)
    elif kind == "round":
        pen.ellipse((0, 0, e - 1, e - 1), fill=255)
    else:
        pen.rectangle((2, 1, e - 3, 0.55 * e), fill=255)
        pen.ellipse((2, 0.1 * e, e - 3, e - 2), fill=255)
    return mask


def _background(rng: random.Random, size: int) -> Image.Image:
    """A soft two-colour gradient with a few blots, never strongly coloured."""
    corners = np.array([[rng.uniform(70, 200) for _ in range(3)] for _ in range(2)])
    angle = rng.uniform(0, 2 * math.pi)
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    t = (math.cos(angle) * x + math.sin(angle) * y + 0.5).clip(0, 1)[..., None]
    image = Image.fromarray((corners[0] * (1 - t) + corners[1] * t).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(rng.randrange(4)):
        cx, cy, r = rng.uniform(0, size), rng.uniform(0, size), rng.uniform(0.04, 0.16) * size
        pen.ellipse((cx - r, cy - r, cx + r, cy + r), fill=tuple(rng.randrange(60, 210) for _ in range(3)))
    return image


def _light_and_noise(image: Image.Image, rng: random.Random) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float32)
    gain = np.array([rng.uniform(0.9, 1.08) for _ in range(3)], dtype=np.float32) * rng.uniform(0.8, 1.1)
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(2, 10), pixels.shape)
    return Image.fromarray((pixels * gain + noise).clip(0, 255).astype(np.uint8))
