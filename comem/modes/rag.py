"""RAG: the retrieved items themselves in the context, one user turn each, then the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from comem.backbones.base import Answer
from comem.modes.base import Contexts, Mode, image_and_text, item_lists
from comem.types import Example, KnowledgeItem, Message


@dataclass(frozen=True)
class RagMode(Mode):
    """Items as turns of image and passage (authors_code.md 4), in the form that the backbone's row asks for.

    Attributes:
        passage_first: passage before image in an item's turn, as the authors' inference has it.
        reverse: best item last, next to the question.
    """

    name: ClassVar[str] = "rag"
    grounded: ClassVar[bool] = True

    passage_first: bool = False
    reverse: bool = False

    def answer_batch(self, examples: Sequence[Example], contexts: Contexts) -> list[Answer]:
        rows = item_lists(examples, contexts)
        questions = [self.question_turn(ex, bool(items)) for ex, items in zip(examples, rows, strict=True)]
        answers = self.generate(
            [[*map(self.item_turn, items[:: -1 if self.reverse else 1]), question]
             for items, question in zip(rows, questions, strict=True)]
        )
        alone = self._question_tokens(questions, [bool(items) for items in rows])
        return [
            replace(answer, context_tokens=answer.prompt_tokens - tokens if items else 0)
            for answer, tokens, items in zip(answers, alone, rows, strict=True)
        ]

    def item_turn(self, item: KnowledgeItem) -> Message:
        """One item as a user turn."""
        spec = self.backbone.spec
        image = item.image if spec.rag_format == "item_turns" else None
        text = item.text[: spec.passage_chars]
        return Message("user", image_and_text(image, text, self.passage_first))

    def _question_tokens(self, questions: Sequence[Message], wanted: Sequence[bool]) -> list[int]:
        """Prompt length of each question without items; 0 where it is not wanted."""
        asked = [[question] for question, want in zip(questions, wanted, strict=True) if want]
        lengths = iter(self.backbone.process(asked)["attention_mask"].sum(dim=1).tolist() if asked else [])
        return [next(lengths) if want else 0 for want in wanted]
