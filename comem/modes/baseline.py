"""Baseline: the frozen model alone, without knowledge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from comem.backbones.base import Answer, Conversations
from comem.modes.base import Contexts, Mode
from comem.types import Example


class BaselineMode(Mode):
    """Asks the question and nothing else; contexts are ignored."""

    name: ClassVar[str] = "baseline"
    grounded: ClassVar[bool] = False

    def conversations(self, examples: Sequence[Example], contexts: Contexts) -> Conversations:
        """The question's turn alone, for each example."""
        return [[*example.turns, self.question_turn(example, False)] for example in examples]

    def answer_batch(self, examples: Sequence[Example], contexts: Contexts) -> list[Answer]:
        """As `Mode.answer_batch`; no tokens are context."""
        answers = self.generate(self.conversations(examples, contexts))
        return [replace(answer, context_tokens=0) for answer in answers]
