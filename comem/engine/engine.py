"""A backbone that answers by the engine's decoder wherever that gives the same answer."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import ClassVar

from torch import Tensor

from comem.backbones.base import Answer, Backbone, GenerationConfig, Injection, RowMemories
from comem.backbones.chat import Conversations
from comem.backbones.hf import HFBackbone
from comem.backbones.positions import pinned
from comem.backbones.prepared import evaluating
from comem.bank.serve import LiveBank
from comem.engine.decoder import Decoder
from comem.engine.prefill import WorkCounts
from comem.io.images import Ahead, one_ahead, open_images
from comem.memory.injection.prefix import PREFIX
from comem.modes.base import Mode
from comem.types import Example, Message, RetrievedContext

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


Question = tuple[Example, RetrievedContext | None]

#: Batches among which questions are sorted by length before they are divided.
_WINDOW = 16


class Engine:
    """Answers questions in one mode, in batches.

    ```python
    engine = Engine(ComemMode(backbone, bank=open_bank("bank")), batch_size=32)
    for example_id, answer in engine.stream(questions):      # (Example, RetrievedContext or None) each
        ...
    ```

    Per batch: memories are read from the bank, or the encoder reads what is missing, all in one packed call
    and no item twice; the prompts are read in one packed prefill; decoding replays one recorded step. The
    next batch's images and prompts are made by a thread meanwhile. Answers are those of the mode itself
    (greedy, float32: token for token), whatever the batch.

    Args:
        mode: any of `comem.modes`; one without an engine's decoder (key-value memory, remote code) is
            served as it is.
        batch_size: questions a batch.
        graphs: record decoding steps as CUDA graphs; None does so on a GPU.
    """

    def __init__(self, mode: Mode, batch_size: int = 32, graphs: bool | None = None) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: give at least 1")
        self._counts = WorkCounts()
        self.mode, self.batch_size = accelerated(mode, graphs, self._counts), batch_size

    @property
    def counts(self) -> WorkCounts:
        """What was done so far; of a mode that is served as it is, the encoder's calls alone."""
        if (bank := self.mode.settings.bank) is not None:
            self._counts.encoder_calls = bank.counts.encoder_calls
            self._counts.items_encoded = bank.counts.encoded
        return self._counts

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """The answers, in the questions' order."""
        numbered = [
            (replace(example, id=str(n)), None if context is None else replace(context, example_id=str(n)))
            for n, (example, context) in enumerate(questions)
        ]
        answers = dict(self.stream(numbered))
        return [answers[str(n)] for n in range(len(questions))]

    def stream(self, questions: Iterable[Question]) -> Iterator[tuple[str, Answer]]:
        """Example id and answer, in the order of answering: questions of like length go together.

        Raises:
            ImageError: an image that cannot be opened.
            ValueError: what the mode raises, a context of another example for one.
        """
        with one_ahead(self._prepared, self._batches(iter(questions))) as batches:
            for _, (examples, contexts) in batches:
                answers = self.mode.answer_batch(examples, contexts)
                yield from zip((example.id for example in examples), answers, strict=True)

    def _batches(self, questions: Iterator[Question]) -> Iterator[list[Question]]:
        while window := list(islice(questions, self.batch_size * _WINDOW)):
            window.sort(key=_length)
            for start in range(0, len(window), self.batch_size):
                yield window[start : start + self.batch_size]

    def _prepared(self, batch: list[Question]) -> tuple[list[Example], list[RetrievedContext | None]]:
        examples, contexts = open_images(
            [example for example, _ in batch],
            [context for _, context in batch],
            self.mode.opens_item_images,
        )
        self.mode.ahead(examples, contexts)
        return examples, contexts


def accelerated(mode: Mode, graphs: bool | None = None, counts: WorkCounts | None = None) -> Mode:
    """The mode on the engine's decoder, its encoder's memories kept."""
    encoder, bank = mode.settings.encoder, mode.settings.bank
    if encoder is not None and bank is None:
        bank = LiveBank(encoder)
    return mode.on(fast(mode.backbone, graphs, counts), bank=bank)


def _length(question: Question) -> int:
    """About how long the prompt is, in characters."""
    example, context = question
    return len(example.question) + sum(len(item.text) for item in (context.items if context else ()))
