"""What is learned of a dialogue: the assistant's answers, found in the text that a chat template writes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from comem.backbones.base import ChatProcessor
from comem.backbones.chatml import IGNORED as IGNORED
from comem.types import Message


def template_labels(process: ChatProcessor, chats: Sequence[Sequence[Message]], ids: Tensor) -> Tensor:
    """Labels for dialogues in any chat template.

    An answer is what the template writes beyond the prompt that a model is given to answer, the mark that
    ends the turn included. Its tokens are counted from the end, where a processor has inserted nothing:
    images come before the answers.

    Args:
        process: what made the ids; its template and tokenizer.
        chats: the dialogues, each with an answer at least.
        ids: `(b, l)`, padded on the left.

    Returns:
        `(b, l)`: the id on answer tokens, elsewhere -100.

    Raises:
        ValueError: a dialogue without an answer, one whose images follow an answer, or a template that does
            not write answers as it is given them.
    """
    labels = torch.full_like(ids, IGNORED)
    for row, chat in enumerate(chats):
        text = process.text(chat, add_generation_prompt=False)
        tokens, ends = _tokens(process, text)
        found = False
        for start, stop in _answers(process, chat, text):
            first = next((at for at, end in enumerate(ends) if end > start), len(ends))
            last = next((at for at, end in enumerate(ends) if end > stop), len(ends))
            if first == last:
                continue
            if ids[row, first - len(tokens) :].tolist() != tokens[first:]:
                raise ValueError(
                    f"dialogue {row}: images follow an answer, or the processor rewrites the text behind it: "
                    "its answers cannot be told apart; give dialogues whose images come first"
                )
            end = ids.shape[1] - len(tokens) + last
            labels[row, first - len(tokens) + ids.shape[1] : end] = ids[
                row, first - len(tokens) + ids.shape[1] : end
            ]
            found = True
        if not found:
            raise ValueError(f"no assistant turn in row {row}: nothing to learn")
    return labels


def value_weights(
    process: ChatProcessor, chats: Sequence[Sequence[Message]], ids: Tensor, values: Sequence[Sequence[str]],
    wording: float = 1.0,
) -> Tensor:  # fmt: skip
    """What each token counts in the loss: 1 in an answer's value, `wording` in the rest of it.

    Where a value is named, what the template writes behind the mark that ends the turn counts nothing: a
    reader stops there. Tokens of answers without a value, and all others, have 1.

    Args:
        process: what made the ids; its template and tokenizer.
        chats: the dialogues.
        ids: `(b, l)`, padded on the left.
        values: per dialogue and answer the words of it that count; empty for all alike.
        wording: the weight of the rest.

    Returns:
        `(b, l)`, float32.
    """
    weights = torch.ones(ids.shape)
    for row, (chat, named) in enumerate(zip(chats, values, strict=True)):
        if not any(named):
            continue
        text = process.text(chat, add_generation_prompt=False)
        tokens, ends = _tokens(process, text)
        starts, shift = [0, *ends[:-1]], ids.shape[1] - len(tokens)
        said = [str(message.content[0]) for message in chat if message.role == "assistant"]
        for value, answer, (start, stop) in zip(named, said, _answers(process, chat, text), strict=True):
            if not value:
                continue
            first = text.index(answer, start) + answer.rindex(value)
            over = start + len(answer) + 1  # beyond the answer: the first mark ends the turn
            for at, (low, high) in enumerate(zip(starts, ends, strict=True)):
                if start < high <= stop:
                    inside = low < first + len(value) and high > first
                    weights[row, at + shift] = 1.0 if inside else wording if low < over else 0.0
    return weights


def _answers(process: ChatProcessor, chat: Sequence[Message], text: str) -> Iterator[tuple[int, int]]:
    """The [start, stop) of each answer in the rendered text, its end mark included."""
    for number, message in enumerate(chat):
        if message.role != "assistant":
            continue
        prompt = process.text(chat[:number], add_generation_prompt=True)
        start = len(os.path.commonprefix([prompt, text]))  # a mark to start thinking is not written again
        upto = process.text(chat[: number + 1], add_generation_prompt=False)
        answer = upto[len(os.path.commonprefix([prompt, upto])) :]
        if not text.startswith(answer, start):
            raise ValueError(
                f"the chat template of {process.spec.name} writes an earlier answer otherwise than as the "
                "last one: train on dialogues of one turn"
            )
        yield start, start + len(answer)


def _tokens(process: ChatProcessor, text: str) -> tuple[list[int], list[int]]:
    """The ids of a text and where in it each ends; marks that are not in the text end at 0."""
    tokenizer: Any = process.tokenizer
    special = process.special_tokens(text)
    if getattr(tokenizer, "is_fast", False):
        encoded = tokenizer(text, return_offsets_mapping=True, **special)
        return list(encoded["input_ids"]), [int(end) for _, end in encoded["offset_mapping"]]
    ids = list(tokenizer(text, **special)["input_ids"])
    ends, read = [], ""
    for at in range(len(ids)):  # without offsets: by what the tokens so far say
        read = tokenizer.decode(ids[: at + 1])
        ends.append(len(read))
    return ids, ends
