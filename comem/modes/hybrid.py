"""Hybrid context: the best items as text and image, the others as memory, within a budget of tokens."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from comem.backbones.base import Answer, Conversations, RowMemories, item_turns
from comem.backbones.positions import fresh_positions, with_token_types
from comem.backbones.prepared import evaluating
from comem.memory.lora import adapters_off
from comem.modes.base import Contexts, Items, item_lists
from comem.modes.comem import ComemMode
from comem.types import Example, Message


class HybridMode(ComemMode):
    """The first `full` items as RAG gives them, the rest as the comem mode does.

    With `unsure`, items are given in full only for questions of which the model, with all items as memory,
    is unsure: its first token is less probable than that. The others are answered from memory alone.
    """

    name: ClassVar[str] = "hybrid"

    def record(self) -> dict[str, Any]:
        """As the comem mode, and how items are divided."""
        return {**super().record(), "hybrid": asdict(self.settings.hybrid)}

    @property
    def opens_item_images(self) -> bool:
        """Whether items given in full show theirs, or the bank opens them."""
        return self.backbone.spec.rag.images or super().opens_item_images

    def answer_batch(self, examples: Sequence[Example], contexts: Contexts) -> list[Answer]:
        """As `Mode.answer_batch`; the context counts memories and the tokens of items given in full.

        The look at what the model is sure of counts as time of the answers.
        """
        start = time.perf_counter()
        rows = item_lists(examples, contexts)
        shown = [self.fitting(example, items) for example, items in zip(examples, rows, strict=True)]
        if self.settings.hybrid.unsure:
            shown = self._where_unsure(examples, rows, shown)
        beside = [self._beside(items, len(full)) for items, full in zip(rows, shown, strict=True)]
        memories = self.memories(beside)
        memories = self._within(memories, examples, shown)
        conversations = [
            self.conversation(example, items, full)
            for example, items, full in zip(examples, rows, shown, strict=True)
        ]
        answers = self.generate(conversations, self._with_images(memories, examples), start)
        added = self._added(conversations, examples, shown)
        return [
            replace(answer, context_tokens=more + (0 if memory is None else len(memory)))
            for answer, more, memory in zip(answers, added, memories, strict=True)
        ]

    def conversations(self, examples: Sequence[Example], contexts: Contexts) -> Conversations:
        """As `Mode.conversations`, with the items that would be given in full."""
        rows = item_lists(examples, contexts)
        return [
            self.conversation(example, items, self.fitting(example, items))
            for example, items in zip(examples, rows, strict=True)
        ]

    def conversation(self, example: Example, items: Items, full: Items) -> list[Message]:
        """System turn, items in full, what was said before, the question."""
        return [
            *(turn for turn in example.turns if turn.role == "system"),
            *item_turns(self.backbone.spec.rag, self.ordered(full)),
            *(turn for turn in example.turns if turn.role != "system"),
            self.question_turn(example, bool(items)),
        ]

    def fitting(self, example: Example, items: Items) -> Items:
        """The items to give in full: the best, as many as the settings say and the budget holds."""
        hybrid = self.settings.hybrid
        full = items[: hybrid.full]
        if not hybrid.budget:
            return full
        for count in range(len(full), 0, -1):
            tokens = self._added([self.conversation(example, items, full[:count])], [example], [full[:count]])
            if tokens[0] + self._vectors * len(self._beside(items, count)) <= hybrid.budget:
                return full[:count]
        return ()

    def _beside(self, items: Items, full: int) -> Items:
        """What is given as memory beside so many items in full."""
        return () if full and self.settings.hybrid.alone else items[full:]

    @property
    def _vectors(self) -> int:
        """About how many vectors an item's memory has."""
        encoder = self.settings.encoder
        return self.settings.embeddings or (encoder.num_vectors if encoder is not None else None) or 8

    def _within(
        self, memories: Sequence[Tensor | None], examples: Sequence[Example], shown: Sequence[Items]
    ) -> list[Tensor | None]:
        """Memories cut to what the budget leaves, the best items' kept."""
        budget = self.settings.hybrid.budget
        if not budget:
            return list(memories)
        conversations = [self.conversation(ex, full, full) for ex, full in zip(examples, shown, strict=True)]
        left = [max(0, budget - more) for more in self._added(conversations, examples, shown)]
        first = self.settings.item_order == "retrieval"
        return [
            None if memory is None or not room else memory[:room] if first else memory[-room:]
            for memory, room in zip(memories, left, strict=True)
        ]

    def _added(
        self, conversations: Conversations, examples: Sequence[Example], shown: Sequence[Items]
    ) -> list[int]:
        """How many tokens the items in full add to each prompt."""
        rows = [row for row, full in enumerate(shown) if full]
        if not rows:
            return [0] * len(shown)
        given = self.reader.prompt_lengths([conversations[row] for row in rows])
        plain = self.reader.prompt_lengths([[*examples[row].turns, conversations[row][-1]] for row in rows])
        found = dict(zip(rows, (a - b for a, b in zip(given, plain, strict=True)), strict=True))
        return [found.get(row, 0) for row in range(len(shown))]

    def _where_unsure(
        self, examples: Sequence[Example], rows: Sequence[Items], shown: Sequence[Items]
    ) -> list[Items]:
        """What is given in full, of the questions that memory alone does not settle."""
        memories = self._with_images(self.memories(rows), examples)
        conversations = [
            self.conversation(example, items, ()) for example, items in zip(examples, rows, strict=True)
        ]
        sure = self.first_probability(conversations, memories)
        return [
            full if probability < self.settings.hybrid.unsure else ()
            for full, probability in zip(shown, sure.tolist(), strict=True)
        ]

    @torch.no_grad()
    def first_probability(self, conversations: Conversations, memories: RowMemories) -> Tensor:
        """The probability of each answer's likeliest first token `(b,)`, in one pass of the model."""
        backbone, found = self.backbone, torch.empty(len(conversations))
        model: Any = backbone.model
        for rows in backbone.process.groups(conversations) if conversations else ():
            inputs = backbone.place(backbone.process([conversations[row] for row in rows]))
            given = [memories[row] for row in rows]
            with ExitStack() as stack:
                stack.enter_context(adapters_off(model))
                stack.enter_context(evaluating(model))
                if all(memory is None for memory in given):
                    stack.enter_context(fresh_positions(model))
                    inputs = with_token_types(model, inputs)
                else:
                    placed = [m if m is None else m.to(backbone.device, backbone.dtype) for m in given]
                    inputs = stack.enter_context(self.injection.attach(model, inputs, placed))
                logits = model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1]  # (b, v)
            found[list(rows)] = logits.float().softmax(-1).amax(-1).cpu()
        return found
