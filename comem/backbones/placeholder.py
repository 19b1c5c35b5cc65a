"""Ids that stand for memory in `input_ids`: ones that no text yields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


def reserved_id(model: nn.Module, used: Tensor, special: Sequence[int] = ()) -> int:
    """The highest embedding row that no input uses and that the model's config does not name.

    Qwen's tables have spare rows above the tokenizer's last id, so this is one that never occurs.

    Args:
        model: the model whose input embeddings are meant.
        used: `(b, l)` ids in use.
        special: further ids to leave alone (those of the tokenizer's special tokens).

    Raises:
        ValueError: if every row is in use.
    """
    taken = set(used.unique().tolist()) | set(special) | _config_ids(getattr(model, "config", None))
    rows = id_rows(model)
    for candidate in range(rows - 1, -1, -1):
        if candidate not in taken:
            return candidate
    raise ValueError(f"all {rows} embedding rows are in use: give placeholder_id, one that no input contains")


def id_rows(model: nn.Module) -> int:
    """Ids that the model both reads and scores: a repetition penalty looks up the score of every id read."""
    rows = _embeddings(model).num_embeddings
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None  # type: ignore[operator]
    return rows if head is None else min(rows, head.weight.shape[0])


def free_ids(model: nn.Module, processor: Any) -> list[int]:
    """Ids that no text yields, best first: a spare row of the table, else special tokens without a part in
    prompts (`ChatProcessor` cleans texts of special tokens). A processor may still write some of them."""
    tokenizer = getattr(processor, "tokenizer", processor)
    rows = id_rows(model)
    if len(tokenizer) < rows:
        return [rows - 1]
    roles = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id")
    taken = _config_ids(getattr(model, "config", None)) | {getattr(tokenizer, role) for role in roles}
    template = str(getattr(processor, "chat_template", ""))
    special = [
        id_ for id_, token in tokenizer.added_tokens_decoder.items()
        if token.special and id_ < rows and id_ not in taken and str(token) not in template
    ]  # fmt: skip
    return sorted(special, reverse=True)


def _config_ids(config: Any) -> set[int]:
    """Ids that a config names (`image_token_id`, `pad_token_id`, …), nested text configs included."""
    if config is None:
        return set()
    ids: set[int] = set()
    for part in (config, getattr(config, "text_config", None)):
        for name, value in vars(part).items() if part is not None else ():
            if name.endswith("token_id"):
                ids.update(value if isinstance(value, (list, tuple)) else [value])
    return {int(i) for i in ids if i is not None}


def _embeddings(model: nn.Module) -> nn.Embedding:
    return model.get_input_embeddings()  # type: ignore[operator, no-any-return]
