"""Activation checkpointing that recomputes each layer in the state which its forward had.

With one copy of the weights, a training step runs the encoder (LoRA on), then the reader (LoRA off),
then the backward. Plain checkpointing recomputes the encoder's layers in whatever state the model
happens to be in by then, which gives wrong gradients without a word (`use_reentrant=True`) or an error
(`use_reentrant=False`). Here the state is noted at forward time and put back for the recomputation, and so
are packed attention and kernels (`comem.backbones.prepared`), whose context may be closed by then.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from comem.backbones.prepared import Prepared
from comem.memory.lora import AdapterSwitch, adapter_switch


class _Recompute:
    """Puts the state of the forward back; may be entered several times (a second backward)."""

    def __init__(self, switch: AdapterSwitch, prepared: Prepared) -> None:
        self._switch, self._on = switch, switch.on
        self._prepared = prepared if prepared.active else None
        self._before: list[bool] = []

    def __enter__(self) -> None:
        if self._prepared is not None:
            self._prepared.__enter__()
        self._before.append(self._switch.on)
        self._switch.set(self._on)

    def __exit__(self, *error: Any) -> None:
        # torch ends a recomputation early by raising through here: restore, swallow nothing.
        self._switch.set(self._before.pop())
        if self._prepared is not None:
            self._prepared.__exit__(*error)


ContextPair = tuple[AbstractContextManager[None], AbstractContextManager[None]]


def adapter_context(model: nn.Module) -> Callable[[], ContextPair]:
    """A `context_fn` for `torch.utils.checkpoint.checkpoint(..., use_reentrant=False)`."""
    switch, prepared = adapter_switch(model), Prepared(model)

    def context() -> ContextPair:
        return nullcontext(), _Recompute(switch, prepared)

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
