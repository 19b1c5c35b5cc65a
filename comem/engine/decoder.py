"""Greedy decoding of a batch: packed prefill, then one token a row and step at fixed addresses.

Tokens are those of transformers' `generate` on each question alone. What differs is only work saved: no
padding in the prefill, logits for each row's last token only, one step that reads and writes the same
buffers, so that on a GPU it is recorded once (a CUDA graph) and replayed, without a thousand kernel launches
and their Python a token.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from comem.backbones.base import Injection
from comem.backbones.positions import with_positions
from comem.backbones.prepared import Prepared, pack
from comem.engine.prefill import GraphPool, PackedPrompt, Passes, Prefill, Recorded, SlotCache, WorkCounts

#: Slots come in multiples of this, so that batches of like length share their buffers and graph.
_BUCKET = 256
#: Buffers that are kept; each is a graph and a cache of its own.
_KEPT = 4
#: Tokens in all kept buffers, beyond which only the newest stays: 3.7 GB at 7B in bfloat16.
_KEPT_TOKENS = 65_536
#: Steps on a GPU between two looks at whether all rows have ended: each look waits for the device.
_LOOK_EVERY = 8


@dataclass(frozen=True)
class NewTokens:
    """New tokens.

    Attributes:
        tokens: `(b, t)` on the CPU, the stop token included; `pad` behind it.
        first_seconds: from the start to the first token of all rows.
        seconds: from the start to the last.
    """

    tokens: Tensor
    first_seconds: float
    seconds: float


class Decoder:
    """Decodes with one model.

    Args:
        model: takes packed batches while it is prepared (`comem.backbones.prepared`).
        pad_id: stands behind a row's end.
        graphs: record steps as CUDA graphs; None does so on a GPU.
        counts: counts forward passes, copies and padded tokens.
    """

    def __init__(
        self, model: Any, pad_id: int = 0, graphs: bool | None = None, counts: WorkCounts | None = None
    ) -> None:
        self.model: Any = model
        self.prepared = Prepared(model)
        self.pad_id = pad_id
        self.counts = counts if counts is not None else WorkCounts()
        self.device: torch.device = self.model.device
        self.graphs = self.device.type == "cuda" if graphs is None else graphs
        self.pool = GraphPool() if self.graphs else None
        self._prefill = Prefill(model, self.pool, self.counts)
        self._steps: dict[tuple[int, int], _Step] = {}

    def prepare(
        self, inputs: Mapping[str, Tensor], sizes: Sequence[int], injection: Injection
    ) -> PackedPrompt:
        """A processor's batch with room for memories, packed, with positions; without touching the model.

        Args:
            inputs: left-padded, on the CPU.
            sizes: embeddings of each row's memory.
            injection: one that packs; it says where they go.
        """
        extended, memory, placeholder = injection.room(self.model, inputs, sizes)
        extended = with_positions(self.model, extended)
        ends = extended["position_ids"].amax(dim=-1) + 1  # (3, b)
        packed, segments = pack({**extended, "_memory": memory})
        return PackedPrompt(packed, segments, packed.pop("_memory"), placeholder, ends)

    @torch.no_grad()
    def generate(
        self, prompt: PackedPrompt, memories: Sequence[Tensor | None], max_new_tokens: int,
        stop: Sequence[int] = (),
    ) -> NewTokens:  # fmt: skip
        """Answer a prepared batch.

        Args:
            memories: per row its memory `(m, d)`, as many embeddings as `prepare` made room for, or None.
            stop: token ids that end a row.

        Raises:
            ValueError: the model takes no packed batches, or too many stop tokens.
        """
        if not self.prepared.packs:
            raise ValueError("the engine's decoder needs a model whose attention can be packed")
        with self.prepared:
            return self._generate(prompt, memories, max_new_tokens, stop)

    def _generate(
        self, prompt: PackedPrompt, memories: Sequence[Tensor | None], max_new_tokens: int,
        stop: Sequence[int],
    ) -> NewTokens:  # fmt: skip
        start = time.perf_counter()
        step = self._step_for(len(prompt.segments.lengths), prompt.segments.longest + max_new_tokens + 1)
        step.begin(prompt, stop)
        step.first(self._prefill(prompt, memories, step.cache, step.passes))
        self._wait()
        first_seconds = time.perf_counter() - start
        done = 1
        every = _LOOK_EVERY if self.device.type == "cuda" else 1
        while done < max_new_tokens and (done % every or not step.all_ended()):
            step.advance()
            done += 1
        self.counts.add(forward_passes=done)
        tokens = step.tokens[: len(prompt.segments.lengths), :done].to("cpu", copy=True)
        return NewTokens(_trimmed(tokens, self.pad_id), first_seconds, time.perf_counter() - start)

    def _step_for(self, rows: int, tokens: int) -> _Step:
        """Buffers (and a graph) for so many rows and tokens, used again where they fit."""
        slots = -(-tokens // _BUCKET) * _BUCKET
        rows = 1 << (rows - 1).bit_length() if self.graphs else rows
        step = self._steps.pop((rows, slots), None) or _Step(self, rows, slots)
        self._steps[rows, slots] = step
        while len(self._steps) > 1 and (len(self._steps) > _KEPT or self._tokens_held() > _KEPT_TOKENS):
            del self._steps[next(iter(self._steps))]
        return step

    def _tokens_held(self) -> int:
        return sum(rows * slots for rows, slots in self._steps)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class _Step:
    """One token a row, in place; the same buffers for every batch of this size."""

    def __init__(self, decoder: Decoder, rows: int, slots: int) -> None:
        device = decoder.device
        self.decoder, self.slots = decoder, slots
        self.cache = SlotCache(rows, slots, device)
        self.passes: Passes = OrderedDict()
        self.token = torch.zeros(rows, dtype=torch.long, device=device)
        self.position = torch.zeros((3, rows), dtype=torch.long, device=device)
        self.mask = torch.zeros((rows, slots), dtype=torch.bool, device=device)
        self.ended = torch.zeros(rows, dtype=torch.bool, device=device)
        self.tokens = torch.full((rows, slots), decoder.pad_id, dtype=torch.long, device=device)
        self.written = torch.zeros(rows, dtype=torch.long, device=device)
        self.stop = torch.full((8,), -1, dtype=torch.long, device=device)
        self.advance = Recorded(self._run, decoder.pool)

    def begin(self, prompt: PackedPrompt, stop: Sequence[int]) -> None:
        """Set up for a batch; rows beyond it count as ended."""
        if len(stop) > len(self.stop):
            raise ValueError(f"{len(stop)} stop tokens: give at most {len(self.stop)}")
        n = len(prompt.segments.lengths)
        self.position.zero_()
        self.position[:, :n] = prompt.next_position.to(self.position.device)
        lengths = torch.tensor([*prompt.segments.lengths, *[0] * (len(self.token) - n)])
        self.mask.copy_(torch.arange(self.slots) < lengths[:, None])
        self.ended.copy_(torch.arange(len(self.token)) >= n)
        self.tokens.fill_(self.decoder.pad_id)
        self.written.zero_()
        self.stop.fill_(-1)
        self.stop[: len(stop)] = torch.tensor(list(stop), dtype=torch.long)

    def first(self, logits: Tensor) -> None:
        """The first token of each row, from the prefill's logits `(n, v)`."""
        new = torch.full_like(self.token, self.decoder.pad_id)
        new[: len(logits)] = logits.argmax(dim=-1)
        self._take(new)

    def all_ended(self) -> bool:
        return bool(self.ended.all())

    def _run(self) -> Tensor:
        """One more token a row."""
        self.mask.scatter_(1, self.cache.at[:, None], True)
        out = self.decoder.model(
            input_ids=self.token[:, None], position_ids=self.position[:, :, None],
            attention_mask=self.mask[:, None, None, :], past_key_values=self.cache, use_cache=True,
        )  # fmt: skip
        self.cache.at.add_(1)
        self.position.add_(1)
        self._take(out.logits[:, -1].argmax(dim=-1))
        return self.token

    def _take(self, new: Tensor) -> None:
        """Write down new tokens `(b,)`; ended rows get padding."""
        new = new.masked_fill(self.ended, self.decoder.pad_id)
        self.tokens.scatter_(1, self.written[:, None], new[:, None])
        self.written.add_(1)
        self.ended.logical_or_((new[:, None] == self.stop).any(dim=1))
        self.token.copy_(new)


def _trimmed(tokens: Tensor, pad_id: int) -> Tensor:
    """Without the columns at the end in which every row has ended."""
    real = (tokens != pad_id).any(dim=0).nonzero()
    return tokens[:, : int(real[-1]) + 1 if len(real) else 1]
