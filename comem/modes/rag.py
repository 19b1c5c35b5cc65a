"""RAG: the retrieved items themselves in the context, one user turn each, then the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from comem.backbones.base import Answer
from comem.backbones.chat import Conversations, item_turns
from comem.modes.base import Contexts, ItemOrder, Mode, check_order, item_lists
from comem.types import Example, KnowledgeItem, Message


@dataclass(frozen=True)
class RagMode(Mode):
    """Items as turns (authors_code.md 4), in the form that the backbone's row asks for.

    Attributes:
        item_order: "retrieval" puts the best item first, "reversed" next to the question.
    """

    name: ClassVar[str] = "rag"
    grounded: ClassVar[bool] = True

    item_order: ItemOrder = "retrieval"

    def __post_init__(self) -> None:
        check_order(self.item_order)

    @property
    def opens_item_pictures(self) -> bool:
        return self.backbone.spec.rag.images

    def conversations(self, examples: Sequence[Example], contexts: Contexts) -> Conversations:
        rows = item_lists(examples, contexts)
        return [
            [*self.item_turns(items), self.question_turn(example, bool(items))]
            for example, items in zip(examples, rows, strict=True)
        ]

    def answer_batch(self, examples: Sequence[Example], contexts: Contexts) -> list[Answer]:
        rows = item_lists(examples, contexts)
        conversations = self.conversations(examples, contexts)
        answers = self.generate(conversations)
        questions = [conversation[-1] for conversation in conversations]
        alone = self._question_tokens(questions, [bool(items) for items in rows])
        return [
            replace(answer, context_tokens=answer.prompt_tokens - tokens if items else 0)
            for answer, tokens, items in zip(answers, alone, rows, strict=True)
        ]

    def item_turns(self, items: Sequence[KnowledgeItem]) -> list[Message]:
        """One user turn per item; items of which the row shows nothing (pictures alone) have none."""
        step = 1 if self.item_order == "retrieval" else -1
        return item_turns(self.backbone.spec.rag, items[::step])

    def _question_tokens(self, questions: Sequence[Message], wanted: Sequence[bool]) -> list[int]:
        """Prompt length of each question without items; 0 where it is not wanted."""
        asked = [[question] for question, want in zip(questions, wanted, strict=True) if want]
        lengths = iter(self.backbone.prompt_lengths(asked))
        return [next(lengths) if want else 0 for want in wanted]
