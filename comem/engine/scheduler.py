"""The engine: a stream of questions in, answers out, at the cost of answering without knowledge."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from comem.backbones.base import Answer
from comem.bank.serve import LiveBank
from comem.engine.backbone import fast
from comem.engine.prefill import WorkCounts
from comem.io.prefetch import one_ahead, open_images
from comem.modes.base import Mode
from comem.types import Example, RetrievedContext

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
