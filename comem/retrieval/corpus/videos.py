"""The rows of a video file: one a segment, found by a frame of it, with the video up to its end."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comem.io.files import valid
from comem.retrieval.corpus.rules import CorpusError, CorpusStats
from comem.types import VideoRef

if TYPE_CHECKING:
    from comem.io.video import Picked

VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mkv", ".webm", ".mov", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp",
)  # fmt: skip


def is_video(name: str | Path) -> bool:
    """Whether a file is one by its name."""
    return Path(name).suffix.lower() in VIDEO_SUFFIXES


def video_rows(
    path: Path, name: str, stats: CorpusStats, segment: int, fps: float, beside: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """One row a segment: `id` NAME#000007, its time in the text, the middle frame, the video up to its end.

    Args:
        path: of the file.
        name: what ids begin with.
        stats: counts a video that cannot be read.
        segment: frames of a segment, as the memory folds them.
        fps: frames that are read of each second.
        beside: what files beside it say (`text`, `title`, …); stands in every row.

    Raises:
        CorpusError: PyAV is not installed.
    """
    from comem.io.video import VideoError, pick, video_address

    if importlib.util.find_spec("av") is None:
        raise CorpusError(f"{path}: videos need PyAV: pip install 'comem[video]'")
    if valid(name) != name:
        stats.broken("file name (not UTF-8)", repr(name))
        return
    try:
        whole = VideoRef(str(path), fps=fps)
        picked = pick(whole)
        title = str(beside.get("title") or beside.get("page_title") or _words(path.stem))
        told = str(beside.get("text") or "").strip()
        for number, start in enumerate(range(0, len(picked), segment)):
            times = picked.times[start : start + segment]
            end = start + len(times)
            span = VideoRef(str(path), start=start / fps, end=end / fps, fps=fps)
            when = f"{title}, {clock(span.start)} to {clock(end / fps)}"
            row = {**beside, "id": f"{name}#{number:06d}", "text": f"{when}: {told}" if told else when}
            row |= {"title": "", "page_title": "", "source": name, "video": video_address(span)}
            yield f"{path}#{number:06d}", {**row, "image": _picture(picked, start + len(times) // 2)}
    except VideoError as error:
        stats.broken("video", str(error))


def clock(seconds: float) -> str:
    """1:02:03, or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _words(stem: str) -> str:
    return " ".join(stem.replace("_", " ").replace("-", " ").split())


def _picture(picked: Picked, at: int) -> bytes:
    """A loaded frame as a JPEG."""
    from PIL import Image

    one = replace(picked, positions=picked.positions[at : at + 1], times=picked.times[at : at + 1])
    buffer = io.BytesIO()
    Image.fromarray(next(one.frames())).save(buffer, format="JPEG", quality=95)
    return buffer.getvalue()
