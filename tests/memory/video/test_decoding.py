"""Videos as they come: read right, or refused with a reason."""

from __future__ import annotations

import os
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comem.io.video import Rule, VideoError, frame_times, pick, stream_frames, write_video
from comem.types import VideoRef
from tests.memory.video.conftest import frames_of

FPS = Rule()
av = pytest.importorskip("av", reason="PyAV is not installed")


def numbered(count: int, height: int = 16, width: int = 24) -> list[Any]:
    """Frames that tell their own number: its value in grey."""
    return [np.full((height, width, 3), 20 + 4 * i, dtype=np.uint8) for i in range(count)]


def numbers(frames: Any) -> list[int]:
    return [round((float(frame.mean()) - 20) / 4) for frame in frames]


def read(path: Path, rule: Rule = FPS, **span: Any) -> list[int]:
    return numbers(pick(VideoRef(str(path), **span), rule).frames())


def encoded(
    path: Path, stamps: list[int], frames: list[Any], rate: int = 10, codec: str = "mpeg4", **options: str
) -> Path:
    """A compressed film whose frames are shown at `stamps` / rate seconds."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.gop_size, stream.bit_rate = "yuv420p", 12, 20_000_000
        for stamp, array in zip(stamps, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(array, "rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_rules(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    write_video(path, numbered(40), fps=4)
    assert read(path) == list(range(0, 40, 4))
    assert read(path, fps=2.0) == list(range(0, 40, 2))
    assert read(path, Rule("every")) == list(range(0, 40, 4))
    assert read(path, Rule("uniform", 5)) == np.linspace(0, 39, 5, dtype=int).tolist()
    assert read(path, Rule("uniform", 80)) == np.linspace(0, 39, 80, dtype=int).tolist()
    assert read(path, Rule("fps", 4)) == [0, 12, 24, 36]
    assert read(path, start=2.0, end=5.0) == [8, 12, 16]
    assert len(read(path, Rule("authors_live"), fps=4.0)) == 32  # 40 frames at 4 a second
    assert frame_times(VideoRef(str(path)))[:3] == pytest.approx([0, 0.25, 0.5], abs=2e-3)
    assert [round(at, 2) for at, _ in stream_frames(path)] == list(range(10))
    assert numbers(frame for _, frame in stream_frames(path, fps=2.0)) == list(range(0, 40, 2))


def test_frames_in_memory_go_by_the_same_rules() -> None:
    film = np.stack(numbered(12))
    picked = pick(VideoRef(frames=film, fps=1.0, start=2.0, end=8.0), Rule("uniform", 3))
    assert numbers(picked.frames()) == [2, 4, 7] and picked.times == (2.0, 4.0, 7.0)


def test_a_varying_rate_is_read_by_the_clock(tmp_path: Path) -> None:
    """Ten frames in the first second, then one a second: every second is seen once."""
    stamps = [*range(10), *range(10, 60, 10)]
    path = encoded(tmp_path / "a.mp4", stamps, numbered(len(stamps)))
    assert read(path) == [0, 10, 11, 12, 13, 14]


def test_a_film_is_entered_by_seeking(tmp_path: Path) -> None:
    path = encoded(tmp_path / "a.mp4", list(range(50)), numbered(50))
    assert read(path, start=3.9, fps=10.0) == list(range(39, 50))
    assert read(path, Rule("uniform", 2)) == [0, 49]


@pytest.mark.parametrize(
    ("name", "codec"), [("a.ts", "mpeg2video"), ("a.avi", "mpeg4"), ("a.webm", "libvpx")]
)
def test_other_containers_are_entered_by_seeking_too(tmp_path: Path, name: str, codec: str) -> None:
    """Broadcast streams have no table: a seek may land behind the frame."""
    path = encoded(tmp_path / name, list(range(50)), numbered(50, 64, 64), codec=codec)
    assert read(path) == [0, 10, 20, 30, 40]
    assert read(path, start=2.0) == [20, 30, 40] and read(path, start=3.3, end=3.6, fps=10.0) == [33, 34, 35]


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [
        (
            (0, 1, -1, 0),
            (0, -1),
        ),  # x goes down and y to the left: a quarter clockwise, as phones film upright
        ((-1, 0, 0, -1), (-1, -1)),
        ((0, -1, 1, 0), (-1, 0)),
    ],
)
def test_what_lies_on_its_side_is_turned(
    tmp_path: Path, matrix: tuple[int, ...], corner: tuple[int, int]
) -> None:
    """The matrix of the track header (ISO 14496-12, 8.3.2) says where the upper left corner is shown."""
    frame = np.zeros((32, 48, 3), dtype=np.uint8)
    frame[:16, :16] = 250
    path = encoded(tmp_path / "a.mp4", list(range(3)), [frame] * 3)
    a, b, c, d = (round(value * 65536) for value in matrix)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: eleven fields of 40 bytes before the matrix
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    shown = [*pick(VideoRef(str(path))).frames(), *(frame for _, frame in stream_frames(path))]
    assert len(shown) == 2
    for one in shown:
        assert one.shape == ((32, 48, 3) if matrix[0] else (48, 32, 3))
        assert one[corner].mean() > 200
        others = {(0, 0), (0, -1), (-1, 0), (-1, -1)} - {corner}
        assert all(one[other].mean() < 50 for other in others)


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    def refused(path: Path, said: str, **span: Any) -> None:
        with pytest.raises(VideoError, match=said):
            read(path, **span)

    refused(tmp_path / "none.mp4", "no such video")
    (tmp_path / "empty.mp4").touch()
    refused(tmp_path / "empty.mp4", "empty")
    (tmp_path / "text.mp4").write_text("<html>not found</html>" * 50)
    refused(tmp_path / "text.mp4", "not a video that can be read")
    whole = encoded(tmp_path / "a.mp4", list(range(30)), [f for f in frames_of(30)])
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    refused(tmp_path / "cut.mp4", "damaged|not a video")
    front = encoded(tmp_path / "b.mp4", list(range(30)), [*frames_of(30)], movflags="faststart")
    (tmp_path / "half.mp4").write_bytes(front.read_bytes()[: front.stat().st_size // 2])
    refused(tmp_path / "half.mp4", "cut short in its frame")
    refused(encoded(tmp_path / "raw.h264", [0, 1, 2], numbered(3), codec="libx264"), "carry no times")
    refused(whole, "no frames from 60", start=60.0)
    for fps in (0.0, float("nan"), float("inf"), 1e9):
        with pytest.raises(ValueError, match="give a positive number, 1000 at most"):
            VideoRef("a.mp4", fps=fps)
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    refused(tmp_path / "sound.wav", "no pictures, only audio")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "stream without end")
    with pytest.raises(ValueError, match="positive number"):
        Rule("uniform")
    with pytest.raises(ValueError, match="did you mean"):
        Rule("unifrom", 3)
