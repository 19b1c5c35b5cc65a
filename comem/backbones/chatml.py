"""Which tokens of a rendered ChatML dialogue are answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

IGNORED = -100
_HEADER, _END, _NEWLINE = "<|im_start|>assistant\n", "<|im_end|>", "\n"


def answer_labels(ids: Tensor, tokenizer: Any) -> Tensor:
    """Labels for rendered ChatML dialogues (authors_code.md 1.5 and 2).

    The answers are found by their markup in the ids, so padding and the image tokens that the
    processor has inserted do not matter.

    Args:
        ids: `(b, l)` token ids.
        tokenizer: the one that made them; its chat template is Qwen's ChatML.

    Returns:
        `(b, l)`: the id on answer tokens, `<|im_end|>` and the newline after it; elsewhere -100.

    Raises:
        ValueError: a row has no assistant turn.
    """
    header = tokenizer.encode(_HEADER, add_special_tokens=False)
    end = tokenizer.convert_tokens_to_ids(_END)
    newline = tokenizer.encode(_NEWLINE, add_special_tokens=False)
    labels = torch.full_like(ids, IGNORED)
    for row, tokens in enumerate(ids.tolist()):
        spans = list(_answer_spans(tokens, header, end, newline))
        if not spans:
            raise ValueError(f"no assistant turn in row {row}: the chat template must be Qwen's (ChatML)")
        for start, stop in spans:
            labels[row, start:stop] = ids[row, start:stop]
    return labels


def _answer_spans(
    tokens: Sequence[int], header: Sequence[int], end: int, newline: Sequence[int]
) -> list[tuple[int, int]]:
    """The [start, stop) of each assistant turn's content, end mark and newline included."""
    spans, at, size = [], 0, len(header)
    while at + size <= len(tokens):
        if tokens[at] != header[0] or list(tokens[at : at + size]) != list(header):
            at += 1
            continue
        start = at + size
        stop = tokens.index(end, start) + 1 if end in tokens[start:] else len(tokens)
        if list(tokens[stop : stop + len(newline)]) == list(newline):
            stop += len(newline)
        spans.append((start, stop))
        at = stop
    return spans
