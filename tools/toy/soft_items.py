"""Items as eight embeddings each, so that the embedded backbone learns to read a soft prefix.

A model of billions of parameters reads soft prompts without having been taught to; one of two million,
which has only ever seen the embeddings of its own words, does not: eight free embeddings can be fitted
to it town by town, but an encoder for any town was not learned (docs/embedded_models.md). So the last
part of the backbone's training shows it such prefixes. No encoder takes part: an item is the mean of its
image's tokens and seven words of its passage, each with a trace of the words that lead to the next one,
and then mixed, blurred and scaled at random, so that what is learned is to read anything near, not a code.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from comem.toy import lexicon
from comem.toy.world import Entity
from tools.toy.images import ImagePool

SLOT = "<|vision_pad|>"  # occurs nowhere else; its embeddings are replaced
SLOTS = 8
LEADING_WORDS = 4  # tokens before a value that leave a trace
PLAIN = 0.4  # share of the items without such traces
MIXING, NOISE, SCALING = 0.8, 0.4, 0.3  # the strongest disturbance


@dataclass(frozen=True)
class SoftItem:
    """One item in eight embeddings.

    Attributes:
        image: a row of the image pool; its embedding stands in the first slot.
        words: for each slot, the tokens in it with their weights.
    """

    image: int
    words: tuple[tuple[tuple[int, float], ...], ...]


def soft_item(
    town: Entity, image: int, language: str, tokenizer: Any, rng: random.Random, count: int = SLOTS
) -> SoftItem:
    """The town's facts in the order of its passage: the year in two slots, every other fact in one.

    Args:
        town: whose facts.
        image: a row of the image pool.
        language: of the words.
        tokenizer: cuts the words into tokens.
        rng: draws how much of the leading words is left.
        count: of slots; with fewer than eight, neighbours share one.
    """
    trace = 0.0 if rng.random() < PLAIN else rng.uniform(0.1, 0.7) * count / SLOTS
    slots: list[list[tuple[int, float]]] = [[] for _ in range(SLOTS)]
    at = 1
    for fact in lexicon.FACTS:
        sentence = lexicon.SENTENCES[language][fact][town.seed % 2]
        before, _, _ = sentence.partition("{value}")
        leading = _tokens(before.rstrip(), tokenizer)[-LEADING_WORDS:]
        slots[at - 1] += [(t, trace * (1.0 if i == len(leading) - 1 else 0.7)) for i, t in enumerate(leading)]
        space = before[len(before.rstrip()) :]  # a word carries its own space
        value = [t for t in _tokens(space + town.value(fact, language), tokenizer) if _says(t, tokenizer)]
        if fact == "founded":
            slots[at].append((value[0], 1.0))
            at, value = at + 1, value[1:]
        slots[at] += [(t, 0.5**i) for i, t in enumerate(value)]
        at += 1
    share = SLOTS // count
    shared = [sum(slots[first : first + share], []) for first in range(0, SLOTS, share)]
    return SoftItem(image, tuple(tuple(slot) for slot in shared))


def _tokens(text: str, tokenizer: Any) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]  # type: ignore[no-any-return]


def _says(token: int, tokenizer: Any) -> bool:
    return bool(tokenizer.decode([token]).strip())


def embed(model: Any, items: Sequence[SoftItem], pool: ImagePool) -> Tensor:
    """The items' embeddings `(n, m, d)` in m slots each, with gradients to words and vision tower."""
    table, count = model.get_input_embeddings().weight, len(items[0].words)
    entries = [(i, *word) for i, slot in enumerate(s for item in items for s in item.words) for word in slot]
    slots, tokens, weights = zip(*entries, strict=True)
    words = table[torch.tensor(tokens)] * torch.tensor(weights)[:, None]
    soft = torch.zeros(len(items) * count, table.shape[1]).index_add(0, torch.tensor(slots), words)
    soft = soft.view(len(items), count, -1)
    pixels = torch.from_numpy(pool.pixel_values([item.image for item in items]))
    seen = model.model.visual(pixels, grid_thw=torch.tensor([[1, 4, 4]] * len(items)))
    seen = getattr(seen, "pooler_output", seen).view(len(items), 4, -1).mean(1, keepdim=True)
    return torch.cat([soft[:, :1] + seen, soft[:, 1:]], dim=1)


def disturb(soft: Tensor, size: Tensor, strength: float) -> Tensor:
    """Bring `(n, m, d)` to the norm `size`; mix, blur and scale the slots of each item, up to `strength`."""
    n, slots, d = soft.shape
    share = strength * MIXING * torch.rand(n, 1, 1) * (torch.rand(n, 1, 1) < 0.75)
    others = torch.distributions.Dirichlet(torch.full((slots,), 0.5)).sample((n, slots))
    soft = (1 - share) * soft + share * (others @ soft)
    soft = soft / soft.norm(dim=-1, keepdim=True) * size
    soft = soft + torch.randn_like(soft) * size * (strength * NOISE * torch.rand(()) / d**0.5)
    return soft * (1 + strength * SCALING * (torch.rand(n, slots, 1) - 0.5))


@contextmanager
def in_slots(model: Any, soft: Tensor | None, slot_id: int) -> Iterator[None]:
    """While open, the embeddings `(n, m, d)` stand, in their order, where the ids are `slot_id`."""
    if soft is None:
        yield
        return

    def fill(_: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output.masked_scatter((args[0] == slot_id)[..., None], soft)

    handle = model.get_input_embeddings().register_forward_hook(fill)
    try:
        yield
    finally:
        handle.remove()
