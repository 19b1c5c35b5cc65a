"""What every backbone offers: conversations in, answers out, and memories put before it by an injection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor, device, dtype

from comem.backbones.chat import ChatProcessor, Conversations
from comem.backbones.generation import GREEDY, PAPER_SAMPLING, GenerationConfig
from comem.backbones.specs import BackboneSpec
from comem.types import Answer

#: Per row its memory, of the kind that the injection takes, or None for a row without.
RowMemories = Sequence[Any | None]


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


__all__ = ["GREEDY", "PAPER_SAMPLING", "Answer", "Backbone", "GenerationConfig", "Injection", "RowMemories"]
