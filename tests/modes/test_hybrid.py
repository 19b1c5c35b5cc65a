"""Hybrid context: between RAG (all in full) and CoMEM (all as memory), and equal to both at its ends."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from comem.backbones.base import GenerationConfig
from comem.backbones.hf import HFBackbone
from comem.backbones.specs import BACKBONES
from comem.engine.engine import accelerated
from comem.memory.bank import MemoryBank
from comem.memory.settings import HybridSettings
from comem.modes import MODES
from comem.types import Example, KnowledgeItem, RetrievedContext

SHORT = GenerationConfig(max_new_tokens=4)


@pytest.fixture(scope="module")
def backbone(tiny_qwen2_5_vl: Any, tiny_processor: Any) -> HFBackbone:
    return HFBackbone(BACKBONES["qwen2_5_vl"], tiny_qwen2_5_vl, tiny_processor)


@pytest.fixture()
def items(small_image: Any) -> list[KnowledgeItem]:
    return [
        KnowledgeItem(f"item{i}", f"Passage {i}: the answer is {i}.", small_image(56, 56, i))
        for i in range(4)
    ]


@pytest.fixture()
def examples(small_image: Any) -> list[Example]:
    return [Example(f"q{i}", f"What is {i}?", small_image(84, 56, 10 + i)) for i in range(3)]


@pytest.fixture()
def contexts(items: list[KnowledgeItem]) -> list[RetrievedContext | None]:
    return [RetrievedContext("q0", tuple(items)), RetrievedContext("q1"), RetrievedContext("q2", (items[2],))]


@pytest.fixture()
def bank(items: list[KnowledgeItem]) -> MemoryBank:
    generator = torch.Generator().manual_seed(5)
    return MemoryBank(torch.randn(4, 8, 64, generator=generator), tuple(i.id for i in items), "f")


def answers(mode: Any, examples: Any, contexts: Any) -> list[tuple[str, int, int]]:
    found = mode.answer_batch(examples, contexts)
    return [(each.text, each.context_tokens, each.prompt_tokens) for each in found]


@pytest.mark.parametrize(("full", "same"), [(0, "comem"), (9, "rag")])
def test_its_ends_are_the_other_two_modes(
    backbone: Any, bank: Any, examples: Any, contexts: Any, full: int, same: str
) -> None:
    hybrid = MODES["hybrid"](backbone, bank=bank, generation=SHORT, hybrid=HybridSettings(full))
    other = MODES[same](backbone, bank=bank, generation=SHORT)
    assert answers(hybrid, examples, contexts) == answers(other, examples, contexts)


def test_the_best_item_in_full_and_the_others_as_memory(
    backbone: Any, bank: Any, examples: Any, contexts: Any
) -> None:
    mode = MODES["hybrid"](backbone, bank=bank, generation=SHORT)
    first, none, single = mode.conversations(examples, contexts)
    assert ["Passage 0" in str(turn.content) for turn in first] == [True, False] and len(none) == 1
    rag = MODES["rag"](backbone, generation=SHORT)
    one = rag.answer_batch(examples[:1], [RetrievedContext("q0", contexts[0].items[:1])])[0].context_tokens
    found = mode.answer_batch(examples, contexts)
    assert [each.context_tokens for each in found][:2] == [one + 3 * 8, 0]
    assert found[2].context_tokens == one, "a single item has no memory beside it"
    engine = accelerated(mode)
    assert [each.text for each in engine.answer_batch(examples, contexts)] == [each.text for each in found]


def test_items_in_full_alone(backbone: Any, bank: Any, examples: Any, contexts: Any) -> None:
    mode = MODES["hybrid"](backbone, bank=bank, generation=SHORT, hybrid=HybridSettings(1, alone=True))
    rag = MODES["rag"](backbone, generation=SHORT)
    best = [RetrievedContext(c.example_id, c.items[:1]) for c in contexts]
    assert answers(mode, examples, contexts) == answers(rag, examples, best)
    nobody = mode.on(hybrid=HybridSettings(1, 8, alone=True))
    comem = MODES["comem"](backbone, bank=bank, generation=SHORT)
    first = contexts[0].items
    cut = answers(nobody, examples[:1], [RetrievedContext("q0", first)])
    assert cut == answers(comem, examples[:1], [RetrievedContext("q0", first[:1])]), "no room in full"


@pytest.mark.parametrize("budget", [1, 8, 20, 40, 60, 90, 200])
def test_the_budget_holds(backbone: Any, bank: Any, examples: Any, contexts: Any, budget: int) -> None:
    mode = MODES["hybrid"](backbone, bank=bank, generation=SHORT, hybrid=HybridSettings(3, budget))
    found = mode.answer_batch(examples, contexts)
    assert all(each.context_tokens <= budget for each in found)
    wide = MODES["hybrid"](backbone, bank=bank, generation=SHORT, hybrid=HybridSettings(3)).answer_batch(
        examples, contexts
    )
    if budget >= wide[0].context_tokens:
        assert [each.text for each in found] == [each.text for each in wide]


def test_a_sure_reader_is_shown_memory_alone(backbone: Any, bank: Any, examples: Any, contexts: Any) -> None:
    comem = MODES["comem"](backbone, bank=bank, generation=SHORT)
    always = MODES["hybrid"](backbone, bank=bank, generation=SHORT)
    conversations = [comem.conversations([e], [c])[0] for e, c in zip(examples, contexts, strict=True)]
    memories = comem.memories([c.items for c in contexts])
    sure = always.first_probability(conversations, memories)
    for n, (conversation, memory) in enumerate(zip(conversations, memories, strict=True)):  # by `generate`
        inputs = backbone.place(backbone.process([conversation]))
        with comem.injection.attach(backbone.model, inputs, [memory]) as extended, torch.no_grad():
            out = backbone.model.generate(
                **extended,
                max_new_tokens=1,
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=True,
            )
        assert out.logits[0].softmax(-1).max().item() == pytest.approx(sure[n].item(), abs=1e-5)
    between = float(sure[[0, 2]].mean())
    some = always.on(hybrid=HybridSettings(1, unsure=between))
    low = 0 if sure[0] < sure[2] else 2
    got, of_always = answers(some, examples, contexts), answers(always, examples, contexts)
    alone = answers(comem, examples, contexts)
    for row in (0, 2):
        assert got[row] == (of_always if row == low else alone)[row]


def test_settings_that_cannot_be() -> None:
    for wrong in ({"full": -1}, {"budget": -1}, {"unsure": 1.5}):
        with pytest.raises(ValueError, match="give"):
            HybridSettings(**wrong)
