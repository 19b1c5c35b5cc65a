"""A model made ready for work: packed attention and faster kernels, on while the context is open.

Whoever works with a model (encoder, engine, training) owns a `Prepared` of it. Contexts of one model may be
nested and may come from several owners and threads: the first one that opens sets everything, the last one
that closes takes it off again. Values are the same up to rounding.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import import_module
from itertools import accumulate
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comem.backbones.base import GenerationConfig
from comem.backbones.positions import attends_fully
from comem.backbones.specs import BackboneError

#: With "flash" in its name, so that vision towers hand over all windows at once.
ATTENTION = "packed_flash"
_HALF = (torch.float16, torch.bfloat16)
#: What processors return that may happen to have the shape (b, l) without being a row of tokens.
NOT_TOKENS = (
    "pixel_values", "image_grid_thw", "video_grid_thw", "pixel_values_videos", "image_sizes", "image_grids",
)  # fmt: skip


@dataclass(frozen=True)
class Segments:
    """Where the rows of a packed batch lie.

    Attributes:
        lengths: tokens of each row, `n` of them, all at least 1.
        cumulative: `(n + 1,)` int32 on the batch's device: where each row begins, and the end.
    """

    lengths: tuple[int, ...]
    cumulative: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device | str = "cpu") -> Segments:
        """Rows of these lengths."""
        ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        return cls(tuple(lengths), ends.to(device, non_blocking=True))

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(self.lengths)

    @property
    def total(self) -> int:
        """Tokens of all rows."""
        return sum(self.lengths)

    @cached_property
    def padded_index(self) -> Tensor:
        """`(n, longest)`: where each row's tokens lie in the packed row; past its end, its first token."""
        starts = self.cumulative[:-1].long()[:, None]
        steps = torch.arange(self.longest, device=starts.device)
        return starts + steps.where(steps < self._sizes, 0)

    @cached_property
    def real(self) -> Tensor:
        """`(n, longest)`: which of `padded_index` are tokens of the row."""
        return torch.arange(self.longest, device=self.cumulative.device) < self._sizes

    @property
    def _sizes(self) -> Tensor:
        return (self.cumulative[1:] - self.cumulative[:-1]).long()[:, None]

    def padded(self, packed: Tensor) -> Tensor:
        """`(total, …)` to `(n, longest, …)`, rows on the left; what is beyond a row's end is arbitrary."""
        return packed[self.padded_index]

    def last(self, packed: Tensor) -> Tensor:
        """Each row's last token: `(total, …)` to `(n, …)`."""
        return packed[self.cumulative[1:].long() - 1]


def pack(inputs: Mapping[str, Any], sizes: Sequence[int] | None = None) -> tuple[dict[str, Any], Segments]:
    """A padded batch without its padding.

    Args:
        inputs: `(n, l)` tensors as a processor returns them with `attention_mask` `(n, l)` among them,
            `position_ids` `(3, n, l)`, and pixels, which stay as they are.
        sizes: real tokens of each row, where the caller knows them; otherwise they are counted, which waits
            for the device.

    Returns:
        The inputs with `(1, total)` tensors and without a mask, and where the rows lie.

    Raises:
        ValueError: a row without a token.
    """
    mask = inputs["attention_mask"].bool()
    lengths = mask.sum(dim=1).tolist() if sizes is None else list(sizes)
    if min(lengths) < 1:
        raise ValueError("a row's attention_mask is 0 everywhere: nothing to pack")
    flat = mask.flatten().nonzero()[:, 0] if sum(lengths) < mask.numel() else None

    def packed(value: Tensor, first: int) -> Tensor:
        joined = value.flatten(first, first + 1)
        joined = joined if flat is None else joined.index_select(first, flat)
        return joined.unsqueeze(first)

    result: dict[str, Any] = {}
    for name, value in inputs.items():
        if name == "position_ids":
            result[name] = packed(value, 1)
        elif isinstance(value, Tensor) and value.shape[:2] == mask.shape and name not in NOT_TOKENS:
            result[name] = packed(value, 0)
        else:
            result[name] = value
    del result["attention_mask"]
    return result, Segments.of(lengths, mask.device)


def packed_attention(  # noqa: PLR0913, PLR0917 (as transformers calls)
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, dropout: float = 0.0, segments: Segments | None = None,
    cu_seq_lens_q: Tensor | None = None, max_length_q: int | None = None, **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention as transformers' models call it: `q (b, heads, l, w)`, `k`, `v (b, kv_heads, l, w)`.

    Args:
        module: the attention layer.
        query: as above; in a packed batch b is 1.
        key: as above.
        value: as above.
        attention_mask: of a batch that is not packed; None for none.
        scaling: of the products; None for transformers' default, 1 / √w.
        dropout: of a batch that is not packed.
        segments: rows of a packed batch (b = 1), causal; given to the model's forward, which passes it on.
        cu_seq_lens_q: windows or images of a vision tower `(n + 1,)`, not causal.
        max_length_q: tokens of the longest window or image.
        kwargs: passed on to transformers' own attention.

    Returns:
        `(b, l, heads, w)`.
    """
    if cu_seq_lens_q is None and segments is None:
        if query.shape[2] == 1 and attention_mask is not None and query.shape[1] != key.shape[1]:
            return _one_token(query, key, value, attention_mask, scaling), None
        return _transformers_sdpa(module, query, key, value, attention_mask, scaling, dropout, **kwargs)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # (l, heads, w)
    causal = cu_seq_lens_q is None
    if query.is_cuda and query.dtype in _HALF:
        cumulative = segments.cumulative if cu_seq_lens_q is None else cu_seq_lens_q  # type: ignore[union-attr]
        longest = segments.longest if cu_seq_lens_q is None else max_length_q  # type: ignore[union-attr]
        return _varlen(q, k, v, cumulative, int(longest or len(q)), scaling, causal)[None], None
    if cu_seq_lens_q is not None:
        return _by_length(q, k, v, cu_seq_lens_q, scaling)[None], None
    return _right_padded(q, k, v, segments, scaling)[None], None  # type: ignore[arg-type]


def _varlen(
    q: Tensor, k: Tensor, v: Tensor, cumulative: Tensor, longest: int, scale: float | None, causal: bool
) -> Tensor:
    """torch's flash attention over rows of different lengths, `(l, heads, w)`."""
    from torch.nn.attention.varlen import varlen_attn

    options: dict[str, Any] = {"scale": scale, "window_size": (-1, 0) if causal else (-1, -1)}
    if "enable_gqa" in inspect.signature(varlen_attn).parameters:  # torch 2.11 needs no telling
        options["enable_gqa"] = q.shape[1] != k.shape[1]
    attended: Any = varlen_attn(q, k, v, cumulative, cumulative, longest, longest, **options)
    return attended  # type: ignore[no-any-return]


def _right_padded(q: Tensor, k: Tensor, v: Tensor, rows: Segments, scale: float | None) -> Tensor:
    """Causal attention: padding on the right is never looked at, so no mask is needed."""
    alone = len(rows.cumulative) == 2  # nothing to put side by side, so nothing is copied
    q, k, v = (
        (x[None] if alone else rows.padded(x)).transpose(1, 2) for x in (q, k, v)
    )  # (n, heads, longest, w)
    out = F.scaled_dot_product_attention(
        q, k, v, is_causal=True, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )
    out = out.transpose(1, 2)
    return out[0] if alone else out[rows.real]


def _one_token(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float | None) -> Tensor:
    """A decoding step with grouped heads: the heads of a group are its rows, so that no key is copied."""
    # (b, kv_heads, heads of a group, w)
    rows = q.unflatten(1, (k.shape[1], -1)).squeeze(3)  # type: ignore[no-untyped-call]
    out = F.scaled_dot_product_attention(rows, k, v, attn_mask=mask, scale=scale)
    return out.flatten(1, 2)[:, None]  # (b, 1, heads, w)


def _by_length(q: Tensor, k: Tensor, v: Tensor, cumulative: Tensor, scale: float | None) -> Tensor:
    """Full attention within rows: those of one length go together, so no mask is needed either."""
    ends = cumulative.tolist()
    by_length: dict[int, list[int]] = {}
    for start, end in zip(ends, ends[1:], strict=False):
        if end > start:
            by_length.setdefault(end - start, []).append(start)
    if len(by_length) == 1:  # rows of one length lie side by side as they are
        (length,) = by_length
        # (n, heads, length, w)
        rows = [x.unflatten(0, (-1, length)).transpose(1, 2) for x in (q, k, v)]  # type: ignore[no-untyped-call]
        attended = F.scaled_dot_product_attention(rows[0], rows[1], rows[2], scale=scale)
        return attended.transpose(1, 2).flatten(0, 1)
    out = torch.empty_like(q)
    for length, starts in by_length.items():
        at = torch.tensor(starts, device=q.device)[:, None] + torch.arange(length, device=q.device)
        q_, k_, v_ = (x[at].transpose(1, 2) for x in (q, k, v))  # (m, heads, length, w)
        attended = F.scaled_dot_product_attention(q_, k_, v_, scale=scale)
        out = out.index_copy(0, at.flatten(), attended.transpose(1, 2).flatten(0, 1))
    return out


def _transformers_sdpa(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None, dropout: float, **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(  # type: ignore[no-any-return]
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )


def register() -> None:
    """Make the function known to transformers, with the masks of `sdpa`."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, packed_attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


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
        packs: whether the model takes packed rows; None looks whether it counts positions itself (M-RoPE).
            Others can, where whoever calls them gives positions.
    """

    def __init__(self, model: nn.Module, kernels: bool | None = None, packs: bool | None = None) -> None:
        self.model, self._with_kernels, self._given = model, kernels, packs

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
        able = bool(getattr(self.model, "_supports_attention_backend", False))
        if self._given is not None:
            return self._given and able
        return able and attends_fully(self.model) and hasattr(base, "get_rope_index")

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
