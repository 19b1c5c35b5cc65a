"""What every backbone offers: conversations in, answers out, and memories put before it by an injection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor, device, dtype

from comem.backbones.chat import ChatProcessor, Conversations
from comem.backbones.specs import BackboneSpec
from comem.types import Answer

#: Per row its memory, of the kind that the injection takes, or None for a row without.
RowMemories = Sequence[Any | None]


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

    def arguments(self) -> dict[str, Any]:
        """Arguments of transformers' `generate`: all of them, because hub models bring sampling defaults."""
        sampling = self.temperature > 0
        return {
            "max_new_tokens": self.max_new_tokens,
            "do_sample": sampling,
            "temperature": self.temperature if sampling else 1.0,  # 1.0, 50: unset, in transformers
            "top_p": self.top_p if sampling else 1.0,
            "top_k": 0 if sampling else 50,
            "repetition_penalty": self.repetition_penalty,
            "num_beams": 1,
        }


GREEDY = GenerationConfig()
#: What the authors' CoMEM inference uses (authors' public code; ../shared/reference/authors_code.md 4).
PAPER_SAMPLING = GenerationConfig(max_new_tokens=1000, temperature=0.1, top_p=0.001, repetition_penalty=1.05)


class Injection(Protocol):
    """How memories reach a model that is not changed; its kinds are in `comem.memory.injection`.

    A kind subclasses this, says what it can do in the fields, and defines `attach`.

    Attributes:
        takes: what a memory is: "vectors" `(m, d)`, or "keys_values" of some layers (`KVMemory`).
        in_sequence: whether a memory takes positions of the prompt.
        packs: whether the engine may take part: it then asks for `room`, and fills the positions itself.
    """

    takes: Literal["vectors", "keys_values"] = "vectors"
    in_sequence: bool = True
    packs: bool = False

    @property
    def name(self) -> str:
        """Its row in `INJECTIONS`."""
        ...

    def attach(
        self, model: Any, inputs: Mapping[str, Any], memories: RowMemories
    ) -> AbstractContextManager[dict[str, Any]]:
        """Put memories before the model in every call that is made while the context is open.

        Gradients flow into the memories. Nothing is left on the model, even after an error.

        Args:
            model: a causal model of transformers.
            inputs: ids, mask, pixels, labels … as a processor returns them, `(b, l)`, on the model's device.
            memories: per row of the batch its memory, or None.

        Returns:
            A context that yields what the model is to be called with instead of `inputs`.
        """
        ...

    def room(
        self, model: Any, inputs: Mapping[str, Any], sizes: Sequence[int]
    ) -> tuple[dict[str, Any], Tensor, int]:
        """What `attach` yields, for memories that are not there yet; asked for only if `packs`.

        Args:
            sizes: embeddings of each row's memory.

        Returns:
            The inputs, the memory's positions `(b, L)`, bool, and the id that `input_ids` hold there.
        """
        fault = f"the injection {self.name} does not pack"
        raise NotImplementedError(fault)

    def check(self, spec: BackboneSpec) -> None:
        """Refuse a model that cannot take such memories.

        Raises:
            BackboneError: names the model and the remedy.
        """

    def reader(self, backbone: Backbone) -> Backbone:
        """The backbone as this injection has it asked; itself unless the injection writes questions anew."""
        return backbone


class Backbone(Protocol):
    """A frozen model that reads conversations.

    Attributes:
        accelerates: whether the engine can take its place.
    """

    accelerates: ClassVar[bool] = False

    @property
    def spec(self) -> BackboneSpec: ...

    @property
    def model(self) -> Any: ...

    @property
    def processor(self) -> Any: ...

    @property
    def hidden_size(self) -> int: ...

    @property
    def device(self) -> device: ...

    @property
    def dtype(self) -> dtype: ...

    @property
    def process(self) -> ChatProcessor:
        """Renders, tokenizes and batches."""
        ...

    def place(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Inputs on the model's device, pixels in its dtype."""
        ...

    def prompt_lengths(self, conversations: Conversations) -> list[int]:
        """Positions of each prompt, padding not counted."""
        ...

    def ahead(self, conversations: Conversations) -> None:
        """Prepare a `generate` to come, in any thread; may do nothing."""
        ...

    def generate(
        self,
        conversations: Conversations,
        memories: RowMemories | None = None,
        config: GenerationConfig = GREEDY,
        injection: Injection | None = None,
    ) -> list[Answer]:
        """Answer a batch, each conversation with its memory, which the injection puts before the model."""
        ...
