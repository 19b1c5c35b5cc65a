"""Every backbone row in every mode that it allows, from tiny random configs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from backbones.tiny import DISTINCT, build, modes_of

from comem.backbones.base import GenerationConfig
from comem.backbones.positions import memory_layers
from comem.backbones.specs import BACKBONES
from comem.memory.bank import MemoryBank
from comem.modes import MODES, KVSettings, Mode
from comem.types import Example, KnowledgeItem, RetrievedContext

SHORT = GenerationConfig(max_new_tokens=5)
built = cache(build)


@pytest.fixture()
def items(small_image: Any) -> list[KnowledgeItem]:
    return [
        KnowledgeItem(f"item{i}", f"Passage {i}: it is {7 * i}.", small_image(56, 56 + 28 * i, i))
        for i in range(3)
    ]


@pytest.fixture()
def examples(small_image: Any) -> list[Example]:
    with_picture = [Example(f"q{i}", f"What is {i}?", small_image(84, 56, 10 + i)) for i in range(3)]
    return [*with_picture, Example("q3", "And what is 3?", None)]


def contexts(items: Sequence[KnowledgeItem]) -> list[RetrievedContext | None]:
    """Items for a question with a picture and for one without, nothing found, and no retrieval."""
    last = RetrievedContext("q3", tuple(items[:1]))
    return [RetrievedContext("q0", tuple(items)), RetrievedContext("q1"), None, last]


def mode_of(name: str, mode: str, items: Sequence[KnowledgeItem], **settings: Any) -> Mode:
    """A row in a mode; memory in all layers that can hold it: random models hardly heed one."""
    bank = MemoryBank(torch.randn(3, 8, 32), tuple(item.id for item in items), "f")
    backbone = built(name)
    kv = KVSettings(layers=memory_layers(backbone.model))
    return MODES[mode](backbone, bank=bank, kv=kv, **settings)


#: Modes over items; video_memory needs an encoder of videos, and is tested beside it (tests/memory/video).
ITEM_MODES = tuple(mode for mode in MODES if mode != "video_memory")


def test_what_rows_allow() -> None:
    for name in DISTINCT:
        assert tuple(mode for mode in modes_of(BACKBONES[name]) if mode in ITEM_MODES) == ITEM_MODES


@pytest.mark.parametrize("mode", ITEM_MODES)
@pytest.mark.parametrize("name", DISTINCT)
def test_a_batch_equals_single_answers(name: str, mode: str, items: Any, examples: Any) -> None:
    found, row = contexts(items), mode_of(name, mode, items, generation=SHORT)
    together = row.answer_batch(examples, found)
    alone = [row.answer_batch([e], [c])[0] for e, c in zip(examples, found, strict=True)]
    assert [replace(a, seconds=0) for a in together] == [replace(a, seconds=0) for a in alone]

    plain = MODES["baseline"](built(name), generation=SHORT).answer_batch(examples, found)
    differs = [a.text != p.text for a, p in zip(together, plain, strict=True)]
    assert differs == [mode != "baseline", False, False, mode != "baseline"]
    assert [a.context_tokens > 0 for a in together] == differs
    if name != "llava_onevision" or mode != "rag":  # its pictures are shorter in company
        assert [a.prompt_tokens - a.context_tokens for a in together] == [p.prompt_tokens for p in plain]
    assert all(a.seconds > 0 for a in together)


@pytest.mark.parametrize("mode", ["rag", "comem", "vlm_as_memory"])
@pytest.mark.parametrize("name", DISTINCT)
def test_the_order_of_items_matters(name: str, mode: str, items: Any, examples: Any) -> None:
    torch.manual_seed(0)
    answers = {}
    for order in ("retrieval", "reversed"):
        row = mode_of(name, mode, items, generation=GenerationConfig(12), item_order=order)
        (answers[order],) = row.answer_batch(examples[:1], contexts(items)[:1])
        torch.manual_seed(0)  # the same bank again
    assert answers["retrieval"].context_tokens == answers["reversed"].context_tokens
    assert answers["retrieval"].text != answers["reversed"].text


def test_the_default_layers_do() -> None:
    """Without a choice the paper's layers, scaled: answers in a batch as alone."""
    items = [KnowledgeItem(f"i{i}", f"Passage {i}.", None) for i in range(2)]
    examples = [Example(f"q{i}", f"What is {i}?", None) for i in range(2)]
    found = [RetrievedContext("q0", tuple(items)), RetrievedContext("q1", tuple(items[1:]))]
    row = MODES["vlm_as_memory"](built("qwen2_5"), generation=SHORT)
    together = row.answer_batch(examples, found)
    alone = [row.answer_batch([e], [c])[0] for e, c in zip(examples, found, strict=True)]
    assert row.layers == (2,) and [a.text for a in together] == [a.text for a in alone]
