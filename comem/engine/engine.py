"""A backbone that answers by the engine's decoder wherever that gives the same answer."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor

from comem.backbones.base import (
    Answer,
    Backbone,
    Conversations,
    GenerationConfig,
    Injection,
    RowMemories,
    Watch,
)
from comem.backbones.hf import NOT_A_NUMBER, HFBackbone, asked_for, stop_tokens
from comem.backbones.positions import cache_argument, pinned, with_positions
from comem.backbones.prepared import Prepared, evaluating, pack
from comem.bank.serve import LiveBank
from comem.engine.prefill import GraphPool, PackedPrompt, Passes, Prefill, Recorded, SlotCache, WorkCounts
from comem.io.images import Ahead, one_ahead, open_images
from comem.memory.injection.prefix import PREFIX
from comem.modes.base import Mode
from comem.types import Example, Message, RetrievedContext

#: Slots come in multiples of this, so that batches of like length share their buffers and graph.
_BUCKET = 256
#: Buffers that are kept; each is a graph and a cache of its own.
_KEPT = 4
#: Tokens in all kept buffers, beyond which only the newest stays: 3.7 GB at 7B in bfloat16.
_KEPT_TOKENS = 65_536
#: The most stop tokens.
_STOPS = 8
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
        stop: Sequence[int] = (), watch: Watch | None = None,
    ) -> NewTokens:  # fmt: skip
        """Answer a prepared batch.

        Args:
            prompt: what `prepare` gives.
            memories: per row its memory `(m, d)`, as many embeddings as `prepare` made room for, or None.
            max_new_tokens: the most tokens of an answer.
            stop: token ids that end a row.
            watch: sees every token as it is made, which on a GPU means to wait for each.

        Raises:
            ValueError: the model takes no packed batches, too many stop tokens, or its scores are no numbers.
        """
        if not self.prepared.packs:
            raise ValueError("the engine's decoder needs a model whose attention can be packed")
        with self.prepared:
            return self._generate(prompt, memories, max_new_tokens, stop, watch)

    def _generate(
        self, prompt: PackedPrompt, memories: Sequence[Tensor | None], max_new_tokens: int,
        stop: Sequence[int], watch: Watch | None,
    ) -> NewTokens:  # fmt: skip
        start = time.perf_counter()
        step = self._step_for(len(prompt.segments.lengths), prompt.segments.longest + max_new_tokens + 1)
        step.begin(prompt, stop)
        step.first(self._prefill(prompt, memories, step.cache, step.passes))
        self._wait()
        first_seconds = time.perf_counter() - start
        done = 1
        every = _LOOK_EVERY if self.device.type == "cuda" and watch is None else 1
        step.show(watch, len(prompt.segments.lengths))
        while done < max_new_tokens and (done % every or not step.all_ended()):
            step.advance()
            done += 1
            step.show(watch, len(prompt.segments.lengths))
        self.counts.add(forward_passes=done)
        if bool(step.nan.any()):
            raise ValueError(NOT_A_NUMBER)
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
        self.stop = torch.full((_STOPS,), -1, dtype=torch.long, device=device)
        self.nan = torch.zeros(rows, dtype=torch.bool, device=device)  # rows whose scores were no numbers
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
        self.nan.zero_()
        self.stop.fill_(-1)
        self.stop[: len(stop)] = torch.tensor(list(stop), dtype=torch.long)

    def first(self, logits: Tensor) -> None:
        """The first token of each row, from the prefill's logits `(n, v)`."""
        new = torch.full_like(self.token, self.decoder.pad_id)
        new[: len(logits)] = logits.argmax(dim=-1)
        self.nan[: len(logits)] = torch.isnan(logits).any(dim=-1)
        self._take(new)

    def all_ended(self) -> bool:
        return bool(self.ended.all())

    def show(self, watch: Watch | None, rows: int) -> None:
        """The newest token of each row to whoever watches; rows that it ends get padding from here on."""
        if watch is not None:
            ended = torch.tensor(list(watch(self.token[:rows].tolist())), dtype=torch.bool)
            self.ended[:rows].logical_or_(ended.to(self.ended.device))

    def _run(self) -> Tensor:
        """One more token a row."""
        self.mask.scatter_(1, self.cache.at[:, None], True)
        out = self.decoder.model(
            input_ids=self.token[:, None], position_ids=self.position[:, :, None],
            attention_mask=self.mask[:, None, None, :], use_cache=True,
            **{cache_argument(self.decoder.model): self.cache},
        )  # fmt: skip
        self.cache.at.add_(1)
        self.position.add_(1)
        scores = out.logits[:, -1]
        self.nan.logical_or_(torch.isnan(scores).any(dim=-1) & ~self.ended)
        self._take(scores.argmax(dim=-1))
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


_Batch = tuple[tuple[Message, ...], ...]


@dataclass(frozen=True)
class EngineBackbone(HFBackbone):
    """A backbone whose greedy answers come from `Decoder`, and all else from transformers' `generate`.

    Sampling, repetition penalties and injections that do not pack go the ordinary way, as do models whose
    attention cannot be packed, or whose generation_config.json asks for more (`comem.backbones.hf`).

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
        injection: Injection | None, watch: Watch | None = None,
    ) -> list[Answer]:  # fmt: skip
        """The same tokens as transformers' `generate`, errors as there."""
        start, decoder, injection = time.perf_counter(), self.decoder, injection or PREFIX
        greedy = config.temperature == 0 and config.repetition_penalty == 1
        if decoder is None or not greedy or not injection.packs or not self._plain:
            return super()._answer(conversations, memories, config, injection, watch)
        inputs = self._processed.take(_key(conversations))
        vectors = [self._placed(memory, injection) for memory in memories]
        prompt = decoder.prepare(inputs, [0 if m is None else len(m) for m in vectors], injection)
        with self._alone, evaluating(self.model):
            made = decoder.generate(prompt, vectors, config.max_new_tokens, stop_tokens(self.model), watch)
        texts = self.process.tokenizer.batch_decode(made.tokens, skip_special_tokens=True)
        seconds = (time.perf_counter() - start) / len(texts)
        return [
            Answer(text.strip(), 0 if memory is None else len(memory), length, seconds)
            for text, memory, length in zip(texts, vectors, prompt.segments.lengths, strict=True)
        ]

    @property
    def _plain(self) -> bool:
        """Whether the model's own generation config asks for nothing that the decoder does not do."""
        return len(stop_tokens(self.model)) <= _STOPS and not asked_for(self.model)


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
