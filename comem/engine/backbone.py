"""A backbone that answers by the engine's decoder wherever that gives the same answer."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from torch import Tensor

from comem.backbones.base import Answer, Backbone, GenerationConfig, Injection, RowMemories
from comem.backbones.chat import Conversations
from comem.backbones.hf import HFBackbone
from comem.backbones.positions import pinned
from comem.backbones.prepared import evaluating
from comem.engine.decoder import Decoder
from comem.engine.prefill import WorkCounts
from comem.io.prefetch import Ahead
from comem.memory.injection.prefix import PREFIX
from comem.types import Message

_Batch = tuple[tuple[Message, ...], ...]


@dataclass(frozen=True)
class EngineBackbone(HFBackbone):
    """A backbone whose greedy answers come from `Decoder`, and all else from transformers' `generate`.

    Sampling, repetition penalties and injections that do not pack go the ordinary way, as do models whose
    attention cannot be packed.

    Attributes:
        graphs: see `Decoder`.
        counts: of the work done.
    """

    accelerates: ClassVar[bool] = False  # it is the engine

    graphs: bool | None = None
    counts: WorkCounts = field(default_factory=WorkCounts)

    @cached_property
    def decoder(self) -> Decoder | None:
        """None where the model's attention cannot be packed."""
        if not self.spec.soft_prefix:
            return None
        decoder = Decoder(self.model, self.process.tokenizer.pad_token_id or 0, self.graphs, self.counts)
        return decoder if decoder.prepared.packs else None

    @cached_property
    def _processed(self) -> Ahead[_Batch, dict[str, Tensor]]:
        return Ahead(lambda batch: pinned(self.process(batch), self.device))

    def ahead(self, conversations: Conversations) -> None:
        """Render, tokenize and cut up images for a `generate` to come; in any thread."""
        if self.decoder is not None:
            for rows in self.process.groups(conversations):
                self._processed.make(_key([conversations[row] for row in rows]))

    def _answer(
        self, conversations: Conversations, memories: RowMemories, config: GenerationConfig,
        injection: Injection | None,
    ) -> list[Answer]:  # fmt: skip
        """The same tokens as transformers' `generate`, errors as there."""
        start, decoder, injection = time.perf_counter(), self.decoder, injection or PREFIX
        greedy = config.temperature == 0 and config.repetition_penalty == 1
        if decoder is None or not greedy or not injection.packs:
            return super()._answer(conversations, memories, config, injection)
        inputs = self._processed.take(_key(conversations))
        vectors = [self._placed(memory, injection) for memory in memories]
        prompt = decoder.prepare(inputs, [0 if m is None else len(m) for m in vectors], injection)
        with self._alone, evaluating(self.model):
            made = decoder.generate(prompt, vectors, config.max_new_tokens, self._stop)
        texts = self.process.tokenizer.batch_decode(made.tokens, skip_special_tokens=True)
        seconds = (time.perf_counter() - start) / len(texts)
        return [
            Answer(text.strip(), 0 if memory is None else len(memory), length, seconds)
            for text, memory, length in zip(texts, vectors, prompt.segments.lengths, strict=True)
        ]

    @property
    def _stop(self) -> tuple[int, ...]:
        ids = self.model.generation_config.eos_token_id
        return () if ids is None else tuple(ids) if isinstance(ids, (list, tuple)) else (ids,)


def _key(conversations: Conversations) -> _Batch:
    return tuple(tuple(conversation) for conversation in conversations)


def fast(backbone: Backbone, graphs: bool | None = None, counts: WorkCounts | None = None) -> Backbone:
    """The backbone with the engine's decoder, or itself where the engine cannot take its place."""
    if not backbone.accelerates:
        return backbone
    parts = backbone.spec, backbone.model, backbone.processor
    limits = backbone.process.min_pixels, backbone.process.max_pixels
    return EngineBackbone(*parts, *limits, graphs, counts if counts is not None else WorkCounts())
