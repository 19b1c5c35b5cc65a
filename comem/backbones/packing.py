"""Packing: rows of different lengths one after another in a single row, each attending to itself alone.

A batch that is padded to its longest row computes every layer on the padding too. Packed, all layers see the
real tokens only, and attention is told where the rows end. transformers' own extension point carries it: an
attention function, registered by name, that the unmodified models call. What it is not told of (ordinary
padded batches, decoding) it hands on to transformers' `sdpa`.

It also takes the vision towers' windows and images in one call; with `sdpa` these towers loop over them in
Python, at 7B some 25 calls an image and layer.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: With "flash" in its name, so that vision towers hand over all windows at once.
ATTENTION = "packed_flash"
_HALF = (torch.float16, torch.bfloat16)
#: What processors return that may happen to have the shape (b, l) without being a row of tokens.
NOT_TOKENS = ("pixel_values", "image_grid_thw", "video_grid_thw", "pixel_values_videos", "image_sizes")


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
        return max(self.lengths)

    @property
    def total(self) -> int:
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


def packed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, dropout: float = 0.0, segments: Segments | None = None,
    cu_seq_lens_q: Tensor | None = None, max_length_q: int | None = None, **kwargs: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention as transformers' models call it: `q (b, heads, l, w)`, `k`, `v (b, kv_heads, l, w)`.

    Args:
        segments: rows of a packed batch (b = 1), causal; given to the model's forward, which passes it on.
        cu_seq_lens_q: windows or images of a vision tower `(n + 1,)`, not causal.

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
    rows = q.unflatten(1, (k.shape[1], -1)).squeeze(3)  # (b, kv_heads, heads of a group, w)
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
        rows = [x.unflatten(0, (-1, length)).transpose(1, 2) for x in (q, k, v)]  # (n, heads, length, w)
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

    return sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )


def register() -> None:
    """Make the function known to transformers, with the masks of `sdpa`."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, packed_attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
