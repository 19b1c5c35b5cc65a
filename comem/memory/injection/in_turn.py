"""The soft infix: memory where plain RAG has the passages, at the beginning of the user's first turn.

A pretrained reader that nobody taught to read a prefix rests its attention on the first token of all, and
expects what it is to read inside a user's turn: vectors in front of everything take that place away from it
(docs/pretrained_readers.md). A row comes out as `[system … user's mark][memory][blank line][question …]`,
token for token what it would be with the passage in place of the memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from comem.backbones.base import Backbone
from comem.backbones.positions import free_ids
from comem.backbones.specs import BackboneError
from comem.memory.injection.prefix import Prefix
from comem.types import Message

SEPARATOR = "\n\n"
_WORD = "a"


@dataclass(frozen=True)
class InTurn(Prefix):
    """Memory embeddings `(m, d)` at the beginning of each row's first user turn, behind them a blank line.

    Attributes:
        header: ids that begin a user's turn, and stand before its text.
        separator: ids between memory and question; rows without a memory get none.
    """

    header: tuple[int, ...] = ()
    separator: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Its row in `INJECTIONS`."""
        return "in_turn"

    def starts(self, ids: Tensor, mask: Tensor) -> list[int]:
        """The column behind the first header of each row.

        Raises:
            ValueError: a row without a user's turn.
        """
        size = len(self.header)
        windows = ids.unfold(1, size, 1)  # (b, l - size + 1, size)
        found = (windows == torch.tensor(self.header, device=ids.device)).all(dim=-1)
        found &= mask[:, : found.shape[1]].bool()
        if not bool(found.any(dim=1).all()):
            raise ValueError("a conversation has no user's turn, where its memory would go")
        return [int(at) + size for at in found.int().argmax(dim=1)]

    def room(
        self, model: Any, inputs: Mapping[str, Any], sizes: Sequence[int]
    ) -> tuple[dict[str, Any], Tensor, int]:
        """As `Injection.room`, the separator written behind each memory."""
        more = len(self.separator)
        extended, positions, placeholder = super().room(
            model, inputs, [size + more if size else 0 for size in sizes]
        )
        if not more or not any(sizes):
            return extended, positions, placeholder
        ids, positions = extended["input_ids"].clone(), positions.clone()
        for row, size in enumerate(sizes):
            if size:
                behind = positions[row].nonzero()[-more:, 0]
                ids[row, behind] = torch.tensor(self.separator, device=ids.device)
                positions[row, behind] = False
        return {**extended, "input_ids": ids}, positions, placeholder


def in_turn(backbone: Backbone, encoder: Any = None) -> InTurn:
    """The injection for a backbone, its header and separator read off the chat template and the tokenizer.

    Raises:
        BackboneError: the chat template writes no mark before a user's text.
    """
    tokenizer = backbone.process.tokenizer
    word = _ids(tokenizer, _WORD)
    said = [Message("user", (_WORD,)), Message("assistant", ("b",)), Message("user", (_WORD,))]
    first, later = (_before(backbone, said[:turns], word) for turns in (1, 3))
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first[::-1], later[::-1], strict=False))
    header = tuple(one for one, _ in same)[::-1]
    if not header:
        raise BackboneError(
            f"{backbone.spec.name}: its chat template writes no mark of its own before a user's text, so a "
            "memory has no place in a turn; take the injection prefix"
        )
    apart = _ids(tokenizer, SEPARATOR + _WORD)[: -len(word)]
    return InTurn(tuple(free_ids(backbone.model, backbone.processor)), header, tuple(apart))


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _before(backbone: Backbone, chat: Sequence[Message], word: Sequence[int]) -> list[int]:
    """The ids before the text of a dialogue's last turn, none if it is not found."""
    ids = backbone.process([chat], add_generation_prompt=False)["input_ids"][0].tolist()
    size = len(word)
    places = [at for at in range(len(ids) - size + 1) if ids[at : at + size] == list(word)]
    return ids[: places[-1]] if places else []
