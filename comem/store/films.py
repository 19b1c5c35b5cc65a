"""Videos become items: one for each stretch of seconds, with a frame of it, what is said in it, and when."""

from __future__ import annotations

import io
import math
import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from comem.io.video import Frame, Picked, VideoError, frame_times
from comem.types import VideoRef

SECONDS = 10.0  # of a stretch
_SIDE = 1024  # pixels of a frame that is kept
_STAMP = r"(?:(\d+):)?(\d{1,2}):(\d{2})[.,](\d{1,3})"
_CUE = re.compile(rf"^\s*{_STAMP}\s*-->\s*{_STAMP}", re.MULTILINE)
_TAGS = re.compile(r"<[^>]*>|\{\\[^}]*\}")


@dataclass(frozen=True)
class Stretch:
    """A part of a video that becomes an item.

    Attributes:
        start: where it begins, in seconds of the video.
        end: where it ends.
        text: of the file beside the video, and of the subtitles that begin in it.
        image: the frame at its middle, as a JPEG.
        video: the part itself, for encoders that read videos.
    """

    start: float
    end: float
    text: str
    image: bytes
    video: VideoRef


def stretches(ref: VideoRef, seconds: float = SECONDS) -> Iterator[Stretch]:
    """The stretches of a video from its start to its end, the last one as long as it is.

    Beside `a.mp4` may stand `a.txt`, the text of all of it, and `a.srt` or `a.vtt`, its subtitles.

    Args:
        ref: the video, or a part of it; only the frames that are kept are decoded.
        seconds: of a stretch.

    Raises:
        VideoError: it cannot be read, or has no frames from `ref.start` to `ref.end`.
        ValueError: stretches without length.
    """
    if not seconds > 0:
        raise ValueError(f"stretch={seconds}: seconds of a video that become one item; give more than 0")
    times = frame_times(ref)
    frame = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 1.0
    length = times[-1] + frame
    end = min(length, math.inf if ref.end is None else ref.end)
    if ref.start >= end:
        raise VideoError(f"{ref}: no frames from {ref.start:g} s; it lasts {length:g} s")
    whole = math.ceil(round((end - ref.start) / seconds, 6))
    starts = [ref.start + n * seconds for n in range(whole)]
    ends = [*starts[1:], end]
    middles = [(a + b) / 2 for a, b in zip(starts, ends, strict=True)]
    places = [min(bisect_left(times, middle), len(times) - 1) for middle in middles]
    frames = Picked(ref, tuple(places), tuple(times[at] for at in places)).frames()
    about, cues = _beside(ref)
    for a, b, image in zip(starts, ends, frames, strict=True):
        said = [text for at, text in cues if a <= at < b]
        part = replace(ref, start=a, end=b)
        yield Stretch(round(a, 3), round(b, 3), " ".join([*about, *said]), _jpeg(image), part)


def _jpeg(frame: Frame) -> bytes:
    from PIL import Image

    image = Image.fromarray(frame)
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _beside(ref: VideoRef) -> tuple[list[str], list[tuple[float, str]]]:
    """The text of a video, and its subtitles with the second in which each begins."""
    if ref.path is None:
        return [], []
    path = Path(ref.path)
    texts = {
        suffix: file.read_text(encoding="utf-8-sig", errors="replace")
        for suffix in (".txt", ".srt", ".vtt")
        if (file := path.with_suffix(suffix)).is_file()
    }
    about = " ".join(texts.get(".txt", "").split())
    return [about] if about else [], subtitles(texts.get(".srt") or texts.get(".vtt") or "")


def subtitles(text: str) -> list[tuple[float, str]]:
    """SubRip or WebVTT: the second in which each subtitle begins, and what it says, without tags."""
    text = text.replace("\r\n", "\n")
    found = []
    for cue in _CUE.finditer(text):
        hours, minutes, seconds, parts = cue.groups()[:4]
        at = 3600 * int(hours or 0) + 60 * int(minutes) + int(seconds) + int(parts.ljust(3, "0")) / 1000
        end = text.find("\n\n", cue.end())
        body = text[cue.end() : None if end < 0 else end].partition("\n")[2]  # behind the times are settings
        if said := " ".join(_TAGS.sub("", body).split()):
            found.append((at, said))
    return found
