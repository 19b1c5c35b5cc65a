"""What every backbone offers: conversations in, answers out, with memory in front where asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, device, dtype

from comem.backbones.chat import ChatProcessor, Conversations
from comem.backbones.generation import GREEDY, PAPER_SAMPLING, GenerationConfig
from comem.backbones.keys_values import KVMemory
from comem.backbones.specs import BackboneSpec
from comem.types import Answer

#: Per row its memory `(m, d)`, or None for a row without.
Prefixes = Sequence[Tensor | None]
#: Per row keys and values for some layers, or None for a row without.
KVPrefixes = Sequence[KVMemory | None]


class Backbone(Protocol):
    """A frozen model that reads conversations."""

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
        prefixes: Prefixes | None = None,
        config: GenerationConfig = GREEDY,
        kv: KVPrefixes | None = None,
    ) -> list[Answer]:
        """Answer a batch, each conversation behind its memory: embeddings, or keys and values."""
        ...


__all__ = ["GREEDY", "PAPER_SAMPLING", "Answer", "Backbone", "GenerationConfig", "KVPrefixes", "Prefixes"]
