"""What every mode is: a backbone, a way to ask, and answers to a batch of questions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from comem.backbones.base import GREEDY, Answer, Backbone, GenerationConfig, KVPrefixes, Prefixes
from comem.backbones.chat import Conversations
from comem.memory.lora import adapters_off
from comem.types import Example, KnowledgeItem, Message, RetrievedContext

#: "retrieval": best item first, as in training. "reversed": best item next to the question, as the
#: authors' inference has it (authors_code.md 1.4).
ItemOrder = Literal["retrieval", "reversed"]
#: The text that puts an example to a model; the boolean says whether knowledge is provided.
Ask = Callable[[Example, bool], str]
Contexts = Sequence[RetrievedContext | None]


def plain_question(example: Example, grounded: bool) -> str:
    """The question as it stands."""
    return example.question


@dataclass(frozen=True)
class Mode(ABC):
    """A way to answer questions with or without retrieved items.

    Attributes:
        name: the mode's key in `MODES`.
        grounded: whether it uses knowledge at all.
        backbone: the frozen model that answers.
        ask: example to prompt text.
        generation: how answers are decoded.
    """

    name: ClassVar[str]
    grounded: ClassVar[bool]

    backbone: Backbone
    ask: Ask = plain_question
    generation: GenerationConfig = GREEDY

    @abstractmethod
    def answer_batch(self, examples: Sequence[Example], contexts: Contexts) -> list[Answer]:
        """Answer a batch.

        Args:
            examples: the questions.
            contexts: per question its retrieved items, or None; a baseline ignores them.

        Returns:
            One answer per example, in their order.

        Raises:
            ValueError: contexts that do not belong to the examples.
        """

    @abstractmethod
    def conversations(self, examples: Sequence[Example], contexts: Contexts) -> Conversations:
        """What the backbone reads of each example, memory apart."""

    def ahead(self, examples: Sequence[Example], contexts: Contexts) -> None:
        """Do what an `answer_batch` to come needs and the model has no part in; in any thread."""
        self.backbone.ahead(self.conversations(examples, contexts))

    @property
    def opens_item_pictures(self) -> bool:
        """Whether answering opens the items' pictures, so that `comem.eval` opens them ahead."""
        return self.grounded

    @property
    def opens_question_pictures(self) -> bool:
        """Whether answering needs the questions' own pictures."""
        return self.backbone.spec.sees_images

    def question_turn(self, example: Example, has_knowledge: bool) -> Message:
        """The user turn that asks: image, then text."""
        image = () if example.image is None else (example.image,)
        return Message("user", (*image, self.ask(example, self.grounded and has_knowledge)))

    def generate(
        self, conversations: Conversations, prefixes: Prefixes | None = None, kv: KVPrefixes | None = None
    ) -> list[Answer]:
        """Answers of the backbone as reader: adapters of an encoder that shares its weights are off."""
        with adapters_off(self.backbone.model):
            return self.backbone.generate(conversations, prefixes, self.generation, kv)


def item_lists(examples: Sequence[Example], contexts: Contexts) -> list[tuple[KnowledgeItem, ...]]:
    """Per example its items, each once, best first.

    Raises:
        ValueError: another number of contexts than of examples, or a context of another example.
    """
    if len(examples) != len(contexts):
        raise ValueError(f"{len(contexts)} contexts for {len(examples)} examples: one each, None for none")
    for example, context in zip(examples, contexts, strict=True):
        if context is not None and context.example_id != example.id:
            raise ValueError(
                f"the context of {context.example_id!r} was given for example {example.id!r}: "
                "match retrieval results to questions by id"
            )
    return [
        () if context is None else tuple({item.id: item for item in context.items}.values())
        for context in contexts
    ]


def check_order(order: str) -> None:
    """Refuse an item order that does not exist."""
    if order not in get_args(ItemOrder):
        raise ValueError(f"item_order {order!r}: give one of {', '.join(get_args(ItemOrder))}")
