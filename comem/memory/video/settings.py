"""Settings of the video memory, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

#: The authors' words in front of the memory and of the frames (video_memory.md 1.10).
MEMORY_HEADER = "This is a high-level summary of the video:"
FRAMES_HEADER = "These are sampled visual frames from the video:"

Evict = Literal["oldest", "merge"]
Time = Literal["frames", "seconds"]
Fill = Literal["authors", "tail"]
Read = Literal["both", "memory", "frames"]
#: What training changes: the memory, LoRA on the language model besides, or the language model in full.
Tune = Literal["memory", "lora", "full"]


@dataclass(frozen=True)
class VideoMemorySettings:
    """Sizes of the recurrent memory; the defaults are the authors' (video_memory.md 1).

    Attributes:
        slots: vectors of a state at each patch.
        layers: times that a state attends to its segment, each with weights of its own.
        heads: of every attention.
        ff_mult: the feed-forward layers are so many times as wide as the model.
        segment: frames folded at once.
        cache: states that are kept, and that evolution attends to; 0 keeps all.
        evict: what leaves a full cache: the oldest state, or none: the two neighbours that are most alike
            become their mean.
        time: what the temporal code counts: loaded frames, as the authors, or seconds of the video.
        space: add a two-dimensional code to a segment's patches, which else only their content tells apart.
        gated: the memory enters times tanh(gate), which starts at 0: the reader then sees the frames alone.
        pool: side of the grid to which the patches of each slot are pooled when they are read; 0: not at all.
        qformer: read every state through a Q-Former of this many queries instead of the fuser; 0: the fuser.
        qformer_depth: its layers.
        qformer_heads: its heads.
        fill: how a video becomes whole segments: "authors" stretches or thins its frames to a multiple of a
            segment, "tail" takes them as they are, the last segment shorter, as a stream does.
        kept: frames that are shown beside the memory.
        read: what the reader is given.
        frame_dropout: in training, how often the reader is given the memory without frames.
        sampling: how frames of a file are loaded, a row of `comem.io.video.SAMPLING`.
        max_frames: of "uniform" the number of frames, of others the most; 0 for no limit.
        side: of the grid of patches, for models that take frames of any size.
        trained_frames: the temporal code was trained below this index; going beyond is said once.
        memory_header: words in front of the memory.
        frames_header: words in front of the frames.
    """

    slots: int = 8
    layers: int = 2
    heads: int = 8
    ff_mult: int = 4
    segment: int = 32
    cache: int = 10
    evict: Evict = "oldest"
    time: Time = "frames"
    space: bool = False
    gated: bool = False
    pool: int = 0
    qformer: int = 0
    qformer_depth: int = 2
    qformer_heads: int = 8
    fill: Fill = "authors"
    kept: int = 32
    read: Read = "both"
    frame_dropout: float = 0.0
    sampling: str = "fps"
    max_frames: int = 0
    side: int = 14
    trained_frames: int = 600
    memory_header: str = MEMORY_HEADER
    frames_header: str = FRAMES_HEADER

    def __post_init__(self) -> None:
        for name in (
            "slots",
            "layers",
            "heads",
            "ff_mult",
            "segment",
            "kept",
            "qformer_depth",
            "qformer_heads",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"video.{name}={getattr(self, name)}: give at least 1")
        for name in ("cache", "pool", "qformer"):
            if getattr(self, name) < 0:
                raise ValueError(f"video.{name}={getattr(self, name)}: give 0 (off) or more")
        for name, kinds in (("evict", Evict), ("time", Time), ("fill", Fill), ("read", Read)):
            if getattr(self, name) not in get_args(kinds):
                raise ValueError(f"video.{name}={getattr(self, name)!r}; known: {', '.join(get_args(kinds))}")
        if self.evict == "merge" and self.cache == 1:
            raise ValueError("video.evict=merge with cache=1: two states at least are needed to merge")
        if self.pool and self.qformer:
            raise ValueError("video.pool and video.qformer: a state is read through one of them")

    @property
    def reads_memory(self) -> bool:
        """Whether the reader is given the memory."""
        return self.read != "frames"

    @property
    def reads_frames(self) -> bool:
        """Whether the reader is given frames."""
        return self.read != "memory"
