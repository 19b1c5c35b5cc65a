"""A stream is the whole video, in constant memory, and survives being cut."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import torch

from comem.backbones.hf import HFBackbone
from comem.memory.video.sampling import memory_frames
from comem.memory.video.stream import VideoStream
from comem.types import VideoRef
from tests.memory.video.conftest import encoder_on, frames_of


@pytest.mark.parametrize("count", [8, 12, 16])
@pytest.mark.parametrize("parts", [1, 3, 5])
def test_a_stream_is_the_whole_video_on_whole_segments(
    tiny_reader: HFBackbone, count: int, parts: int
) -> None:
    film = frames_of(count)
    for fill in ("authors", "tail"):
        encoder = encoder_on(tiny_reader, fill=fill, kept=16)
        assert memory_frames(count, 4, fill).tolist() == list(range(count))
        stream = VideoStream(encoder)
        for at in range(0, count, parts):
            stream.push(film[at : at + parts])
        offline = encoder.remember(encoder.see(VideoRef(frames=film))[None])
        for one, other in zip(stream.state.memory.states, offline.states, strict=True):
            assert torch.equal(one, other)
        assert torch.equal(stream.block(), encoder.blocks([VideoRef(frames=film)])[0])


def test_asking_leaves_no_trace(tiny_reader: HFBackbone) -> None:
    encoder, film = encoder_on(tiny_reader), frames_of(11)
    asked, silent = VideoStream(encoder), VideoStream(encoder)
    for frame in film:
        asked.push([frame])
        asked.block()
        silent.push([frame])
    assert torch.equal(asked.block(), silent.block())
    assert torch.equal(asked.block("memory"), encoder.blocks([VideoRef(frames=film)], "memory")[0])


def test_what_is_held_does_not_grow(tiny_reader: HFBackbone) -> None:
    """Forty minutes at a frame a second are held like four."""
    encoder = encoder_on(tiny_reader, cache=3)
    stream, sizes = VideoStream(encoder), []
    film = frames_of(120)
    for at in range(0, 2_400, 120):  # docs/video.md has three hours
        stream.push(film)
        if at in (120, 2_280):
            state = stream.state
            assert state.kept is not None and state.tail is not None
            sizes.append((len(state.memory.states), len(state.tail), len(state.kept) <= 6))
            tracemalloc.start() if at == 120 else None
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sizes[0] == sizes[1] == (3, 0, True) and stream.state.frames == 2_400
    assert peak < 5_000_000
    assert len(stream.block()) == len(encoder.blocks([VideoRef(frames=frames_of(12))])[0])


def test_a_saved_state_goes_on(tiny_reader: HFBackbone, tmp_path: Path) -> None:
    encoder, film = encoder_on(tiny_reader, cache=3, evict="merge"), frames_of(30)
    whole = VideoStream(encoder)
    whole.push(film)
    first = VideoStream(encoder)
    first.push(film[:17])
    first.save(tmp_path / "state.safetensors")
    again = VideoStream.load(tmp_path / "state.safetensors", encoder)
    again.push(film[17:])
    assert (
        torch.equal(again.block(), whole.block()) and again.state.memory.counts == whole.state.memory.counts
    )
    with pytest.raises(ValueError, match="another encoder"):
        VideoStream.load(tmp_path / "state.safetensors", encoder_on(tiny_reader, cache=4))
    cut = (tmp_path / "state.safetensors").read_bytes()[:-100]
    (tmp_path / "cut.safetensors").write_bytes(cut)
    with pytest.raises(ValueError, match="not a complete"):
        VideoStream.load(tmp_path / "cut.safetensors", encoder)
    with pytest.raises(ValueError, match="without frames"):
        VideoStream(encoder).block()


def test_seconds_are_needed_where_they_count(tiny_reader: HFBackbone) -> None:
    stream = VideoStream(encoder_on(tiny_reader, time="seconds"))
    with pytest.raises(ValueError, match="with their seconds"):
        stream.push(frames_of(2))
    stream.push(frames_of(2), [0.0, 7.5])


CUT = """
import sys, torch
from pathlib import Path
from tests.memory.video.conftest import encoder_on, frames_of, make_reader
from comem.memory.video.stream import VideoStream
encoder, path = encoder_on(make_reader()), Path(sys.argv[1])
stream = VideoStream(encoder)
for number, frame in enumerate(frames_of(400)):
    stream.push([frame])
    stream.save(path)
    print(number, flush=True)
"""


def test_a_stream_that_is_killed_goes_on_from_its_last_state(tmp_path: Path) -> None:
    from tests.memory.video.conftest import make_reader

    path = tmp_path / "state.safetensors"
    words = [sys.executable, "-c", CUT, str(path)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 9:
                break
        process.send_signal(signal.SIGKILL)
    encoder = encoder_on(make_reader())
    again = VideoStream.load(path, encoder)
    done = again.state.frames
    assert done >= 10
    film, whole = frames_of(400)[: done + 5], VideoStream(encoder)
    again.push(film[done:])
    for frame in film[:done]:
        whole.push([frame])
    whole.push(film[done:])
    assert torch.equal(again.block(), whole.block())
