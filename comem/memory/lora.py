"""LoRA on the encoder, switched on and off on one copy of the base weights.

The encoder is the base model with LoRA on, the reader the same base with LoRA off. A model rests in
the reader's state (off); the encoder switches LoRA on while it reads items.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear, LoraLayer
from torch import Tensor, nn

from comem.memory.lora_direct import add_as_peft, add_directly

ADAPTER = "default"


@dataclass(frozen=True)
class LoraSettings:
    """The paper's LoRA: rank 16, alpha 32, dropout 0.05, no biases (authors_code.md, section 2)."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"LoRA rank={self.rank}: must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"LoRA dropout={self.dropout}: must be in [0, 1)")


def lora_targets(model: nn.Module) -> dict[str, nn.Linear]:
    """Every linear layer of language model and vision tower (merger included), by name; not the head."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None  # type: ignore[operator]
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }


def expected_lora_count(model: nn.Module, settings: LoraSettings) -> int:
    """How many parameters LoRA adds: rank × (in + out) for each adapted layer."""
    return sum(settings.rank * (m.in_features + m.out_features) for m in lora_targets(model).values())


def add_lora(model: nn.Module, settings: LoraSettings = LoraSettings()) -> nn.Module:  # noqa: B008 (frozen)
    """Give every linear layer of the model a LoRA, freeze the rest, and leave LoRA switched off.

    The model is changed in place and keeps its class.

    Raises:
        ValueError: if the model has adapters already.
        RuntimeError: if peft adapted another set of layers than asked (it matches lists by suffix,
            which also hit modules that were left out: authors_code.md C3).
    """
    if lora_layers(model):
        raise ValueError("the model has LoRA layers already: merge them, or load weights into them")
    targets = set(lora_targets(model))
    expected = expected_lora_count(model, settings)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        bias="none",
        # A string is matched in full; a list is condensed to suffixes.
        target_modules="|".join(re.escape(name) for name in sorted(targets)),
    )
    inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    _SWITCHES.pop(model, None)
    for layer in lora_layers(model).values():
        add_directly(layer, ADAPTER)
    adapted = set(lora_layers(model))
    if adapted != targets:
        raise RuntimeError(f"LoRA reached other layers than asked: {sorted(adapted ^ targets)[:5]}")
    if trainable_count(model) != expected:
        raise RuntimeError(f"{trainable_count(model)} trainable parameters, expected {expected}")
    adapter_switch(model).set(False)
    return model


def lora_layers(model: nn.Module) -> dict[str, LoraLayer]:
    """The layers with LoRA, by the name of the layer that they adapt."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def trainable_count(*modules: nn.Module) -> int:
    """Number of parameters that are trained."""
    unique = {id(p): p for module in modules for p in module.parameters()}
    return sum(p.numel() for p in unique.values() if p.requires_grad)


def lora_state(model: nn.Module) -> dict[str, Tensor]:
    """LoRA tensors by plain names: `<layer>.lora_A.weight` `(r, in)`, `<layer>.lora_B.weight` `(out, r)`."""
    state: dict[str, Tensor] = {}
    for name, layer in lora_layers(model).items():
        state[f"{name}.lora_A.weight"] = layer.lora_A[ADAPTER].weight.detach()
        state[f"{name}.lora_B.weight"] = layer.lora_B[ADAPTER].weight.detach()
    return state


def load_lora_state(model: nn.Module, tensors: dict[str, Tensor], source: str = "adapter") -> None:
    """Copy LoRA tensors, named as `lora_state` names them, into the model.

    Raises:
        ValueError: names or shapes differ; nothing is changed then.
    """
    own = lora_state(model)
    problems = sorted(set(own) ^ set(tensors))
    if problems:
        where = "missing from it" if problems[0] in own else "not in this model"
        raise ValueError(
            f"{source}: {len(problems)} LoRA tensors do not match, first {problems[0]} ({where}): "
            "the adapter belongs to another backbone or other target layers"
        )
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise ValueError(
                f"{source}: {name} has shape {tuple(tensor.shape)}, not {tuple(own[name].shape)} as here: "
                "the adapter has another rank or belongs to a backbone of another width"
            )
    for name, tensor in tensors.items():
        own[name].copy_(tensor)


def fold_lora(model: nn.Module) -> nn.Module:
    """Add every LoRA to the weights that it adapts and take the LoRA layers out, in place.

    A 4-bit base becomes an ordinary one of the values that it had: what LoRA was trained beside.
    """
    if getattr(model, "is_quantized", False):
        model.dequantize()  # type: ignore[operator]
    for name, layer in lora_layers(model).items():
        add_as_peft(layer, ADAPTER)
        if type(layer) is Linear:
            layer.merge(safe_merge=True)
        else:  # of a quantised layer, which is none any more
            layer.get_base_layer().weight.data += layer.get_delta_weight(ADAPTER).to(layer.weight.dtype)  # type: ignore[attr-defined]
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    _SWITCHES.pop(model, None)
    # Left by peft's injection; with it, transformers saves an adapter instead of the model.
    for leftover in ("peft_config", "_hf_peft_config_loaded"):
        if leftover in vars(model):
            delattr(model, leftover)
    return model


class AdapterSwitch:
    """Turns all LoRA layers of one model on or off.

    It sets the flag that the layers read in their forward. peft's `enable_adapters` would also
    change `requires_grad` of the weights, which loses gradients when LoRA goes off between the
    encoder's forward and the backward.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers: list[Any] = list(lora_layers(model).values())
        self._lock = threading.RLock()

    @property
    def on(self) -> bool:
        return bool(self.layers) and not self.layers[0].disable_adapters

    def set(self, on: bool) -> None:
        """Switch, without restoring. For recomputations, which run on autograd's own threads."""
        if on != self.on:
            for layer in self.layers:
                layer._disable_adapters = not on

    @contextmanager
    def state(self, on: bool) -> Iterator[None]:
        """Switch inside the context and restore after it, errors included; other threads wait."""
        with self._lock:
            before = self.on
            self.set(on)
            try:
                yield
            finally:
                self.set(before)


_SWITCHES: WeakKeyDictionary[nn.Module, AdapterSwitch] = WeakKeyDictionary()


def adapter_switch(model: nn.Module) -> AdapterSwitch:
    """The model's switch (made once); without LoRA layers, one that does nothing."""
    if model not in _SWITCHES:
        _SWITCHES[model] = AdapterSwitch(model)
    return _SWITCHES[model]


@contextmanager
def adapters_on(model: nn.Module) -> Iterator[None]:
    """The model as encoder: LoRA on inside the context. A model without LoRA stays as it is."""
    with adapter_switch(model).state(True):
        yield


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """The model as reader: LoRA off inside the context. A model without LoRA stays as it is."""
    with adapter_switch(model).state(False):
        yield
