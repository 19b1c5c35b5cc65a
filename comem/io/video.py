"""The one place that decodes videos: frames enter as RGB arrays, or as an error that says why not.

PyAV decodes (`pip install 'comem[video]'`): processors that are given a path fail in current transformers.
Only what is asked for is decoded, after a seek, and frames come one at a time: no film is held as a whole.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comem.io.images import out_of_reach
from comem.registry import Registry
from comem.types import VideoRef

Frame = NDArray[np.uint8]  # (h, w, 3)
#: Seconds that are decoded on the way to the next frame rather than seeking.
_NEAR = 2.0


class VideoError(ValueError):
    """A video that cannot be used; the message names the file and the remedy."""


@dataclass(frozen=True)
class Rule:
    """How frames of a video are chosen.

    Attributes:
        name: a row of `SAMPLING`.
        count: frames of "uniform"; at most so many of the others, evenly thinned, 0 for no limit.
    """

    name: str = "fps"
    count: int = 0

    def __post_init__(self) -> None:
        SAMPLING.check(self.name)
        if self.count < 0 or (self.name == "uniform" and not self.count):
            raise ValueError(f"video sampling {self.name!r} with {self.count} frames: give a positive number")

    def pick(self, times: Sequence[float], ref: VideoRef) -> list[int]:
        """Which frames of those at `times` (seconds, ascending), as positions; they may repeat."""
        found = SAMPLING[self.name](times, ref, self.count)
        if self.name != "uniform" and self.count and len(found) > self.count:
            keep = np.linspace(0, len(found) - 1, self.count).round().astype(int)
            found = [found[i] for i in keep]
        return found


def _rate(times: Sequence[float]) -> float:
    """Frames a second, on average."""
    spread = times[-1] - times[0]
    return (len(times) - 1) / spread if len(times) > 1 and spread > 0 else 1.0


def _by_time(times: Sequence[float], ref: VideoRef, count: int) -> list[int]:
    """`ref.fps` frames a second by the clock, so that a varying rate is read right: each the nearest one."""
    seconds = np.asarray(times)
    wanted = np.arange(seconds[0], seconds[-1] + 1e-6, 1.0 / ref.fps)
    after = np.searchsorted(seconds, wanted).clip(1, max(len(seconds) - 1, 1))
    if len(seconds) == 1:
        return [0]
    nearer = wanted - seconds[after - 1] <= seconds[after] - wanted
    return [int(i) for i in np.where(nearer, after - 1, after)]


def _every(times: Sequence[float], ref: VideoRef, count: int) -> list[int]:
    """Every round(rate)-th frame, as the authors prepare training data (video_memory.md 2)."""
    return list(range(0, len(times), max(1, round(_rate(times) / ref.fps))))


def _uniform(times: Sequence[float], ref: VideoRef, count: int) -> list[int]:
    """So many frames from the first to the last, whatever the length, as the authors evaluate (3)."""
    return [int(i) for i in np.linspace(0, len(times) - 1, count, dtype=int)]


def _authors_live(times: Sequence[float], ref: VideoRef, count: int) -> list[int]:
    """As their training decodes on the fly: from 32 s on 32·⌊(t − 1)/32⌋ uniform frames, else `every`."""
    found = _every(times, ref, 0)
    if len(found) < 32:
        return found
    return _uniform(times, ref, max(32, 32 * ((len(found) - 1) // 32)))


#: By name: of the frames' times, the video and a number of frames, the positions of the frames that are read.
SAMPLING: Registry[Callable[[Sequence[float], VideoRef, int], list[int]]] = Registry(
    "video sampling",
    {"fps": _by_time, "every": _every, "uniform": _uniform, "authors_live": _authors_live},
)


@dataclass(frozen=True)
class Picked:
    """The frames of a video that a rule chose.

    Attributes:
        ref: the video.
        positions: of the frames in the video, ascending; they may repeat.
        times: in seconds of the video, one a frame.
    """

    ref: VideoRef
    positions: tuple[int, ...]
    times: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.positions)

    def frames(self) -> Iterator[Frame]:
        """The frames, decoded as they are asked for.

        Raises:
            VideoError: one cannot be decoded.
        """
        if self.ref.frames is not None:
            yield from (self.ref.frames[position] for position in self.positions)
        else:
            yield from _decoded(self.ref, self.times)


def pick(ref: VideoRef, rule: Rule = Rule()) -> Picked:
    """Choose frames of a video, from `ref.start` to `ref.end`; nothing is decoded yet.

    Raises:
        VideoError: no such file, no picture in it, damaged, or a span without frames; names it.
    """
    times = frame_times(ref)
    end = float("inf") if ref.end is None else ref.end
    inside = [i for i, at in enumerate(times) if ref.start <= at < end]
    if not inside:
        raise VideoError(
            f"{ref}: no frames from {ref.start:g} to {end:g} s; it lasts {times[-1] if times else 0:g} s"
        )
    span = [times[i] for i in inside]
    chosen = rule.pick(span, ref)
    return Picked(ref, tuple(inside[i] for i in chosen), tuple(span[i] for i in chosen))


def frame_times(ref: VideoRef) -> list[float]:
    """When each frame is shown, in seconds from the first one; read from the packets, nothing is decoded."""
    if ref.frames is not None:
        return [i / ref.fps for i in range(len(ref.frames))]
    path = _regular(ref)
    with _opened(path) as (container, stream):
        packets = [(packet.pts, packet.is_corrupt) for packet in container.demux(stream) if packet.size]
        stamps = sorted(pts for pts, _ in packets if pts is not None)
        if packets and not stamps:
            raise VideoError(
                f"{path}: its frames carry no times: ffmpeg -i {path.name} -c copy {path.stem}.mp4"
            )
        if not stamps:
            raise VideoError(f"{path}: a video without frames; record or download it again")
        if packets[-1][1]:
            raise VideoError(f"{path}: cut short in its frame {len(packets)}; fetch it again")
        base = float(stream.time_base)
        first = stamps[0] if stream.start_time is None else int(stream.start_time)
        return [(stamp - first) * base for stamp in stamps if stamp >= first]


def video_address(ref: VideoRef, folder: str | Path | None = None) -> str:
    """A video in a file as a text, its span as in media fragments: PATH#t=START,END; `video_ref` reads it.

    Args:
        ref: with a path.
        folder: the path is written relative to it; None: as it is.
    """
    path = str(ref.path) if folder is None else os.path.relpath(str(ref.path), folder)
    span = f"{ref.start:g}" + ("" if ref.end is None else f",{ref.end:g}")
    return f"{path}#t={span}" + ("" if ref.fps == 1 else f"&fps={ref.fps:g}")


def video_ref(value: Any, folder: str | Path) -> VideoRef:
    """The video that a record names: PATH, PATH#t=START,END, or `{"path", "start", "end", "fps"}`.

    Args:
        value: of the record.
        folder: where relative paths start.

    Raises:
        VideoError: no such reference.
    """
    try:
        if not isinstance(value["path"] if isinstance(value, Mapping) else value, (str, os.PathLike)):
            raise TypeError("a path is a text")
        if isinstance(value, Mapping):
            path, rest = str(value["path"]), {k: float(v) for k, v in value.items() if k != "path" and v}
        else:
            path, _, fragment = str(value).partition("#t=")
            span, _, fps = fragment.partition("&fps=")
            start, _, end = span.partition(",")
            given = {"start": start, "end": end, "fps": fps}
            rest = {name: float(text) for name, text in given.items() if text}
        return placed(path, folder, **rest)
    except (KeyError, TypeError, ValueError) as error:
        raise VideoError(f"{value!r:.200}: no reference to a video ({error}): PATH#t=START,END") from error


def placed(path: str, folder: str | Path, **span: float) -> VideoRef:
    """The video at a path that the data of a folder names; as far as such a path reaches for images.

    Args:
        path: of the record, or absolute.
        folder: of the data; "" for what nobody's data names.
        span: start, end and fps.
    """
    place = os.path.normpath(Path(folder) / path)
    return VideoRef(place, fault=out_of_reach(place, Path(folder)) if str(folder) else "", **span)


def stream_frames(path: str | Path, fps: float = 1.0) -> Iterator[tuple[float, Frame]]:
    """Second and frame of a video as it comes, `fps` a second, decoded from front to end in constant memory.

    Also for what has no end: a pipe, a camera, an address that FFmpeg opens.

    Raises:
        VideoError: it cannot be opened, or nothing of it can be decoded.
    """
    due, count, first = 0.0, 0, None
    with _opened(path) as (container, stream):
        for frame in _frames(container, stream, str(path)):
            at = _seconds(frame, count, stream)
            first = at if first is None else first
            count += 1
            if at - first + 1e-6 >= due:
                yield at - first, _upright(frame)
                due += 1.0 / fps
                due = max(due, at - first - 1.0 / fps)  # a gap is not made up for
    if not count:
        raise VideoError(f"{path}: nothing of it can be decoded; record or download it again")


def write_video(path: str | Path, frames: Sequence[Frame], fps: float = 1.0) -> None:
    """A small film of frames `(h, w, 3)`, without loss, in Matroska: for tests and the embedded world."""
    av = _av()
    from fractions import Fraction

    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")))
        container.mux(stream.encode())


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise VideoError("videos need PyAV: pip install 'comem[video]'") from error
    av.logging.set_level(av.logging.PANIC)  # what matters is raised
    return av


def _regular(ref: VideoRef) -> Path:
    """A file of its own length: what has no end is streamed."""
    path = Path(str(ref.path))
    if ref.fault:
        raise VideoError(f"{path}: {ref.fault}")
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise VideoError(f"{path}: no such video ({error}); check the video folder") from error
    if not stat.S_ISREG(found.st_mode):
        raise VideoError(f"{path}: not a file: a stream without end is read by comem.io.video.stream_frames")
    if not found.st_size:
        raise VideoError(f"{path}: the video is empty (zero bytes); download it again")
    return path


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[Any, Any]]:
    """Container and its first stream of pictures."""
    av = _av()
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise VideoError(f"{path}: has no pictures, only {_kinds(container)}: give a video")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
    except av.error.FFmpegError as error:
        raise VideoError(
            f"{path}: not a video that can be read, or damaged ({error}); fetch it again"
        ) from error


def _kinds(container: Any) -> str:
    return ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"


def _frames(container: Any, stream: Any, name: str) -> Iterator[Any]:
    """Decoded frames; a damaged packet loses its own frames only."""
    av = _av()
    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            continue
        except av.error.EOFError:
            return


def _seconds(frame: Any, count: int, stream: Any) -> float:
    if frame.pts is not None:
        return float(frame.pts * frame.time_base)
    return count / float(stream.average_rate or 25)


def _upright(frame: Any) -> Frame:
    """RGB `(h, w, 3)`, turned as the file says it is to be shown."""
    array = frame.to_ndarray(format="rgb24")
    quarter = round(float(getattr(frame, "rotation", 0) or 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(array, quarter)) if quarter else array


def _decoded(ref: VideoRef, times: Sequence[float]) -> Iterator[Frame]:
    """The frames at these times (ascending), each after a seek where it is not near."""
    path = _regular(ref)
    with _opened(path) as (container, stream), ExitStack() as again:
        base = float(stream.time_base)
        zero = _first_stamp(container, stream)
        source, now, shown = _frames(container, stream, str(path)), 0.0, None
        for at in times:
            fresh = at - now > _NEAR or at < now - base
            if fresh:
                container.seek(int(zero + at / base), stream=stream, backward=True)
                source, now, shown = _frames(container, stream, str(path)), float("-inf"), None
            while shown is None or now < at - base / 2:
                frame = next(source, None)
                if frame is None:
                    break
                if fresh and frame.pts is not None and (frame.pts - zero) * base > at + base / 2:
                    # too far, as in broadcast streams, which have no table: from the front, then
                    source = _frames(*again.enter_context(_opened(path)), str(path))
                    frame = next(source, None)
                fresh = False
                if frame is not None and frame.pts is not None:
                    now, shown = (frame.pts - zero) * base, frame
            if shown is None or now < at - base / 2:
                raise VideoError(
                    f"{path}: cannot be decoded at {at:g} s: damaged or cut short; fetch it again"
                )
            yield _upright(shown)


def _first_stamp(container: Any, stream: Any) -> int:
    if stream.start_time is not None:
        return int(stream.start_time)
    first = min((p.pts for p in container.demux(stream) if p.pts is not None), default=0)
    container.seek(0)
    return int(first)
