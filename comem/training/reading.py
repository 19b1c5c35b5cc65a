"""What the frozen reader makes of questions behind their memories: the states that predict the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from comem.backbones.decoder import text_positions
from comem.backbones.packing import is_packing, pack
from comem.backbones.placeholder import reserved_id
from comem.backbones.positions import with_positions
from comem.backbones.soft_prefix import extend_by_sizes, memory_at, soft_prefix, with_token_types
from comem.training.labels import IGNORED


def answer_states(
    reader: Any,
    question: Mapping[str, Tensor],
    prefixes: Sequence[Tensor | None],
    placeholder_id: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What predicts the answers' tokens, a of them, over the whole batch.

    Only the hidden states that predict an answer token go on to the output layer: logits of whole
    sequences over a vocabulary of 152,064 would be the largest tensor of the step by far. Where the
    reader's attention allows it, the questions are packed: no layer computes padding.

    Args:
        reader: a causal model with `.model` (the trunk) and an output embedding.
        question: its inputs with `labels (b, l)`, -100 where nothing is learned.
        prefixes: per row `(m, d)` or None.

    Returns:
        Hidden states `(a, d)`, the tokens that they predict `(a,)`, and the question of each, `(a,)`.
    """
    if is_packing(reader):
        return _packed(reader, question, prefixes, placeholder_id)
    with soft_prefix(reader, question, prefixes, placeholder_id) as extended:
        labels = extended.pop("labels")  # (b, L)
        extended |= text_positions(reader, extended["attention_mask"])
        hidden = reader.model(**extended, use_cache=False).last_hidden_state  # (b, L, d)
    learned = labels[:, 1:] != IGNORED
    return hidden[:, :-1][learned], labels[:, 1:][learned], learned.nonzero()[:, 0]


def _packed(
    reader: Any, question: Mapping[str, Tensor], prefixes: Sequence[Tensor | None], placeholder: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The same from one row in which the questions follow each other; its labels never start a question."""
    free = reserved_id(reader, question["input_ids"]) if placeholder is None else placeholder
    sizes = [0 if prefix is None else len(prefix) for prefix in prefixes]
    extended, memory = extend_by_sizes(with_token_types(reader, question), sizes, free)
    packed, rows = pack({**with_positions(reader, extended), "_memory": memory})
    labels, memory = packed.pop("labels")[0], packed.pop("_memory")  # (total,), (1, total)
    with memory_at(reader, prefixes, memory, free):
        hidden = reader.model(**packed, segments=rows, use_cache=False).last_hidden_state[0]  # (total, d)
    learned = labels[1:] != IGNORED
    numbers = torch.arange(len(rows.lengths), device=labels.device)
    question_of = numbers.repeat_interleave((rows.cumulative[1:] - rows.cumulative[:-1]).long())
    return hidden[:-1][learned], labels[1:][learned], question_of[1:][learned]
