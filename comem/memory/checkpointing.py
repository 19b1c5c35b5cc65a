"""Activation checkpointing that recomputes each layer in the LoRA state which its forward had.

With one copy of the weights, a training step runs the encoder (LoRA on), then the reader (LoRA off),
then the backward. Plain checkpointing recomputes the encoder's layers in whatever state the model
happens to be in by then, which gives wrong gradients without a word (`use_reentrant=True`) or an error
(`use_reentrant=False`). Here the state is noted at forward time and put back for the recomputation.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType

from torch import nn

from comem.memory.lora import AdapterSwitch, adapter_switch


class _Recompute:
    """Puts the state of the forward back; may be entered several times (a second backward)."""

    def __init__(self, switch: AdapterSwitch, on: bool) -> None:
        self._switch, self._on = switch, on
        self._before: list[bool] = []

    def __enter__(self) -> None:
        self._before.append(self._switch.on)
        self._switch.set(self._on)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # torch ends a recomputation early by raising through here: restore, swallow nothing.
        self._switch.set(self._before.pop())


ContextPair = tuple[AbstractContextManager[None], AbstractContextManager[None]]


def adapter_context(model: nn.Module) -> Callable[[], ContextPair]:
    """A `context_fn` for `torch.utils.checkpoint.checkpoint(..., use_reentrant=False)`."""
    switch = adapter_switch(model)

    def context() -> ContextPair:
        return nullcontext(), _Recompute(switch, switch.on)

    return context


def enable_checkpointing(model: nn.Module) -> None:
    """Checkpoint every layer of a transformers model, language model and vision tower, LoRA-safely.

    Call it after `add_lora`. Layers checkpoint only in training mode (`model.train()`).

    Raises:
        ValueError: if the model cannot checkpoint (raised by transformers).
    """
    kwargs = {"use_reentrant": False, "context_fn": adapter_context(model)}
    if hasattr(model, "activation_checkpointing_enable"):  # transformers 5.2x; the old name ends in v6
        model.activation_checkpointing_enable(kwargs)  # type: ignore[operator]
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs)  # type: ignore[operator]
    # transformers makes all embeddings require gradients, which only reentrant checkpointing needs;
    # here it would keep activations of inputs that nobody differentiates.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model.disable_input_require_grads()  # type: ignore[operator]
