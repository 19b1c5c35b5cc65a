"""The video memory as a kind of encoder, on the frozen model that reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from comem.memory.video.eye import Eye, look
from comem.memory.video.recurrent import EMPTY, MemoryState, VideoMemory
from comem.memory.video.settings import VideoMemorySettings


@dataclass(frozen=True)
class Headers:
    """Token ids of the words in front of the memory, in front of the frames, and of what ends each part.

    Attributes:
        memory: of the memory's header.
        frames: of the frames' header.
        newline: what ends a part, where the model has no vector of its own for it.
    """

    memory: tuple[int, ...]
    frames: tuple[int, ...]
    newline: tuple[int, ...] = ()


def headers_of(settings: VideoMemorySettings, tokenizer: Any) -> Headers:
    """The settings' words as the tokenizer writes them."""
    ids = [
        tuple(tokenizer(words, add_special_tokens=False)["input_ids"]) if words else ()
        for words in (settings.memory_header, settings.frames_header, "\n")
    ]
    return Headers(*ids)


class VideoReader(nn.Module):
    """A frozen model, its memory of videos, and the words around it: what every use of the memory shares.

    Args:
        model: sees the frames and reads the memory.
        eye: the model's.
        memory: of the model's width, and of the eye's grid.
        headers: the words around memory and frames.
    """

    def __init__(self, model: Any, eye: Eye, memory: VideoMemory, headers: Headers) -> None:
        super().__init__()
        if eye.grid != memory.grid:
            raise ValueError(f"the memory is for frames of {memory.grid} patches, the model makes {eye.grid}")
        self.model, self.eye, self.memory, self.headers = model, eye, memory, headers

    @property
    def settings(self) -> VideoMemorySettings:
        """The memory's."""
        return self.memory.settings

    def timed(self, pixels: Tensor, index: Tensor) -> Tensor:
        """Features of frames with their temporal code `(f, p, d)`, without gradient.

        Args:
            pixels: of `Eye.pixels`, f frames.
            index: per frame its number, or its second `(f,)`.
        """
        seen = look(self.eye, pixels.to(self._table.weight.dtype))
        return self.memory.timed(seen.to(self.memory.initial), index)

    def remember(self, features: Tensor, state: MemoryState = EMPTY, recompute: bool = False) -> MemoryState:
        """The state after more frames, a segment at a time; the last segment may be shorter.

        Args:
            features: with temporal code `(b, f, p, d)`.
            state: to go on from.
            recompute: see `VideoMemory.step`.
        """
        for segment in features.split(self.settings.segment, dim=1):  # type: ignore[no-untyped-call]
            state = self.memory.step(state, segment, recompute)
        return state

    def block(self, memory: Tensor | None, frames: Tensor | None) -> Tensor:
        """What comes in a video's place `(m, d)`: each part behind its header, a newline at its end.

        Args:
            memory: what the reader is given of the states `(v, d)`; None leaves the part out.
            frames: with temporal code `(f, p, d)`; None leaves the part out.
        """
        parts = []
        if memory is not None:
            parts += [self._words(self.headers.memory), memory, self.newline]
        if frames is not None:
            shown = self.memory.frames(frames.to(self.memory.initial)).flatten(0, 1)
            parts += [self._words(self.headers.frames), shown, self.newline]
        table = self._table.weight
        if not parts:
            return table.new_zeros(0, table.shape[1])
        return torch.cat([part.to(table) for part in parts])

    @property
    def newline(self) -> Tensor:
        """What ends a part `(n, d)`: the model's own vector, else its embedding of a line break."""
        own = getattr(self.model.base_model, "image_newline", None)
        return self._words(self.headers.newline) if own is None else own[None]

    @property
    def _table(self) -> nn.Embedding:
        return cast(nn.Embedding, self.model.get_input_embeddings())

    def _words(self, ids: Sequence[int]) -> Tensor:
        """Embeddings of ids `(n, d)`."""
        return cast(
            Tensor, self._table(torch.tensor(ids, dtype=torch.long, device=self._table.weight.device))
        )
