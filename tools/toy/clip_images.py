"""Draws the banners that the embedded CLIP learns from, and photographs them."""

from __future__ import annotations

import io
import math
import random

from PIL import Image, ImageDraw

from tools.toy.clip_banners import COLOURS, PLACES, Banner, Charge, Colour


def draw_banner(banner: Banner, width: int = 128) -> Image.Image:
    """The banner, flat and clean; drawn at twice the size for smooth edges."""
    size = (2 * width, 2 * round(width / banner.aspect))
    return _paint(banner, size).resize((size[0] // 2, size[1] // 2), Image.Resampling.BOX)


def camera(image: Image.Image, rng: random.Random, size: int, strength: float = 1.0) -> Image.Image:
    """What happens to an image on its way: turned, cropped, resized, tinted, saved as JPEG.

    Args:
        image: as it was made.
        rng: draws what happens.
        size: edge of the square that comes out, as the model takes it.
        strength: 0 leaves the image as it is, 1 is the full range (crop of 80 % to 100 % a side,
            rotation within 5 degrees, JPEG quality 30 to 90).
    """
    if strength > 0:
        if rng.random() < 0.3 * strength:
            corner = image.getpixel((1, 1))
            image = image.rotate(rng.uniform(-5, 5), Image.Resampling.BILINEAR, fillcolor=corner)
        image = _crop(image, rng, 1 - 0.2 * strength)
        if rng.random() < 0.7:
            tint = [rng.gauss(1, 0.06 * strength) for _ in range(3)]
            shift = rng.gauss(0, 8 * strength)
            table = [max(0, min(255, round(v * t + shift))) for t in tint for v in range(256)]
            image = image.point(table)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=rng.randrange(30, 91))
        image = Image.open(buffer)
    return image.resize((size, size), Image.Resampling.BICUBIC)


def _crop(image: Image.Image, rng: random.Random, least: float) -> Image.Image:
    """A random part of the image, at a random size."""
    w, h = image.width * rng.uniform(least, 1), image.height * rng.uniform(least, 1)
    x, y = rng.uniform(0, image.width - w), rng.uniform(0, image.height - h)
    scale = rng.uniform(0.6, 1.0)
    return image.resize(
        (max(16, round(w * scale)), max(16, round(h * scale))),
        Image.Resampling.BILINEAR,
        box=(x, y, x + w, y + h),
    )


def _paint(banner: Banner, size: tuple[int, int]) -> Image.Image:
    w, h = size
    colours = [COLOURS[name] for name in banner.colours]
    image = Image.new("RGB", size, colours[0])
    pen = ImageDraw.Draw(image)
    if "stripes" in banner.layout:
        _stripes(pen, banner, colours, w, h)
    else:
        _field(pen, banner, colours, w, h)
    if banner.canton is not None:
        image.paste(_paint(banner.canton, (round(w * 0.45), h // 2)), (0, 0))
    for charge in banner.charges:
        _charge(pen, charge, w, h)
    return image


def _stripes(pen: ImageDraw.ImageDraw, banner: Banner, colours: list[Colour], w: int, h: int) -> None:
    repeats = (1, 1, 1, 3)[banner.widths] if banner.layout.startswith("h") else 1
    n = banner.stripes * repeats
    weights = [
        2 if banner.widths == 1 and i == n // 2 else 2 if banner.widths == 2 and i == 0 else 1
        for i in range(n)
    ]
    edges = [sum(weights[:i]) / sum(weights) for i in range(n + 1)]
    for i in range(n):
        colour = colours[i % banner.stripes]
        if banner.layout.startswith("h"):
            pen.rectangle((0, edges[i] * h, w, edges[i + 1] * h), fill=colour)
        else:
            pen.rectangle((edges[i] * w, 0, edges[i + 1] * w, h), fill=colour)


def _field(  # noqa: C901 (a branch a layout)
    pen: ImageDraw.ImageDraw, banner: Banner, colours: list[Colour], w: int, h: int
) -> None:
    layout, thick = banner.layout, (0.1, 0.14, 0.2, 0.28)[banner.widths] * h
    inner = [(thick, colours[1])] + ([(thick / 2, colours[2])] if banner.stripes > 2 else [])
    if layout in ("cross", "nordic cross"):
        x = w / 2 if layout == "cross" else 0.36 * w
        for t, colour in inner:
            pen.rectangle((x - t / 2, 0, x + t / 2, h), fill=colour)
            pen.rectangle((0, (h - t) / 2, w, (h + t) / 2), fill=colour)
    elif layout in ("saltire", "bend"):
        for t, colour in inner:
            pen.line((0, h, w, 0), fill=colour, width=round(t))
            if layout == "saltire":
                pen.line((0, 0, w, h), fill=colour, width=round(t))
    elif layout == "quarters":
        pen.rectangle((w / 2, 0, w, h / 2), fill=colours[1])
        pen.rectangle((0, h / 2, w / 2, h), fill=colours[banner.stripes - 1])
    elif layout == "hoist triangle":
        pen.rectangle((0, h / 2, w, h), fill=colours[1])
        pen.polygon([(0, 0), (0, h), ((0.3 + thick / h) * w, h / 2)], fill=colours[2])
    elif layout == "chequers":
        n = 3 + banner.widths
        for i in range(n * n):
            x, y = i % n, i // n
            if (x + y) % 2:
                pen.rectangle((x * w / n, y * h / n, (x + 1) * w / n, (y + 1) * h / n), fill=colours[1])
    elif layout == "border":
        pen.rectangle((thick / 2, thick / 2, w - thick / 2, h - thick / 2), fill=colours[1])


def _charge(pen: ImageDraw.ImageDraw, charge: Charge, w: int, h: int) -> None:
    """One figure, or several of them in a ring or a row around its place."""
    x, y = PLACES[charge.place][0] * w, PLACES[charge.place][1] * h
    rng, r = random.Random(charge.seed), charge.size * h / 2
    ring = rng.random() < 0.6
    for i in range(charge.count):
        if charge.count == 1:
            _figure(pen, charge, x, y, r)
        elif ring:
            angle = 2 * math.pi * i / charge.count
            _figure(pen, charge, x + r * math.sin(angle), y - r * math.cos(angle), r / 2.5)
        else:
            _figure(pen, charge, x + (i - (charge.count - 1) / 2) * r * 0.8, y, r / 2.5)


def _figure(  # noqa: C901, PLR0912 (a branch a kind)
    pen: ImageDraw.ImageDraw, charge: Charge, x: float, y: float, r: float
) -> None:
    rng, kind = random.Random(charge.seed), charge.kind
    colour, second = COLOURS[charge.colour], COLOURS[charge.second]
    box = (x - r, y - r, x + r, y + r)
    if kind == "disc":
        pen.ellipse(box, fill=colour)
    elif kind == "ring":
        pen.ellipse(box, outline=colour, width=max(2, round(r * rng.uniform(0.15, 0.4))))
    elif kind == "crescent":
        pen.ellipse(box, fill=colour)
        shift = r * rng.uniform(0.2, 0.4)
        pen.ellipse((x - 0.75 * r + shift, y - 0.75 * r, x + 0.75 * r + shift, y + 0.75 * r), fill=second)
    elif kind in ("star", "triangle"):
        points = 3 if kind == "triangle" else rng.choice((4, 5, 5, 5, 6, 7, 8, 12))
        pen.polygon(_spikes(x, y, r, points, 0.5 if points == 3 else rng.uniform(0.35, 0.6)), fill=colour)
    elif kind == "cross":
        t = r * rng.uniform(0.2, 0.4)
        pen.rectangle((x - t, y - r, x + t, y + r), fill=colour)
        pen.rectangle((x - r, y - t, x + r, y + t), fill=colour)
    elif kind == "shield":
        _shield(pen, rng, x, y, r, colour, second)
    elif kind == "clutter":
        for _ in range(rng.randrange(6, 16)):
            _blob(pen, rng, x + rng.uniform(-r, r), y + rng.uniform(-r, r), r * rng.uniform(0.1, 0.35))
    elif kind == "writing":
        for row in range(rng.randrange(1, 4)):
            for column in range(rng.randrange(4, 9)):
                left, top = x - r + column * r / 4, y - r / 2 + row * r / 2
                pen.line(
                    (left, top, left + rng.uniform(0, r / 5), top + rng.uniform(0, r / 3)),
                    colour,
                    max(1, int(r / 12)),
                )
    elif kind == "wreath":
        for i in range(rng.randrange(8, 18)):
            angle = 0.4 + i * 0.33
            cx, cy, q = x + r * math.sin(angle), y + r * math.cos(angle), r * 0.16
            pen.ellipse((cx - q, cy - q, cx + q, cy + q), fill=colour)
        _blob(pen, rng, x, y, r * 0.5, second)
    else:
        _blob(pen, rng, x, y, r, colour)
        _blob(pen, rng, x + rng.uniform(-0.4, 0.4) * r, y, r * 0.4, second)


def _shield(
    pen: ImageDraw.ImageDraw, rng: random.Random, x: float, y: float, r: float, colour: Colour, second: Colour
) -> None:
    left, right, top = x - 0.75 * r, x + 0.75 * r, y - r
    pen.polygon(
        [(left, top), (right, top), (right, y + 0.2 * r), (x, y + r), (left, y + 0.2 * r)], fill=colour
    )
    if rng.random() < 0.5:
        pen.rectangle((left, top, right, y - 0.35 * r), fill=second)
    else:
        pen.rectangle((x, top, right, y), fill=second)
    for _ in range(rng.randrange(1, 4)):
        _blob(pen, rng, x + rng.uniform(-0.4, 0.4) * r, y + rng.uniform(-0.6, 0.3) * r, 0.25 * r)


def _blob(
    pen: ImageDraw.ImageDraw, rng: random.Random, x: float, y: float, r: float, colour: Colour | None = None
) -> None:
    """A ragged spot, as an animal or a plant looks from afar."""
    fill = colour or rng.choice(list(COLOURS.values()))
    n = rng.randrange(5, 11)
    points = []
    for i in range(n):
        q, angle = r * rng.uniform(0.35, 1.1), 2 * math.pi * i / n
        points.append((x + q * math.sin(angle), y - q * math.cos(angle)))
    pen.polygon(points, fill=fill)


def _spikes(x: float, y: float, r: float, n: int, inner: float) -> list[tuple[float, float]]:
    radii = [r if i % 2 == 0 else r * inner for i in range(2 * n)]
    return [
        (x + q * math.sin(i * math.pi / n), y - q * math.cos(i * math.pi / n)) for i, q in enumerate(radii)
    ]
