"""A backbone that answers by the engine's decoder wherever that gives the same answer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from comem.backbones.base import GREEDY, Answer, Backbone, GenerationConfig, KVPrefixes, Prefixes
from comem.backbones.chat import ChatProcessor, Conversations
from comem.backbones.generation import evaluating
from comem.backbones.packing import pack_attention
from comem.backbones.positions import pinned
from comem.backbones.specs import BackboneSpec
from comem.engine.counts import Counts
from comem.engine.decoder import Decoder
from comem.io.prefetch import Ahead
from comem.types import Message

_Batch = tuple[tuple[Message, ...], ...]


class EngineBackbone:
    """Wraps a backbone: greedy answers come from `Decoder`, all else from the backbone itself.

    Sampling, repetition penalties and key-value memories go the backbone's own way, as do models whose
    attention cannot be packed.

    Args:
        inner: a backbone of transformers.
        graphs: see `Decoder`.
    """

    def __init__(self, inner: Any, graphs: bool | None = None, counts: Counts | None = None) -> None:
        self.inner: Any = inner
        self.counts = counts if counts is not None else Counts()
        self._graphs = graphs
        self._processed: Ahead[_Batch, dict[str, Tensor]] = Ahead(
            lambda batch: pinned(inner.process(batch), inner.device)
        )

    @cached_property
    def decoder(self) -> Decoder | None:
        """None where the model's attention cannot be packed."""
        if not self.spec.soft_prefix or not pack_attention(self.model):
            return None
        return Decoder(self.model, self.process.tokenizer.pad_token_id or 0, self._graphs, self.counts)

    @property
    def spec(self) -> BackboneSpec:
        return self.inner.spec  # type: ignore[no-any-return]

    @property
    def model(self) -> Any:
        return self.inner.model

    @property
    def processor(self) -> Any:
        return self.inner.processor

    @property
    def hidden_size(self) -> int:
        return int(self.inner.hidden_size)

    @property
    def device(self) -> torch.device:
        return self.inner.device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        return self.inner.dtype  # type: ignore[no-any-return]

    @property
    def process(self) -> ChatProcessor:
        return self.inner.process  # type: ignore[no-any-return]

    def place(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As the backbone's."""
        return self.inner.place(inputs)  # type: ignore[no-any-return]

    def prompt_lengths(self, conversations: Conversations) -> list[int]:
        """As the backbone's."""
        return self.inner.prompt_lengths(conversations)  # type: ignore[no-any-return]

    def ahead(self, conversations: Conversations) -> None:
        """Render, tokenize and cut up pictures for a `generate` to come; in any thread."""
        if self.decoder is not None:
            for rows in self.process.groups(conversations):
                self._processed.make(_key([conversations[row] for row in rows]))

    def generate(
        self,
        conversations: Conversations,
        prefixes: Prefixes | None = None,
        config: GenerationConfig = GREEDY,
        kv: KVPrefixes | None = None,
    ) -> list[Answer]:
        """Answer a batch; the same tokens as the backbone's `generate`, errors as there."""
        memories = [None] * len(conversations) if prefixes is None else list(prefixes)
        plain = config.temperature == 0 and config.repetition_penalty == 1
        if self.decoder is None or not plain or len(memories) != len(conversations) or any_of(kv):
            return self.inner.generate(conversations, prefixes, config, kv)  # type: ignore[no-any-return]
        answers: dict[int, Answer] = {}
        for rows in self.process.groups(conversations) if conversations else ():
            some = self._generate([conversations[r] for r in rows], [memories[r] for r in rows], config)
            answers |= zip(rows, some, strict=True)
        return [answers[row] for row in range(len(conversations))]

    def _generate(self, batch: Conversations, memories: Prefixes, config: GenerationConfig) -> list[Answer]:
        start, decoder = time.perf_counter(), self.decoder
        assert decoder is not None
        inputs = self._processed.take(_key(batch))
        soft = [None if m is None else m.to(self.device, self.dtype, non_blocking=True) for m in memories]
        sizes = [0 if memory is None else len(memory) for memory in soft]
        prompt = decoder.prepare(inputs, sizes, self.inner.free_id(inputs["input_ids"]))
        with evaluating(self.model):
            made = decoder.generate(prompt, soft, config.max_new_tokens, self._stop)
        texts = self.process.tokenizer.batch_decode(made.tokens, skip_special_tokens=True)
        seconds = (time.perf_counter() - start) / len(texts)
        return [
            Answer(text.strip(), context_tokens=size, prompt_tokens=length, seconds=seconds)
            for text, size, length in zip(texts, sizes, prompt.segments.lengths, strict=True)
        ]

    @property
    def _stop(self) -> Sequence[int]:
        ids = self.model.generation_config.eos_token_id
        return () if ids is None else ids if isinstance(ids, (list, tuple)) else (ids,)


def any_of(kv: KVPrefixes | None) -> bool:
    """Whether any row has keys and values in front."""
    return kv is not None and any(memory is not None for memory in kv)


def _key(conversations: Conversations) -> _Batch:
    return tuple(tuple(conversation) for conversation in conversations)


def fast(backbone: Backbone, graphs: bool | None = None) -> Backbone:
    """The backbone with the engine's decoder in front, or itself where it has no tensors of its own."""
    if not isinstance(backbone, EngineBackbone) and hasattr(backbone, "free_id"):
        return EngineBackbone(backbone, graphs)
    return backbone
