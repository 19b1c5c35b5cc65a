"""RAG: the retrieved items themselves in the context, one user turn each, then the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from comem.backbones.base import Answer, Conversations, item_turns
from comem.modes.base import Contexts, Mode, item_lists
from comem.types import Example


class RagMode(Mode):
    """Items as turns (authors_code.md 4), in the form that the backbone's row asks for.

    Items of which the row shows nothing (images alone) have no turn.
    """

    name: ClassVar[str] = "rag"

    @property
    def opens_item_images(self) -> bool:
        """Whether the backbone's form of RAG shows images."""
        return self.backbone.spec.rag.images

    def conversations(self, examples: Sequence[Example], contexts: Contexts) -> Conversations:
        """The items' turns, then the question's, for each example."""
        form = self.backbone.spec.rag
        return [
            [
                *(turn for turn in example.turns if turn.role == "system"),
                *item_turns(form, self.ordered(items)),
                *(turn for turn in example.turns if turn.role != "system"),
                self.question_turn(example, bool(items)),
            ]
            for example, items in zip(examples, item_lists(examples, contexts), strict=True)
        ]

    def answer_batch(self, examples: Sequence[Example], contexts: Contexts) -> list[Answer]:
        """As `Mode.answer_batch`; the context counts the tokens that items add to the question's prompt."""
        conversations = self.conversations(examples, contexts)
        answers = self.generate(conversations)
        with_items = [row for row, items in enumerate(item_lists(examples, contexts)) if items]
        alone = self.reader.prompt_lengths(
            [[*examples[row].turns, conversations[row][-1]] for row in with_items]
        )
        plain = dict(zip(with_items, alone, strict=True))
        return [
            replace(answer, context_tokens=answer.prompt_tokens - plain.get(row, answer.prompt_tokens))
            for row, answer in enumerate(answers)
        ]
