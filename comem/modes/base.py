"""What every mode is: a backbone, settings, and answers to a batch of questions."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeVar, get_args

from comem.backbones.base import (
    GREEDY,
    Answer,
    Backbone,
    Conversations,
    GenerationConfig,
    Injection,
    RowMemories,
    Watch,
)
from comem.memory.bank import Bank
from comem.memory.encoder import MemoryEncoder
from comem.memory.lora import adapters_off
from comem.memory.settings import HybridSettings, KVSettings
from comem.types import Example, KnowledgeItem, Message, RetrievedContext

#: "retrieval": best item first, as in training. "reversed": best item next to the question, as the
#: authors' inference has it (authors_code.md 1.4).
ItemOrder = Literal["retrieval", "reversed"]
#: The text that puts an example to a model; the boolean says whether knowledge is provided.
Ask = Callable[[Example, bool], str]
Contexts = Sequence[RetrievedContext | None]
Items = tuple[KnowledgeItem, ...]
M = TypeVar("M", bound="Mode")


def plain_question(example: Example, grounded: bool) -> str:
    """The question as it stands."""
    return example.question


@dataclass(frozen=True)
class ModeSettings:
    """What a run has; each mode takes what it needs and leaves the rest.

    Attributes:
        encoder: makes memories of items that are not in a bank; its time is part of the answers'.
        bank: memories made before, in RAM or in a store. It goes before the encoder: all items must be in
            it, unless it is a store that was opened with an encoder.
        injection: how memories reach the model; None for the mode's own way.
        ask: example to prompt text.
        generation: how answers are decoded.
        item_order: see `ItemOrder`.
        kv: what is kept of an item (vlm_as_memory).
        hybrid: which items are given in full (hybrid).
        embeddings: how many of an item's embeddings are read, the first ones; None for all (comem). For
            memories trained so (`elastic`).
        watch: sees every token as it is made, and may end rows.
    """

    encoder: MemoryEncoder | None = None
    bank: Bank | None = None
    injection: Injection | None = None
    ask: Ask = plain_question
    generation: GenerationConfig = GREEDY
    item_order: ItemOrder = "retrieval"
    kv: KVSettings = KVSettings()
    hybrid: HybridSettings = HybridSettings()
    embeddings: int | None = None
    watch: Watch | None = None

    def __post_init__(self) -> None:
        if self.item_order not in get_args(ItemOrder):
            raise ValueError(f"item_order {self.item_order!r}: give one of {', '.join(get_args(ItemOrder))}")


class Mode(ABC):
    """A way to answer questions with or without retrieved items.

    ```python
    mode = MODES["comem"](backbone, bank=bank)
    answers = mode.answer_batch(examples, contexts)
    ```

    Attributes:
        name: the mode's key in `MODES`.
        grounded: whether it uses knowledge at all.
        backbone: the frozen model that answers.
        settings: what else it was given.

    Args:
        changes: settings by name, which go before those of `settings`.
    """

    name: ClassVar[str]
    grounded: ClassVar[bool] = True

    def __init__(self, backbone: Backbone, settings: ModeSettings | None = None, **changes: Any) -> None:
        self.backbone = backbone
        self.settings = replace(settings or ModeSettings(), **changes)
        self.check()

    def on(self: M, backbone: Backbone | None = None, **changes: Any) -> M:
        """The same mode on another backbone, or with other settings."""
        return type(self)(backbone or self.backbone, self.settings, **changes)

    def check(self) -> None:
        """Refuse what the mode cannot work with.

        Raises:
            ValueError: a setting that does not go with the mode or the backbone.
        """
        return

    def refuse_undeclared(self, ability: str) -> None:
        """Refuse a backbone that no row declares where it shows itself that it cannot.

        Args:
            ability: as of `comem.memory.probe.ask_before_use`.

        Raises:
            BackboneError: names the model, what was found and the remedy.
        """
        if not self.backbone.spec.declared:
            from comem.memory.probe import ask_before_use  # here: few models need it

            ask_before_use(self.backbone, ability)

    def record(self) -> dict[str, Any]:
        """What a run folder keeps of the settings that this mode alone has."""
        return {}

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

    def conversations(self, examples: Sequence[Example], contexts: Contexts) -> Conversations:
        """What the backbone reads of each example, memory apart."""
        rows = item_lists(examples, contexts)
        return [
            [*ex.turns, self.question_turn(ex, bool(items))] for ex, items in zip(examples, rows, strict=True)
        ]

    def ahead(self, examples: Sequence[Example], contexts: Contexts) -> None:
        """Do what an `answer_batch` to come needs and the model has no part in; in any thread."""
        self.reader.ahead(self.conversations(examples, contexts))

    @cached_property
    def injection(self) -> Injection | None:
        """How memories reach the model."""
        return self.settings.injection

    @cached_property
    def reader(self) -> Backbone:
        """The backbone as the injection has it asked."""
        return self.backbone if self.injection is None else self.injection.reader(self.backbone)

    @property
    def opens_item_images(self) -> bool:
        """Whether answering opens the items' images, so that `comem.eval` opens them ahead."""
        return self.grounded

    @property
    def opens_question_images(self) -> bool:
        """Whether answering needs the questions' own images."""
        return self.reader.spec.sees_images

    def question_turn(self, example: Example, has_knowledge: bool) -> Message:
        """The user turn that asks: image, then text."""
        image = () if example.image is None else (example.image,)
        if example.video is not None:
            return Message("user", (example.video, "\n" + self.settings.ask(example, False)))
        return Message("user", (*image, self.settings.ask(example, self.grounded and has_knowledge)))

    def ordered(self, items: Items) -> Items:
        """Items, best first, in the order in which they are read."""
        return items if self.settings.item_order == "retrieval" else items[::-1]

    def generate(
        self, conversations: Conversations, memories: RowMemories | None = None, start: float | None = None
    ) -> list[Answer]:
        """Answers of the backbone as reader: adapters of an encoder that shares its weights are off.

        Args:
            conversations: one per example.
            memories: per conversation its memory, or None.
            start: when work for these answers began (`time.perf_counter`): it counts as theirs.
        """
        spent = 0.0 if start is None else (time.perf_counter() - start) / max(1, len(conversations))
        with adapters_off(self.backbone.model):
            more = {} if self.settings.watch is None else {"watch": self.settings.watch}
            answers = self.reader.generate(
                conversations, memories, self.settings.generation, self.injection, **more
            )
        return [replace(answer, seconds=answer.seconds + spent) for answer in answers]


def item_lists(examples: Sequence[Example], contexts: Contexts) -> list[Items]:
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
