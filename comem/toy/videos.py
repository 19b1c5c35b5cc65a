"""An embedded world of videos: a shape is shown once in a long clip, and its colour asked for at the end.

A clip has 24 x 24-pixel frames: noise on a grey of the clip's own, and a dot of any colour in every frame.
Each of four shapes is drawn in one frame only, in one of eight colours (video_memory.md 8). Chance is 12.5 %.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comem.config import option, take_paths
from comem.io.console import Progress, quiet
from comem.io.files import check_free, new_folder
from comem.io.video import write_video
from comem.toy.world import check_numbers

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (220, 30, 30), "green": (30, 180, 40), "blue": (40, 60, 230), "yellow": (240, 220, 40),
    "purple": (150, 40, 180), "orange": (250, 140, 20), "white": (250, 250, 250), "black": (10, 10, 10),
}  # fmt: skip
SHAPES = ("disc", "ring", "plus", "square")
SIDE, SIZE, DOT = 24, 12, 4


@dataclass(frozen=True)
class Clip:
    """A clip and what is to be known of it.

    Attributes:
        frames: uint8 `(f, 24, 24, 3)`.
        facts: per shape its colour and the frame that shows it.
    """

    frames: NDArray[np.uint8]
    facts: Mapping[str, tuple[str, int]]


def make_clip(rng: np.random.Generator, count: int) -> Clip:
    """A clip of so many frames; of fewer than four, shapes share frames, and later ones cover."""
    base = rng.integers(70, 150)
    frames = np.clip(base + rng.normal(0, 12, (count, SIDE, SIDE, 3)), 0, 255)
    names = list(COLOURS)
    rows, columns = rng.integers(0, SIDE - DOT, (2, count))
    for frame, row, column, colour in zip(
        frames, rows, columns, rng.integers(0, len(names), count), strict=True
    ):
        frame[row : row + DOT, column : column + DOT] = COLOURS[names[colour]]
    facts = {}
    places = rng.choice(count, len(SHAPES), replace=count < len(SHAPES))
    for shape, at in zip(SHAPES, places.tolist(), strict=True):
        colour = names[int(rng.integers(0, len(names)))]
        row, column = rng.integers(0, SIDE - SIZE, 2)
        frames[at, row : row + SIZE, column : column + SIZE][_mask(shape)] = COLOURS[colour]
        facts[shape] = (colour, int(at))
    return Clip(frames.astype(np.uint8), facts)


def _mask(shape: str) -> NDArray[np.bool_]:
    """Which pixels of the square a shape fills."""
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    radius = np.hypot(x, y)
    if shape == "disc":
        return np.asarray(radius < SIZE / 2)
    if shape == "ring":
        return np.asarray((radius < SIZE / 2) & (radius > SIZE / 4))
    if shape == "plus":
        return np.asarray((abs(x) < SIZE / 6) | (abs(y) < SIZE / 6))
    return np.ones_like(radius, dtype=bool)


def question(shape: str) -> str:
    """What is asked of a shape."""
    return f"Which color is the {shape}?"


@dataclass(frozen=True)
class VideosSettings:
    """Writing clips and questions about them, as LLaVA-Video-178K has them.

    Attributes:
        output: the folder; new.
        lengths: frames of a clip; at one frame a second, so seconds, too.
        clips: so many of each length.
        seed: of everything drawn.
    """

    output: Path = option(positional=True, metavar="DIR")
    lengths: tuple[int, ...] = (8, 16, 32, 64)
    clips: int = 24
    seed: int = 0

    def __post_init__(self) -> None:
        take_paths(self)
        if self.clips < 1 or not self.lengths or min(self.lengths) < 1:
            raise ValueError(f"{self.clips} clips of {self.lengths} frames: give positive numbers")
        check_numbers(self, "lengths", most=100_000)


def build_videos(settings: VideosSettings, progress: Progress = quiet) -> dict[str, int]:
    """Write `videos/*.mkv` and questions.json: one question a shape, four a clip.

    Example:
        >>> build_videos(VideosSettings("data/toy-videos", lengths=(8, 64), clips=10))
    """
    check_free(settings.output)
    rng, records = np.random.default_rng(settings.seed), []
    with new_folder(settings.output) as folder, progress("clips", len(settings.lengths)) as advance:
        (folder / "videos").mkdir()
        for length in settings.lengths:
            for number in range(settings.clips):
                clip, name = make_clip(rng, length), f"videos/{length:05d}_{number:04d}.mkv"
                write_video(folder / name, list(clip.frames))
                for shape, (colour, at) in clip.facts.items():
                    records.append(_record(f"{length}-{number}-{shape}", name, shape, colour, at, length))
            advance(1)
        text = json.dumps(records, indent=1)
        (folder / "questions.json").write_text(text, encoding="utf-8")
    return {"videos": len(settings.lengths) * settings.clips, "questions": len(records)}


def _record(name: str, video: str, shape: str, colour: str, at: int, length: int) -> dict[str, Any]:
    turns = [
        {"from": "human", "value": f"<image>\n{question(shape)}"},
        {"from": "gpt", "value": colour},
    ]
    extra = {"frame": at, "frames": length}
    return {"id": name, "conversations": turns, "data_source": "toy_videos", "video": video, **extra}
