"""How a batch is answered: the one place that knows the engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from comem.backbones.soft_prefix import reserved_id, soft_prefix
from comem.memory.lora import adapters_off
from comem.profiling.timing import now
from comem.tables import Table


@dataclass(frozen=True)
class Generated:
    """What was generated.

    Attributes:
        tokens: `(b, t)`.
        first_seconds: until the first token of every row.
        seconds: until the last.
    """

    tokens: Tensor
    first_seconds: float
    seconds: float


class Decoding(Protocol):
    """Answers a batch with exactly so many tokens, greedily."""

    def __call__(
        self, inputs: Mapping[str, Tensor], prefixes: Sequence[Tensor | None], new_tokens: int
    ) -> Generated:
        """Inputs `(b, l)` of a processor; per row a memory `(m, d)` or None."""
        ...


class TransformersDecoding:
    """`generate` of transformers; the model's own end of answer has to be off."""

    def __init__(self, model: Any, placeholder: int) -> None:
        self.model, self.placeholder = model, placeholder

    @torch.no_grad()
    def __call__(
        self, inputs: Mapping[str, Tensor], prefixes: Sequence[Tensor | None], new_tokens: int
    ) -> Generated:
        from transformers import StoppingCriteriaList

        device = inputs["input_ids"].device
        stamps: list[float] = []

        def stamp(ids: Tensor, scores: Any, **_: Any) -> Tensor:
            if not stamps:
                stamps.append(now(device))
            return torch.zeros(len(ids), dtype=torch.bool, device=device)

        start = now(device)
        with (
            adapters_off(self.model),
            soft_prefix(self.model, inputs, prefixes, self.placeholder) as extended,
        ):
            tokens = self.model.generate(
                **extended,
                max_new_tokens=new_tokens,
                do_sample=False,
                stopping_criteria=StoppingCriteriaList([stamp]),
            )
        end = now(device)
        return Generated(tokens[:, -new_tokens:], stamps[0] - start, end - start)


def _transformers(model: Any, words: Tensor) -> Decoding:
    return TransformersDecoding(model, reserved_id(model, words))


#: Engine to how it is made from a model and the ids that its prompts use.
ENGINES: Table[Callable[[Any, Tensor], Decoding]] = Table("engine", {"transformers": _transformers})
