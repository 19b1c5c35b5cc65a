"""The recurrent memory: a segment of frames and the states so far become the next state.

What it computes is the memory of Memory-Augmented-VLM (video_memory.md 1), by a pure step: nothing is kept
in the module, gradients flow through all states that are kept, and a state can be copied, saved, continued.

Legend: `b` videos, `p` patches of a frame, `k` slots, `d` width, `f` frames.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from comem.memory.qformer import QFormer, QFormerConfig
from comem.memory.video.settings import VideoMemorySettings

logger = logging.getLogger(__name__)

_NORM_EPS = 1e-12  # the authors'


@dataclass(frozen=True)
class MemoryState:
    """What is remembered of b videos of one length.

    Attributes:
        states: the states that are kept, oldest first, each `(b, k·p, d)`.
        counts: per video and state the segments that it stands for, more than 1 where states were merged.
        segments: segments that were read in all.
    """

    states: tuple[Tensor, ...] = ()
    counts: tuple[tuple[int, ...], ...] = ()
    segments: int = 0

    def row(self, index: int) -> MemoryState:
        """The state of one video, as a batch of one."""
        states = tuple(state[index : index + 1] for state in self.states)
        return MemoryState(states, self.counts[index : index + 1], self.segments)

    def detached(self) -> MemoryState:
        """The same without gradients."""
        return MemoryState(tuple(s.detach() for s in self.states), self.counts, self.segments)


EMPTY = MemoryState()


class Attend(nn.Module):
    """`LN(x + out(attention(query x, key y, value y)))`; all with biases, without mask and dropout."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm = nn.LayerNorm(width, eps=_NORM_EPS)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """`x` `(b, m, d)` after attending to `y` `(b, l, d)`."""
        q, k, v = self._split(self.query(x)), self._split(self.key(y)), self._split(self.value(y))
        read = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return cast(Tensor, self.norm(x + self.out(read)))

    def _split(self, x: Tensor) -> Tensor:
        parts: Tensor = x.unflatten(-1, (self.heads, -1))  # type: ignore[no-untyped-call]
        return parts.transpose(1, 2)


class Formation(nn.Module):
    """A layer of formation: attention to the segment, then a feed-forward layer; residual and norm each."""

    def __init__(self, width: int, heads: int, ff_mult: int) -> None:
        super().__init__()
        self.attend = Attend(width, heads)
        self.up, self.down = nn.Linear(width, ff_mult * width), nn.Linear(ff_mult * width, width)
        self.norm = nn.LayerNorm(width, eps=_NORM_EPS)

    def forward(self, x: Tensor, segment: Tensor) -> Tensor:
        """`x` `(b, k·p, d)` after reading the segment `(b, l, d)`."""
        x = self.attend(x, segment)
        return cast(Tensor, self.norm(x + self.down(F.relu(self.up(x)))))


class VideoMemory(nn.Module):
    """Formation, evolution, fuser, token types and temporal code.

    ```python
    state = EMPTY
    for segment in segments:                 # (1, f, p, d), with its temporal code
        state = memory.step(state, segment)
    vectors = memory.read(state)[0]          # (S·k·p, d), for the reader
    ```

    Args:
        settings: sizes.
        width: `d`, the reader's.
        grid: height and width of a frame's patches.
    """

    def __init__(self, settings: VideoMemorySettings, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        if width % settings.heads:
            raise ValueError(
                f"width {width} is not a multiple of video.heads={settings.heads}: choose another"
            )
        if width % 4 and settings.space:
            raise ValueError(f"video.space needs a width that 4 divides, not {width}")
        if settings.pool > min(grid):
            raise ValueError(f"video.pool={settings.pool}: a frame has {grid[0]} x {grid[1]} patches only")
        self.settings, self.width, self.grid = settings, width, grid
        self.patches = grid[0] * grid[1]
        self.initial = nn.Parameter(torch.empty(settings.slots, self.patches, width))
        self.slot_code = nn.Parameter(torch.empty(settings.slots, 1, width))
        sizes = width, settings.heads
        self.layers = nn.ModuleList(Formation(*sizes, settings.ff_mult) for _ in range(settings.layers))
        self.evolve = Attend(*sizes)
        self.token_types = nn.Embedding(2, width)
        if settings.qformer:
            self.qformer = QFormer(
                QFormerConfig(
                    width,
                    settings.qformer,
                    settings.qformer_depth,
                    settings.qformer_heads,
                    ff_mult=settings.ff_mult,
                )
            )
        else:
            inner = 4 * width
            self.fuser = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))
        if settings.gated:
            self.gate = nn.Parameter(torch.zeros(()))
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Every weight at its start: nothing is left as it was allocated (video_memory.md V15)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        nn.init.normal_(self.token_types.weight, std=0.02)
        nn.init.xavier_uniform_(self.initial)
        nn.init.normal_(self.slot_code)
        if self.settings.gated:
            nn.init.zeros_(self.gate)

    @property
    def vectors(self) -> int:
        """Vectors that the reader is given of each state."""
        if self.settings.qformer:
            return self.settings.qformer
        return self.settings.slots * (self.settings.pool**2 or self.patches)

    def step(self, state: MemoryState, segment: Tensor, recompute: bool = False) -> MemoryState:
        """The state after one more segment; the given one stays as it is.

        Args:
            state: of b videos, or `EMPTY`.
            segment: `(b, f, p, d)`, with its temporal code.
            recompute: hold no activations for the backward pass: compute them again there.
        """
        if recompute and torch.is_grad_enabled():
            formed = checkpoint(self._form, segment, *state.states, use_reentrant=False)
        else:
            formed = self._form(segment, *state.states)
        before = state.counts or ((),) * len(segment)
        counts = tuple((*row, 1) for row in before)
        return self._evicted(MemoryState((*state.states, formed), counts, state.segments + 1))

    def query(self, states: Sequence[Tensor], rows: int = 1) -> Tensor:
        """What a segment begins with `(b, k·p, d)`: the start, or the last state after attending to all."""
        if not states:
            start = (self.initial + self.slot_code).flatten(0, 1)
            return start.expand(rows, -1, -1)
        return cast(Tensor, self.evolve(states[-1], torch.cat(list(states), dim=1)))

    def _form(self, segment: Tensor, *states: Tensor) -> Tensor:
        """The next state `(b, k·p, d)`."""
        if self.settings.space:
            segment = segment + self._space.to(segment)
        tokens = segment.flatten(1, 2)
        x = self.query(states, len(tokens))
        for layer in self.layers:
            x = layer(x, tokens)
        return x

    def _evicted(self, state: MemoryState) -> MemoryState:
        """The state within the cache."""
        most = self.settings.cache
        if not most or len(state.states) <= most:
            return state
        if self.settings.evict == "oldest":
            counts = tuple(row[-most:] for row in state.counts)
            return MemoryState(state.states[-most:], counts, state.segments)
        return _merged(state)

    def read(self, state: MemoryState) -> Tensor:
        """The vectors for the reader `(b, S·v, d)`, oldest state first, token type included."""
        return self.read_states(state.states).flatten(1, 2)

    def read_states(self, states: Sequence[Tensor]) -> Tensor:
        """Of S states, each on its own `(b, S, v, d)`."""
        fused = self.fuse(torch.stack(list(states), dim=1)) + self.token_types.weight[0]
        return fused * self.gate.tanh() if self.settings.gated else fused

    def fuse(self, states: Tensor) -> Tensor:
        """States `(b, S, k·p, d)` as the fuser writes them `(b, S, v, d)`, without token type."""
        b, count = states.shape[:2]
        if self.settings.qformer:
            read: Tensor = self.qformer(states.flatten(0, 1))
            return read.unflatten(0, (b, count))  # type: ignore[no-any-return, no-untyped-call]
        if side := self.settings.pool:
            slots: Tensor = states.flatten(0, 1).unflatten(1, (self.settings.slots, *self.grid))  # type: ignore[no-untyped-call]
            slots = slots.flatten(0, 1).permute(0, 3, 1, 2)  # (b·S·k, d, h, w)
            pooled = F.adaptive_avg_pool2d(slots, side).flatten(2).transpose(1, 2)
            states = pooled.reshape(b, count, -1, self.width)
        return cast(Tensor, self.fuser(states))

    @property
    def closed(self) -> bool:
        """Whether the memory does not enter at all: the gate stands at 0, as at the start."""
        return self.settings.gated and float(self.gate.detach()) == 0.0

    def frames(self, features: Tensor) -> Tensor:
        """Frames `(f, p, d)`, with their temporal code, as the reader is given them: token type included."""
        return features + self.token_types.weight[1]

    def timed(self, features: Tensor, index: Tensor) -> Tensor:
        """Features `(…, f, p, d)` with the temporal code of their frames `(f,)` (frames or seconds)."""
        return features + temporal_code(index, self.width, features.dtype).to(features.device)[:, None]

    @property
    def _space(self) -> Tensor:
        """A two-dimensional code of the patches `(p, d)`: rows in the first half, columns in the second."""
        height, width = self.grid
        half = self.width // 2
        rows, columns = temporal_code(torch.arange(height), half), temporal_code(torch.arange(width), half)
        return torch.cat([rows.repeat_interleave(width, 0), columns.repeat(height, 1)], dim=-1)


def temporal_code(index: Tensor, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Sinusoids `(f, d)` of any index, sine on even columns, cosine on odd ones (video_memory.md 1.4).

    Below 600 these are, to the bit, the values of the authors' table.
    """
    rate = torch.exp(torch.arange(0, width, 2).float() * (-math.log(10000.0) / width))
    angles = index.cpu().float()[:, None] * rate
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).to(dtype)


def _merged(state: MemoryState) -> MemoryState:
    """One state fewer: of each video the two neighbours that are most alike become their weighted mean."""
    stacked = torch.stack(state.states, dim=1)  # (b, S, k·p, d)
    seen = stacked.detach()
    alike = F.cosine_similarity(seen[:, :-1], seen[:, 1:], dim=-1).mean(dim=-1)  # (b, S - 1)
    rows, counts = [], []
    for row, count, at in zip(stacked, state.counts, alike.argmax(dim=1).tolist(), strict=True):
        first, second = count[at : at + 2]
        mean = (row[at] * first + row[at + 1] * second) / (first + second)
        rows.append(torch.cat([row[:at], mean[None], row[at + 2 :]]))
        counts.append((*count[:at], first + second, *count[at + 2 :]))
    return MemoryState(torch.stack(rows).unbind(dim=1), tuple(counts), state.segments)
