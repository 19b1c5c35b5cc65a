"""Which frames are remembered, and which are shown."""

from __future__ import annotations

import torch
from torch import Tensor


def memory_frames(count: int, segment: int = 32, fill: str = "authors") -> Tensor:
    """Which of the loaded frames are read, in order, so that they make segments.

    Args:
        count: loaded frames.
        segment: frames of a segment.
        fill: "authors" repeats frames up to two segments, or drops some down to whole segments, both evenly
            (video_memory.md 1.1); fewer than a segment stay as they are. "tail" takes all as they are.

    Returns:
        Integers, ascending; each is also the frame's index in time.
    """
    if count < 1:
        raise ValueError("a video without frames: nothing to remember")
    if fill == "tail" or count < segment:
        return torch.arange(count)
    wanted = max(2 * segment, segment * (count // segment))
    return torch.linspace(0, count - 1, wanted).long()  # exactly this call: float32, cut


def shown_frames(count: int, kept: int = 32) -> Tensor:
    """Which of the frames that were read are shown beside the memory: evenly, rounded half to even."""
    return torch.linspace(0, count - 1, min(kept, count)).round().long()
