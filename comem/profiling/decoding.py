"""How a batch is answered: the one place that knows the engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from comem.backbones.packing import pack_attention
from comem.backbones.soft_prefix import soft_prefix
from comem.engine.decoder import Decoder
from comem.memory.lora import adapters_off
from comem.profiling.timing import now
from comem.tables import Table

#: Whose attention and kernels a model has: transformers' own, the engine's attention alone, or all of it.
Attention = Literal["transformers", "packed", "engine"]


@dataclass(frozen=True)
class Generated:
    """What was generated.

    Attributes:
        tokens: `(b, t)`.
        first_seconds: until the first token of every row.
        seconds: until the last.
        parts: seconds of what stands before the first forward pass, by name; inside `first_seconds`.
    """

    tokens: Tensor
    first_seconds: float
    seconds: float
    parts: Mapping[str, float] = field(default_factory=dict)


class Decoding(Protocol):
    """Answers a batch with exactly so many tokens, greedily."""

    def __call__(
        self, inputs: Mapping[str, Tensor], prefixes: Sequence[Tensor | None], new_tokens: int
    ) -> Generated:
        """Inputs `(b, l)` of a processor, on the CPU; per row a memory `(m, d)` or None."""
        ...


def place(inputs: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The inputs on the device."""
    return {name: value.to(device, non_blocking=True) for name, value in inputs.items()}


class TransformersDecoding:
    """`generate` of transformers; the model's own end of answer has to be off."""

    def __init__(self, model: Any, placeholder: int) -> None:
        self.model, self.placeholder = model, placeholder

    @torch.no_grad()
    def __call__(
        self, inputs: Mapping[str, Tensor], prefixes: Sequence[Tensor | None], new_tokens: int
    ) -> Generated:
        from transformers import StoppingCriteriaList

        device = self.model.get_input_embeddings().weight.device
        stamps: list[float] = []

        def stamp(ids: Tensor, scores: Any, **_: Any) -> Tensor:
            if not stamps:
                stamps.append(now(device))
            return torch.zeros(len(ids), dtype=torch.bool, device=device)

        start = now(device)
        placed = place(inputs, device)
        with (
            adapters_off(self.model),
            soft_prefix(self.model, placed, prefixes, self.placeholder) as extended,
        ):
            tokens = self.model.generate(
                **extended,
                max_new_tokens=new_tokens,
                do_sample=False,
                stopping_criteria=StoppingCriteriaList([stamp]),
            )
        end = now(device)
        return Generated(tokens[:, -new_tokens:], stamps[0] - start, end - start)


class EngineDecoding:
    """`comem.engine`; preparing the prompt is part of the time, as if no thread had done it ahead."""

    def __init__(self, model: Any, placeholder: int) -> None:
        if not pack_attention(model):
            raise ValueError(
                "the engine comem needs a model whose attention can be packed: choose transformers"
            )
        self.decoder, self.placeholder = Decoder(model), placeholder

    def __call__(
        self, inputs: Mapping[str, Tensor], prefixes: Sequence[Tensor | None], new_tokens: int
    ) -> Generated:
        device = self.decoder.device
        start = now(device)
        sizes = [0 if prefix is None else len(prefix) for prefix in prefixes]
        prompt = self.decoder.prepare(inputs, sizes, self.placeholder)
        spent = now(device) - start
        with adapters_off(self.decoder.model):
            done = self.decoder.generate(prompt, prefixes, new_tokens)
        return Generated(done.tokens, spent + done.first_seconds, spent + done.seconds, {"prepare": spent})


@dataclass(frozen=True)
class EngineRow:
    """An engine.

    Attributes:
        make: from a model and an id that its prompts do not contain.
        attention: what it needs on the model.
        records: whether it records its steps, so that only a whole answer warms it up.
    """

    make: Callable[[Any, int], Decoding]
    attention: Attention
    records: bool = False


ENGINES: Table[EngineRow] = Table(
    "engine",
    {
        "comem": EngineRow(EngineDecoding, "engine", records=True),
        "transformers": EngineRow(TransformersDecoding, "transformers"),
    },
)
