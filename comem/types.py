"""The few types that everything else speaks: plain frozen data, no torch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class ImageRef:
    """An image: a path, or the encoded bytes (PNG, JPEG, …).

    `pixels` is the opened picture where that was done ahead (`comem.io.images.opened`); it is no part of
    what the image is. `fault` says why the image cannot be opened, where that was clear when its record was
    read (`comem.io.images.image_ref`); `path` is then its name in messages.

    Raises:
        ValueError: if neither or both of `path` and `data` are given.
    """

    path: str | None = None
    data: bytes | None = field(default=None, repr=False)
    pixels: Any = field(default=None, repr=False, compare=False)
    fault: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if (self.path is None) == (self.data is None):
            raise ValueError("an ImageRef needs either a path or data, not both and not neither")

    def __str__(self) -> str:
        return self.path if self.path is not None else f"<{len(self.data or b'')} bytes>"


#: Frames a second beyond which a number is a slip: it would be allocated.
_MOST_FPS = 1000


@dataclass(frozen=True)
class VideoRef:
    """A video, or a part of one: a path, or frames.

    Attributes:
        path: of the file.
        frames: uint8 `(f, h, w, 3)`, `fps` of them a second, in place of a path.
        start: where it begins, in seconds.
        end: where it ends, in seconds; None at its end.
        fps: frames to be read of each second, by rules that go by the clock.
        fault: why it cannot be read, where that was clear when its record was read; else empty.

    Raises:
        ValueError: neither or both of `path` and `frames`, or a span that cannot be.

    Example:
        >>> VideoRef("films/a.mp4", start=60, end=90)
    """

    path: str | None = None
    frames: Any = field(default=None, repr=False, compare=False)
    start: float = 0.0
    end: float | None = None
    fps: float = 1.0
    fault: str = field(default="", repr=False)
    _digest: str = field(default="", init=False, repr=False)

    def __post_init__(self) -> None:
        if (self.path is None) == (self.frames is None):
            raise ValueError("a VideoRef needs either a path or frames, not both and not neither")
        if self.frames is not None:
            shape, kind = tuple(self.frames.shape), str(self.frames.dtype).removeprefix("torch.")
            if len(shape) != 4 or shape[-1] != 3 or not shape[0] or kind != "uint8":
                raise ValueError(f"frames are {kind} {shape}: give uint8 (f, h, w, 3), one frame at least")
            digest = hashlib.sha256(bytes(memoryview(self.frames.reshape(-1)))).hexdigest()
            object.__setattr__(self, "_digest", digest)  # frames are equal by what they show
        if not 0 < self.fps <= _MOST_FPS:
            raise ValueError(f"{self}: fps={self.fps}: give a positive number, {_MOST_FPS} at most")
        if self.start < 0 or (self.end is not None and self.end <= self.start):
            raise ValueError(f"{self}: from {self.start} to {self.end} s: give 0 <= start < end")

    def __str__(self) -> str:
        return self.path if self.path is not None else f"<{len(self.frames)} frames>"


@dataclass(frozen=True)
class KnowledgeItem:
    """One row of the knowledge base: an image with a passage (a WIT row), or a segment of a video.

    Attributes:
        id: of the item.
        text: its passage.
        image: its image; of a segment a frame of it, by which it is found.
        source: where it comes from.
        language: of the text.
        video: of a segment the part of the video up to its end.
    """

    id: str
    text: str
    image: ImageRef | None
    source: str = ""
    language: str = "en"
    video: VideoRef | None = None


@dataclass(frozen=True)
class RetrievedContext:
    """The items found for one question, best first, with their similarity scores."""

    example_id: str
    items: tuple[KnowledgeItem, ...] = ()
    scores: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.scores and len(self.scores) != len(self.items):
            raise ValueError(f"{self.example_id}: {len(self.items)} items but {len(self.scores)} scores")
        if not all(map(math.isfinite, self.scores)):
            raise ValueError(f"{self.example_id}: a retrieved item's score is no number: {self.scores[:9]}")

    def top(self, k: int) -> RetrievedContext:
        """The best k items."""
        return RetrievedContext(self.example_id, self.items[:k], self.scores[:k])


@dataclass(frozen=True)
class Example:
    """One question of a benchmark.

    `answers` are the accepted strings; what a scorer needs beyond them (ranges, question types,
    official ids) is in `meta`, untouched, under the names of the published file. `turns` are those of the
    conversation before the question; benchmarks have none.
    """

    id: str
    question: str
    image: ImageRef | None
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    language: str = "en"
    group: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    video: VideoRef | None = None
    turns: tuple[Message, ...] = ()


@dataclass(frozen=True)
class Message:
    """One chat turn: text, images and videos in the order in which the model shall see them."""

    role: Literal["system", "user", "assistant"]
    content: tuple[str | ImageRef | VideoRef, ...]


@dataclass(frozen=True)
class Answer:
    """A model's answer to one question, with what it cost: the same type from the backbone to the file.

    Attributes:
        text: the answer without special tokens.
        context_tokens: positions that knowledge adds to the plain question: memory or item turns.
        prompt_tokens: all positions in front of the answer, padding not counted.
        seconds: wall-clock of its batch, divided by the batch's size.
        example_id: which question it answers; "" where the caller knows.
        knowledge_ids: the items that were given with it.
    """

    text: str
    context_tokens: int = 0
    prompt_tokens: int = 0
    seconds: float = 0.0
    example_id: str = ""
    knowledge_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Score:
    """What one question earned, between 0 and 1; nothing where there is no prediction."""

    example_id: str
    value: float
    group: str = ""
    language: str = ""
    answered: bool = True


@dataclass(frozen=True)
class Report:
    """A benchmark's metrics over `count` references.

    `scores` holds, by metric, what every question earned: for intervals, groups and comparisons.
    """

    benchmark: str
    metrics: Mapping[str, Any]
    count: int
    scores: Mapping[str, Sequence[Score]] = field(default_factory=dict, repr=False)
