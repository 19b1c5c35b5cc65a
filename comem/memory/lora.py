"""LoRA on the encoder, switched on and off on one copy of the base weights.

The encoder is the base model with LoRA on, the reader the same base with LoRA off. A model rests in
the reader's state (off); the encoder switches LoRA on while it reads items.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora.layer import Linear, LoraLayer, LoraVariant
from torch import Tensor, nn

from comem.backbones.positions import decoder_layers
from comem.memory.settings import LoraSettings as LoraSettings

ADAPTER = "default"
#: Where a LoRA layer carries its model's switch.
_CARRIED = "_comem_switch"


def lora_targets(model: nn.Module, layers: int = 0) -> dict[str, nn.Linear]:
    """Every linear layer of language model and vision tower (merger included), by name; not the head.

    Args:
        model: of transformers.
        layers: so many of the language model's lowest layers; 0 for all.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None  # type: ignore[operator]
    left = decoder_layers(model)[layers:] if layers else ()
    spared = {id(module) for layer in left for module in layer.modules()}
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and id(module) not in spared
    }


def expected_lora_count(model: nn.Module, settings: LoraSettings) -> int:
    """How many parameters LoRA adds: rank × (in + out) for each adapted layer."""
    return sum(
        settings.rank * (m.in_features + m.out_features)
        for m in lora_targets(model, settings.layers).values()
    )


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
    targets = set(lora_targets(model, settings.layers))
    expected = expected_lora_count(model, settings)
    whole, prefix = (_Unnamed(model), "inner.") if _fuses_experts(model) else (model, "")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        bias="none",
        # A string is matched in full; a list is condensed to suffixes.
        target_modules="|".join(re.escape(prefix + name) for name in sorted(targets)),
    )
    inject_adapter_in_model(config, whole, adapter_name=ADAPTER)
    for layer in lora_layers(model).values():
        add_directly(layer, ADAPTER)
    adapted = set(lora_layers(model))
    if adapted != targets:
        raise RuntimeError(f"LoRA reached other layers than asked: {sorted(adapted ^ targets)[:5]}")
    if trainable_count(model) != expected:
        raise RuntimeError(f"{trainable_count(model)} trainable parameters, expected {expected}")
    adapter_switch(model).set(False)
    return model


class _Unnamed(nn.Module):
    """A model whose family peft does not see.

    Of families whose experts were separate layers once, peft rewrites what is asked for, and then adapts
    their fused tensors where a dense layer of the same name is asked for.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model
        self.is_loaded_in_4bit = getattr(model, "is_loaded_in_4bit", False)


def _fuses_experts(model: nn.Module) -> bool:
    return any(p.ndim == 3 and ".experts." in name for name, p in model.named_parameters())


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
            layer.get_base_layer().weight.data += layer.get_delta_weight(ADAPTER).to(layer.weight.dtype)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
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

    def __init__(self, layers: Sequence[Any]) -> None:
        self.layers = layers
        self._lock = threading.RLock()

    def __deepcopy__(self, memo: object) -> None:
        """A copied model makes a switch of its own when it is first asked for."""

    @cached_property
    def by_break_even(self) -> list[tuple[float, Any]]:
        """The layers with their `break_even`, least first."""
        found = [(break_even(layer.in_features, layer.out_features), layer) for layer in self.layers]
        return sorted(found, key=lambda pair: pair[0])

    @property
    def on(self) -> bool:
        """Whether the adapters are on; False for a model without any."""
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


def adapter_switch(model: nn.Module) -> AdapterSwitch:
    """The model's switch, which its LoRA layers carry; without LoRA layers, one that does nothing."""
    first = next((module for module in model.modules() if isinstance(module, LoraLayer)), None)
    if first is None:
        return AdapterSwitch([])
    if (known := vars(first).get(_CARRIED)) is not None:
        return known  # type: ignore[no-any-return]
    switch = AdapterSwitch(list(lora_layers(model).values()))
    for layer in switch.layers:
        vars(layer)[_CARRIED] = switch
    return switch


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


class DirectLora(LoraVariant):  # type: ignore[misc]
    """Vanilla LoRA as a variant of peft's, whose forward is all that differs."""

    @staticmethod
    def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any) -> Tensor:
        """Add LoRA's part to `result` `(…, out)`, in place.

        Args:
            module: the LoRA layer.
            active_adapter: its adapter's name.
            x: the layer's input `(…, in)`.
            result: what the adapted layer has made of it; nothing else holds it, and its own backward does
                not need it.
            kwargs: of PEFT, which are not needed.
        """
        a, b = module.lora_A[active_adapter].weight, module.lora_B[active_adapter].weight  # (r, in), (out, r)
        dtype, scale = result.dtype, module.scaling[active_adapter]
        hidden = F.linear(module.lora_dropout[active_adapter](x).to(dtype), a.to(dtype))  # (…, r)
        b = b.to(dtype).T
        if result.ndim == 2:
            return result.addmm_(hidden, b, alpha=scale)
        if result.ndim == 3:
            return result.baddbmm_(hidden, b.expand(len(hidden), -1, -1), alpha=scale)
        added: Tensor = result + (hidden @ b) * scale
        return added


def add_directly(layer: LoraLayer, adapter: str) -> None:
    """Let a LoRA layer on an ordinary linear layer work so; others (a quantised base) stay as they are."""
    if type(layer) is Linear and type(layer.get_base_layer()) is nn.Linear:
        layer.lora_variant[adapter] = DirectLora
        layer.cast_input_dtype_enabled = False


def add_as_peft(layer: LoraLayer, adapter: str) -> None:
    """Undo `add_directly`: peft folds only layers of its own kinds."""
    layer.lora_variant.pop(adapter, None)
    layer.cast_input_dtype_enabled = True


_EXACT = (torch.float32, torch.float64)


def break_even(fan_in: int, fan_out: int) -> float:
    """Tokens from which folding is less work: the harmonic mean of the matrix's sides."""
    return 2 * fan_in * fan_out / (fan_in + fan_out)


def folded_weight(layer: Any) -> Tensor:
    """`W + s B A` `(out, in)`, a new tensor."""
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight  # (r, in), (out, r)
    return torch.addmm(layer.get_base_layer().weight, b, a, alpha=layer.scaling[ADAPTER])


@contextmanager
def cheaper_order(model: nn.Module, tokens: int) -> Iterator[None]:
    """Inside the context, LoRA layers that are on fold where that is less work than adding.

    Nothing happens where it could be seen: with gradients, in training (dropout), in half precision.

    Args:
        model: with LoRA layers, or without.
        tokens: the most rows that any layer will see; layers for which they are too few stay as they are.
    """
    layers = [] if torch.is_grad_enabled() or model.training else _worth_it(model, tokens)
    for layer, way in layers:
        layer.forward = way
    try:
        yield
    finally:
        for layer, _ in layers:
            del layer.forward  # back to the class's own


def _worth_it(model: nn.Module, tokens: int) -> list[tuple[Any, Callable[..., Tensor]]]:
    """The layers with a cheaper way, and that way."""
    return [
        (layer, partial(_forward, layer, least, layer.forward))
        for least, layer in adapter_switch(model).by_break_even
        if tokens > least and layer.get_base_layer().weight.dtype in _EXACT
    ]


def _forward(layer: Any, least: float, plain: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    base = layer.get_base_layer()
    if layer.disable_adapters or layer.merged or x.numel() <= least * x.shape[-1]:
        return plain(x, *args, **kwargs)  # type: ignore[no-any-return]
    return F.linear(x, folded_weight(layer), base.bias)
