"""What every backbone offers: conversations in, answers out, with memory in front where asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor, device, dtype, nn

from comem.backbones.specs import BackboneSpec
from comem.types import Message


@dataclass(frozen=True)
class GenerationConfig:
    """How an answer is decoded; greedy by default, equally in all modes.

    Attributes:
        max_new_tokens: the longest answer, in tokens.
        temperature: 0 means greedy; otherwise sampling.
        top_p: sample from the smallest set of tokens with this much probability.
        repetition_penalty: 1 means none.
        seed: for sampling; each batch starts from it.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}: give at least 1")
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}: give 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}: give a number in (0, 1]")
        if self.repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty is {self.repetition_penalty}: give 1 (none) or more")


#: What the authors' CoMEM inference uses (authors' public code; ../shared/reference/authors_code.md 4).
PAPER_SAMPLING = GenerationConfig(max_new_tokens=1000, temperature=0.1, top_p=0.001, repetition_penalty=1.05)


@dataclass(frozen=True)
class Answer:
    """What a backbone said and what it cost.

    Attributes:
        text: the answer without special tokens.
        context_tokens: positions that knowledge adds to the plain question: memory or item turns.
        prompt_tokens: all positions in front of the answer, padding not counted.
        seconds: wall-clock of its batch, divided by the batch's size.
    """

    text: str
    context_tokens: int
    prompt_tokens: int
    seconds: float


class Backbone(Protocol):
    """A frozen model that reads conversations."""

    @property
    def spec(self) -> BackboneSpec: ...

    @property
    def model(self) -> nn.Module: ...

    @property
    def processor(self) -> Any: ...

    @property
    def hidden_size(self) -> int: ...

    @property
    def device(self) -> device: ...

    @property
    def dtype(self) -> dtype: ...

    def process(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        add_generation_prompt: bool = True,
        padding_side: Literal["left", "right"] = "left",
    ) -> dict[str, Tensor]:
        """Render, tokenize and batch: every `(b, l)` tensor and the pixels, on the CPU."""
        ...

    def generate(
        self,
        conversations: Sequence[Sequence[Message]],
        prefixes: Sequence[Tensor | None] | None = None,
        config: GenerationConfig = GenerationConfig(),  # noqa: B008 (frozen)
    ) -> list[Answer]:
        """Answer a batch; `prefixes` are `(m, d)` per row, or None for a row without memory."""
        ...
