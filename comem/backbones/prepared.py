"""A model made ready for work: packed attention and faster kernels, on while the context is open.

Whoever works with a model (encoder, engine, training) owns a `Prepared` of it. Contexts of one model may be
nested and may come from several owners and threads: the first one that opens sets everything, the last one
that closes takes it off again. Values are the same up to rounding.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import import_module
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comem.backbones.base import GenerationConfig
from comem.backbones.packing import ATTENTION, register
from comem.backbones.specs import BackboneError

#: Half-precision matrix products want rows of a multiple of so many numbers (16 bytes).
_ALIGNED = 8
#: What is on, kept on the model itself and only while a context is open.
_WORN = "_comem_prepared"
_LOCK = threading.Lock()
_ABSENT = object()


class Prepared:
    """Packed attention and, on a GPU, faster kernels for one model.

    ```python
    prepared = Prepared(model)
    with prepared:
        model(**packed, segments=rows)
    ```

    Args:
        model: of transformers. What it is made of is looked at when a context first opens.
        kernels: whether to set the kernels, too; None does on a GPU.
    """

    def __init__(self, model: nn.Module, kernels: bool | None = None) -> None:
        self.model, self._with_kernels = model, kernels

    @property
    def packs(self) -> bool:
        """Whether the context lets the model's layers take packed batches.

        They do where attention is `sdpa` and positions can be given from outside (M-RoPE). The model's top
        config keeps its name: `generate` looks at it.
        """
        return self._able and all(c._attn_implementation in ("sdpa", ATTENTION) for c in self._configs)

    @property
    def active(self) -> bool:
        """Whether a context of this model is open, this object's or another's."""
        return _WORN in vars(self.model)

    def __enter__(self) -> Prepared:
        with _LOCK:
            if not self.active:
                vars(self.model)[_WORN] = self._put_on()
            vars(self.model)[_WORN].users += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _LOCK:
            worn: _Worn = vars(self.model)[_WORN]
            worn.users -= 1
            if worn.users:
                return
            del vars(self.model)[_WORN]
            for config, before in worn.configs:
                config._attn_implementation = before
            for module in worn.modules:
                del module.forward  # back to the class's own

    def _put_on(self) -> _Worn:
        configs = [(config, config._attn_implementation) for config in self._configs] if self.packs else []
        if configs:
            register()
        for config, _ in configs:
            config._attn_implementation = ATTENTION
        on_gpu = next(self.model.parameters()).is_cuda
        faster = self._kernels if (on_gpu if self._with_kernels is None else self._with_kernels) else []
        for module, forward in faster:
            module.forward = forward
        return _Worn(configs, [module for module, _ in faster])

    @cached_property
    def _able(self) -> bool:
        base: Any = getattr(self.model, "base_model", None)
        return bool(getattr(self.model, "_supports_attention_backend", False)) and hasattr(
            base, "get_rope_index"
        )

    @cached_property
    def _configs(self) -> list[Any]:
        """The configs of the model's parts."""
        top: Any = getattr(self.model, "config", None)
        found: dict[int, Any] = {id(m.config): m.config for m in self.model.modules() if hasattr(m, "config")}
        return [c for c in found.values() if c is not top and c.model_type != top.model_type]

    @cached_property
    def _kernels(self) -> list[tuple[Any, Callable[..., Tensor]]]:
        """The modules with a faster forward, and that; a module with one of its own keeps it (Liger's)."""
        found: list[tuple[Any, Callable[..., Tensor]]] = []
        for module in self.model.modules():
            if "forward" in vars(module):
                continue
            if type(module).__name__.endswith("RMSNorm") and "variance_epsilon" in vars(module):
                found.append((module, partial(rms_norm, module)))
            elif type(module) is nn.Linear and (
                module.in_features % _ALIGNED or module.out_features % _ALIGNED
            ):  # not a quantised one
                found.append((module, partial(aligned_linear, module)))
        return found


@dataclass
class _Worn:
    """What the open contexts have set: configs and what they said before, modules; and how many are open."""

    configs: list[tuple[Any, str]]
    modules: list[Any]
    users: int = 0


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off; a model that was being trained goes on training after it."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def seeded(config: GenerationConfig, device: torch.device) -> Iterator[None]:
    """Sampling starts from the config's seed and leaves the caller's random state alone."""
    if config.temperature == 0:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        yield


def rms_norm(norm: Any, hidden: Tensor) -> Tensor:
    """Llama's RMSNorm, which the Qwen models share, in one pass instead of seven, without a float32 copy."""
    weight = norm.weight.to(hidden.dtype)
    with torch.autocast(hidden.device.type, enabled=False):  # which would make float32 of it
        return F.rms_norm(hidden, weight.shape, weight, norm.variance_epsilon)


def aligned_linear(linear: nn.Linear, x: Tensor) -> Tensor:
    """`(…, in)` to `(…, out)` by a product of matrices that are filled up with zeros to aligned rows.

    The MLPs of Qwen2.5-VL's vision tower are 3,420 wide: their products took a fifth of the encoder's time,
    at a third of the rate of aligned ones. The weights themselves stay as they are; filling up a copy costs
    as much as reading it once.
    """
    more_in, more_out = -linear.in_features % _ALIGNED, -linear.out_features % _ALIGNED
    weight = F.pad(linear.weight, (0, more_in, 0, more_out))
    bias = None if linear.bias is None else F.pad(linear.bias, (0, more_out))
    return F.linear(F.pad(x, (0, more_in)) if more_in else x, weight, bias)[..., : linear.out_features]


@contextmanager
def liger(model: nn.Module) -> Iterator[None]:
    """Liger's kernels for RMSNorm and the gated MLP, set by Liger's own function for the model's family.

    They are optional Triton kernels (https://github.com/linkedin/Liger-Kernel), values the same up to
    rounding. Its loss is left out, ours takes the answer tokens alone, and so is its rotary embedding. What
    the function changes, in this model and in the module that later ones of the family would be built from,
    is put back.

    Raises:
        BackboneError: no package, no GPU, or a family that Liger does not know.
    """
    kind = str(model.config.model_type)  # type: ignore[union-attr]
    try:
        patch = getattr(import_module("liger_kernel.transformers"), f"apply_liger_kernel_to_{kind}")
    except ImportError as error:
        raise BackboneError("liger=true needs the package: pip install liger-kernel") from error
    except AttributeError as error:
        raise BackboneError(f"liger=true: Liger has no kernels for {kind}; set liger=false") from error
    if not torch.cuda.is_available():
        raise BackboneError("liger=true needs a CUDA device: its kernels are Triton's; set liger=false")
    places: list[dict[str, Any]] = [vars(import_module(type(model).__module__)), *map(vars, model.modules())]
    before = [dict(place) for place in places]
    names = {type(module): type(module).__name__ for module in model.modules()}
    patch(**dict.fromkeys(("rope", "cross_entropy", "fused_linear_cross_entropy"), False), model=model)
    changed = [
        (place, name, old.get(name, _ABSENT))
        for place, old in zip(places, before, strict=True)
        for name, new in place.items()
        if old.get(name, _ABSENT) is not new
    ]
    try:
        yield
    finally:
        for place, name, was in changed:
            if was is _ABSENT:
                del place[name]
            else:
                place[name] = was
        for cls, name in names.items():
            cls.__name__ = name
