"""A video that comes frame by frame: remembered in constant memory, asked at any time, saved and continued.

What is held is bounded whatever the length: the cache of states, up to two times `kept` frames that may be
shown, and less than a segment of frames that wait. On whole segments the memory is that of the whole video
to the bit, for the same frames go through the same step.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from comem.backbones.prepared import evaluating
from comem.memory.bank import open_tensors, write_tensors
from comem.memory.video.encoder import VideoMemoryEncoder
from comem.memory.video.recurrent import EMPTY, MemoryState
from comem.memory.video.sampling import shown_frames
from comem.memory.video.settings import Read

FORMAT, VERSION = "comem-video-stream", 1


@dataclass(frozen=True)
class StreamState:
    """All that a stream remembers; a value, which is never changed.

    Attributes:
        memory: of the whole segments so far.
        frames: that were pushed.
        tail: of the segment that is not full yet, with temporal code `(t, p, d)`.
        kept: every `stride`-th frame so far, with temporal code `(c, p, d)`, fewer than twice those shown.
        stride: doubles whenever `kept` is full.
    """

    memory: MemoryState = EMPTY
    frames: int = 0
    tail: Tensor | None = None
    kept: Tensor | None = None
    stride: int = 1


class VideoStream:
    """Remembers frames as they are pushed.

    ```python
    stream = VideoStream(encoder)
    for second, frame in stream_frames("rtsp://camera"):
        stream.push([frame], [second])
    answers = backbone.generate([chat], [stream.block()], injection=infix_for(backbone))
    stream.save("camera.safetensors")            # VideoStream.load goes on from there
    ```

    Args:
        encoder: remembers; its `fill` has no part: a stream takes frames as they are.
        state: to go on from.
    """

    def __init__(self, encoder: VideoMemoryEncoder, state: StreamState = StreamState()) -> None:
        self.encoder, self.state = encoder, state

    @torch.no_grad()
    def push(self, frames: Iterable[Any], seconds: Iterable[float] | None = None) -> None:
        """Take more frames, in order.

        Args:
            frames: uint8 `(h, w, 3)` each, `encoder.settings` says how they are seen.
            seconds: when each was shown; needed where the temporal code counts seconds.

        Raises:
            ValueError: no seconds where they are needed.
        """
        encoder, shown = self.encoder, [torch.as_tensor(np.asarray(frame)) for frame in frames]
        if not shown:
            return
        first = self.state.frames
        index = torch.arange(first, first + len(shown))
        if encoder.settings.time == "seconds":
            if seconds is None:
                raise ValueError("video.time=seconds: push frames with their seconds")
            index = torch.tensor(list(seconds), dtype=torch.float64)
        with encoder.prepared, evaluating(encoder):
            pixels = encoder.eye.pixels(torch.stack(shown))
            seen = encoder.timed(pixels.to(encoder.device), index)
            self.state = self._taken(self.state, seen)

    def _taken(self, state: StreamState, seen: Tensor) -> StreamState:
        """The state after frames `(f, p, d)`."""
        size = self.encoder.settings.segment
        waiting = seen if state.tail is None else torch.cat([state.tail, seen])
        whole = len(waiting) - len(waiting) % size
        memory = self.encoder.remember(waiting[None, :whole], state.memory) if whole else state.memory
        kept, stride = self._kept(state, seen)
        return StreamState(memory, state.frames + len(seen), waiting[whole:].clone(), kept, stride)

    def _kept(self, state: StreamState, seen: Tensor) -> tuple[Tensor, int]:
        """Every stride-th frame; when there are twice as many as are shown, every other one goes."""
        kept = [] if state.kept is None else [state.kept]
        stride, most = state.stride, 2 * self.encoder.settings.kept
        count = sum(map(len, kept))
        for number, frame in enumerate(seen, start=state.frames):
            if number % stride:
                continue
            kept.append(frame[None])
            count += 1
            if count == most:
                kept = [torch.cat(kept)[::2].clone()]
                count, stride = len(kept[0]), 2 * stride
        return torch.cat(kept), stride

    @torch.no_grad()
    def block(self, read: Read | None = None) -> Tensor:
        """What comes in the video's place now `(m, d)`; the stream goes on as if it had not been asked.

        Args:
            read: memory, frames or both; None as the settings say.

        Raises:
            ValueError: no frame was pushed.
        """
        state, encoder = self.state, self.encoder
        if state.kept is None or state.tail is None:
            raise ValueError("a stream without frames: push some before it is asked")
        with encoder.prepared, evaluating(encoder):
            memory = state.memory
            if len(state.tail):
                memory = encoder.memory.step(memory, state.tail[None])
            rows = shown_frames(len(state.kept), encoder.settings.kept).to(state.kept.device)
            return encoder.block_from(memory, state.kept[rows], read)

    def save(self, path: str | Path) -> None:
        """Write the state, whole or not at all; a stream that is cut goes on from the last one.

        Raises:
            StorageError: no space is left.
        """
        state = self.state
        tensors = {f"states.{i:06d}": one for i, one in enumerate(state.memory.states)}
        tensors |= {name: one for name in ("tail", "kept") if (one := getattr(state, name)) is not None}
        about = {
            "format": FORMAT, "version": VERSION, "fingerprint": self.encoder.fingerprint(),
            "counts": state.memory.counts, "segments": state.memory.segments, "frames": state.frames,
            "stride": state.stride,
        }  # fmt: skip
        write_tensors(path, tensors, {"stream": json.dumps(about)})

    @classmethod
    def load(cls, path: str | Path, encoder: VideoMemoryEncoder) -> VideoStream:
        """Go on from what `save` wrote.

        Raises:
            ValueError: no state of a stream, half-written, or of another encoder; names the file.
        """
        with open_tensors(path) as file:
            about = json.loads((file.metadata() or {}).get("stream", "{}"))
            if about.get("format") != FORMAT:
                raise ValueError(f"{path}: not the state of a video stream")
            if about["version"] > VERSION:
                raise ValueError(f"{path}: version {about['version']}, known is {VERSION}: update comem")
            if about["fingerprint"] not in encoder.accepted_fingerprints():
                raise ValueError(f"{path}: remembered by another encoder: open the one that made it")
            held = {name: file.get_tensor(name).to(encoder.device) for name in file.keys()}  # noqa: SIM118
        states = tuple(held[name] for name in sorted(held) if name.startswith("states."))
        counts = tuple(tuple(row) for row in about["counts"])
        memory = MemoryState(states, counts, about["segments"])
        state = StreamState(memory, about["frames"], held.get("tail"), held.get("kept"), about["stride"])
        return cls(encoder, state)
