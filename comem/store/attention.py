"""How much an answer attended to each memory: one more pass, in which attention gives its weights away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from comem.backbones.base import Backbone, Injection
from comem.backbones.positions import attention, memory_layers
from comem.memory.injection.keys_values import eager_attention
from comem.memory.lora import adapters_off
from comem.types import Message


def attended(
    backbone: Backbone, injection: Injection, conversation: Sequence[Message], memories: Sequence[Tensor],
    answer: str,
) -> list[float] | None:  # fmt: skip
    """The share of all attention that each memory got while the answer was made.

    The mean over layers, heads and the positions that predicted the answer's tokens; what is missing to 1
    went to the question and to the answer itself. It says where the model looked, not what moved it.

    Args:
        backbone: the reader.
        injection: how the memories reached it.
        conversation: what it was asked.
        memories: `(q, d)` of each item, in the order in which they were put before the model.
        answer: what it said.

    Returns:
        One number a memory; None for an injection that takes no positions of the prompt, or a model whose
        layers do not give their weights.
    """
    if not injection.packs or not memories:
        return None
    inputs = _answered(backbone, conversation, answer)
    model, sizes = backbone.model, [len(memory) for memory in memories]
    joined = torch.cat(list(memories)).to(backbone.device, backbone.dtype)
    spoken = int(inputs.pop("_spoken"))
    with torch.no_grad(), adapters_off(model):
        _, where, _ = injection.room(model, inputs, [sum(sizes)])
        with injection.attach(model, inputs, [joined]) as extended, _weights(model, spoken) as seen:
            model(**extended, use_cache=False)
    if not seen:
        return None
    mean = torch.stack(seen).mean(dim=0).cpu()  # (l,)
    return [float(part.sum()) for part in torch.split(mean[where[0].cpu()], sizes)]


def _answered(backbone: Backbone, conversation: Sequence[Message], answer: str) -> dict[str, Any]:
    """The question's inputs with the answer's tokens behind them, and how many positions predict these."""
    inputs: dict[str, Any] = dict(backbone.place(backbone.process([conversation])))
    ids = backbone.process.tokenizer(answer, add_special_tokens=False, return_tensors="pt")["input_ids"]
    ids = ids.long().to(backbone.device)
    shape = inputs["input_ids"].shape
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.shape == shape:
            fill = ids if name == "input_ids" else torch.full_like(ids, int(name == "attention_mask"))
            inputs[name] = torch.cat([value, fill.to(value.dtype)], dim=1)
    return {**inputs, "_spoken": ids.shape[1]}


@contextmanager
def _weights(model: Any, spoken: int) -> Iterator[list[Tensor]]:
    """Of each layer the mean weights `(l,)` of the positions that predict the answer."""
    seen: list[Tensor] = []
    asked = slice(-spoken - 1, -1) if spoken else slice(-1, None)

    def look(_: nn.Module, __: Any, output: Any) -> None:
        weights = output[1] if isinstance(output, tuple) else None
        if weights is not None:  # (1, heads, l, l)
            seen.append(weights[0, :, asked].float().mean(dim=(0, 1)))

    with ExitStack() as stack:
        stack.enter_context(eager_attention(model))
        for layer in memory_layers(model):
            stack.callback(attention(model, layer).register_forward_hook(look).remove)
        yield seen
