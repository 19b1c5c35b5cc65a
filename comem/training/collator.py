"""Examples to tensors: real batches of questions with different numbers of knowledge items."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from comem.backbones.chatml import IGNORED as IGNORED
from comem.backbones.chatml import answer_labels as answer_labels
from comem.io.images import why_not
from comem.training.data import TrainingExample, fillers, kinds
from comem.types import ImageRef, KnowledgeItem, Message

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Plain:
    """What the reader reads without items: for questions that learn what it says then, instead of the answer.

    Attributes:
        inputs: the reader's inputs for t questions, `labels` among them.
        rows: which questions of the batch these are, t of them, ascending.
    """

    inputs: Mapping[str, Tensor]
    rows: tuple[int, ...]


@dataclass(frozen=True)
class TrainingBatch:
    """What one forward pass needs.

    Attributes:
        ids: the questions' ids, b of them.
        question: the reader's inputs, `(b, l)` tensors left-padded, `labels` among them; images.
        items: the encoder's inputs for the n different items (and images) of all questions; empty for none.
        rows: for each question the rows of its items among the n, best first; behind them its own images',
            for a reader that sees none. A filler (`comem.training.data`) comes last; it has rows, but no
            id and no label.
        skipped: what could not be read, one message each.
        embeddings: for each question how many of an item's embeddings it gets, 0 for all; empty: all get all.
        plain: the questions that learn what the reader says without items; None where all learn answers.
        vectors: of each item's memory, from an encoder that writes any number; 0 for its own.
    """

    ids: tuple[str, ...]
    question: Mapping[str, Tensor]
    items: Mapping[str, Tensor]
    rows: tuple[tuple[int, ...], ...]
    skipped: tuple[str, ...] = ()
    embeddings: tuple[int, ...] = ()
    plain: Plain | None = None
    vectors: int = 0

    @property
    def answer_tokens(self) -> int:
        """How many tokens the loss is taken over; the first column has no predecessor."""
        return int((self.question["labels"][:, 1:] != IGNORED).sum()) if self.ids else 0

    @property
    def answer_weight(self) -> float:
        """What these tokens count together."""
        if not self.ids or "weights" not in self.question:
            return float(self.answer_tokens)
        learned = self.question["labels"][:, 1:] != IGNORED
        return float(self.question["weights"][:, 1:][learned].sum())

    def to(self, device: torch.device | str) -> TrainingBatch:
        """The batch on another device."""
        question, items = _moved(self.question, device), _moved(self.items, device)
        plain = self.plain and Plain(_moved(self.plain.inputs, device), self.plain.rows)
        return dataclasses.replace(self, question=question, items=items, plain=plain)


def _moved(tensors: Mapping[str, Tensor], device: torch.device | str) -> Tensors:
    return {name: t.to(device, non_blocking=True) for name, t in tensors.items()}


@dataclass(frozen=True)
class Collator:
    """Makes a `TrainingBatch` of examples.

    Images are opened when they are needed. An item that the encoder cannot read (its image does not open,
    nothing is left of its text) is skipped and the next best takes its place; a question without a readable
    item stays, without memory; a question that the reader cannot (its own image, its length, a dialogue that
    the template does not write) is left out. Each is reported in `TrainingBatch.skipped`. Which these are is
    a matter of the record alone, so that a resumed run leaves out the same.

    Attributes:
        process: dialogues → the reader's inputs (the backbone's `process`).
        process_items: items and questions' images → the encoder's inputs.
        tokenizer: for the labels.
        max_items: items per question.
        max_tokens: longest dialogue, in tokens.
        labels: dialogues and their ids → labels; None: Qwen's ChatML (`answer_labels`).
        weights: dialogues, their ids and values → what each token counts; None: all alike.
        opening: turns before each dialogue, of the system.
        image_memory: the images of a question become memories behind its items' (all in front of the
            dialogue), because the reader sees none.
    """

    process: Callable[[Sequence[Sequence[Message]]], Mapping[str, Any]]
    process_items: Callable[..., Mapping[str, Any]]
    tokenizer: Any
    max_items: int = 3
    max_tokens: int = 32768
    image_memory: bool = False
    labels: Callable[[Sequence[Sequence[Message]], Tensor], Tensor] | None = None
    weights: Callable[[Sequence[Sequence[Message]], Tensor, Sequence[Sequence[str]]], Tensor] | None = None
    opening: tuple[Message, ...] = ()

    def __call__(
        self, examples: Sequence[TrainingExample], held: frozenset[str] = frozenset()
    ) -> TrainingBatch:
        """The batch of these examples; without questions if none can be read.

        Args:
            examples: of the batch, in order.
            held: the kinds that it has to hold, whatever can be read (`comem.training.data`).
        """
        try:
            return self._build(examples, (), held)
        except ValueError:  # rare, so nothing is read twice only to look for it
            kept, skipped = self.readable(examples)
            if not skipped:  # nobody's fault
                raise
            if kept or held:
                return self._build(kept, skipped, held)
            return TrainingBatch((), {}, {}, (), skipped)

    def readable(self, examples: Sequence[TrainingExample]) -> tuple[list[TrainingExample], tuple[str, ...]]:
        """The examples that can be read, each with its best readable items; and what was left out.

        Raises:
            ValueError: a plain question with a plain item cannot be read either: a fault of the settings.
        """
        for plain in fillers(kinds(examples, self.max_items)):
            self._question([plain])
            if plain.items:
                self.process_items(plain.items, question_images=[])
        kept, skipped, known = [], list[str](), dict[KnowledgeItem, str]()
        for example in examples:
            if why := self._fault(example):
                skipped.append(f"question {example.id}: {why}")
                continue
            items: list[KnowledgeItem] = []
            for item in example.items:
                if len(items) == self.max_items:
                    break
                if item not in known:
                    known[item] = self._item_fault(item)
                if why := known[item]:
                    skipped.append(f"item {item.id} of question {example.id}: {why}")
                else:
                    items.append(item)
            kept.append(dataclasses.replace(example, items=tuple(items)))
        return kept, tuple(skipped)

    def _fault(self, example: TrainingExample) -> str:
        """Why the reader cannot read a question; empty if it can."""
        if broken := [why for image in example.images if (why := why_not(image))]:
            return broken[0]
        try:
            self._check_length([example.id], self._question([example]))
        except ValueError as error:
            return str(error)
        return ""

    def _item_fault(self, item: KnowledgeItem) -> str:
        """Why the encoder cannot read an item; empty if it can."""
        if item.image is not None and (why := why_not(item.image)):
            return why
        try:
            self.process_items([item], question_images=[])
        except ValueError as error:
            return str(error)
        return ""

    def batches(self, examples: Sequence[TrainingExample]) -> list[TrainingBatch]:
        """What one micro-batch of examples becomes: one batch."""
        return [self(examples)]

    def _build(
        self, examples: Sequence[TrainingExample], skipped: tuple[str, ...], held: frozenset[str]
    ) -> TrainingBatch:
        ids = tuple(example.id for example in examples)
        examples = [*examples, *fillers(held - kinds(examples, self.max_items))]
        order: dict[KnowledgeItem | ImageRef, int] = {}  # items first, then questions' images
        items = [_places(order, example.items[: self.max_items]) for example in examples]
        count = len(order)
        shown = [_places(order, example.images if self.image_memory else ()) for example in examples]
        read = list(order)
        question = self._question(examples)
        self._check_length(ids, question)
        question["labels"][len(ids) :] = IGNORED
        return TrainingBatch(
            ids=ids,
            question=question,
            items=dict(self.process_items(read[:count], question_images=read[count:])) if read else {},
            rows=tuple(mine + own for mine, own in zip(items, shown, strict=True)),
            skipped=skipped,
            embeddings=tuple(example.lesson.embeddings for example in examples),
            plain=self._plain(examples, len(ids)),
        )

    def _question(self, examples: Sequence[TrainingExample]) -> Tensors:
        """The reader's inputs, `labels` among them."""
        chats = [[*self.opening, *example.messages()] for example in examples]
        inputs = dict(self.process(chats))
        if self.labels is None:
            inputs["labels"] = answer_labels(inputs["input_ids"], self.tokenizer)
        else:
            inputs["labels"] = self.labels(chats, inputs["input_ids"])
        if self.weights is not None and any(example.values for example in examples):
            inputs["weights"] = self.weights(chats, inputs["input_ids"], [e.values for e in examples])
        return inputs

    def _plain(self, examples: Sequence[TrainingExample], real: int) -> Plain | None:
        """The questions that learn what the reader says without items; None if none does.

        Args:
            examples: of the batch, in order.
            real: so many of the examples are no fillers.
        """
        rows = tuple(row for row, example in enumerate(examples) if example.lesson.plain)
        if not rows:
            return None
        inputs = self._question([examples[row] for row in rows])
        inputs["labels"][sum(row < real for row in rows) :] = IGNORED
        return Plain(inputs, rows)

    def _check_length(self, ids: Sequence[str], question: Mapping[str, Tensor]) -> None:
        lengths = question["attention_mask"].sum(dim=1).tolist()
        for identifier, length in zip(ids, lengths, strict=False):  # a filler has no id
            if length > self.max_tokens:
                raise ValueError(
                    f"the example {identifier!r} has {length} tokens, above max_tokens={self.max_tokens} "
                    "(at most the model's context); shorten it, use smaller images, or raise max_tokens"
                )


def _places(order: dict[Any, int], wanted: Sequence[Any]) -> tuple[int, ...]:
    """The rows of what is wanted; what is new goes to the end of `order`."""
    return tuple(order.setdefault(one, len(order)) for one in wanted)
