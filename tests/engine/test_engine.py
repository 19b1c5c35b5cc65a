"""The engine answers as the modes do alone, reads no item twice, and prepares what comes next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from comem.backbones.base import PAPER_SAMPLING, GenerationConfig
from comem.backbones.hf import HFBackbone
from comem.bank.serve import LiveBank
from comem.engine import Engine
from comem.engine.engine import EngineBackbone, fast
from comem.memory.bank import MemoryBank
from comem.memory.qformer_encoder import QFormerEncoder
from comem.modes.base import Mode
from comem.modes.baseline import BaselineMode
from comem.modes.comem import ComemMode
from comem.modes.rag import RagMode
from comem.modes.vlm_as_memory import VlmAsMemoryMode
from comem.types import Example, ImageRef, KnowledgeItem, RetrievedContext

SHORT = GenerationConfig(max_new_tokens=6)
Questions = list[tuple[Example, RetrievedContext | None]]


@pytest.fixture(scope="module")
def encoder(backbone: HFBackbone) -> QFormerEncoder:
    torch.manual_seed(3)
    encoder = QFormerEncoder.new(backbone.model, backbone.processor)
    for parameter in encoder.trainable_parameters():  # LoRA's B starts at zero: give it something to say
        torch.nn.init.normal_(parameter, std=0.05)
    return encoder.eval()


@pytest.fixture()
def items(small_image: Any) -> list[KnowledgeItem]:
    return [KnowledgeItem(f"i{n}", f"Passage {n}" * (1 + n % 3), small_image(56, 56, n)) for n in range(6)]


@pytest.fixture()
def questions(items: list[KnowledgeItem], small_image: Any) -> Questions:
    """Nine questions with none to three items, which several share, and one without retrieval."""
    found: Questions = []
    for n in range(9):
        shown = tuple(items[(n + j) % 6] for j in range(n % 4))
        example = Example(f"q{n}", f"What is {n}?" + "!" * n, small_image(56, 84, 20 + n))
        found.append((example, RetrievedContext(f"q{n}", shown) if n != 4 else None))
    return found


def alone(mode: Mode, questions: Questions) -> list[tuple[str, int, int]]:
    """Answers of the mode on its own, one question at a time."""
    answers = [mode.answer_batch([example], [context])[0] for example, context in questions]
    return [(answer.text, answer.context_tokens, answer.prompt_tokens) for answer in answers]


def told(engine: Engine, questions: Questions) -> list[tuple[str, int, int]]:
    return [(a.text, a.context_tokens, a.prompt_tokens) for a in engine.answer(questions)]


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_every_mode_answers_as_alone(
    backbone: HFBackbone, encoder: QFormerEncoder, questions: Questions, batch_size: int
) -> None:
    for build in (BaselineMode, RagMode, ComemMode):
        options = {"encoder": encoder} if build is ComemMode else {}
        mode: Mode = build(backbone, generation=SHORT, **options)  # type: ignore[arg-type]
        assert told(Engine(mode, batch_size), questions) == alone(mode, questions), build.name


def test_bank_equals_fresh_and_never_asks_the_encoder(
    backbone: HFBackbone, encoder: QFormerEncoder, questions: Questions, items: list[KnowledgeItem]
) -> None:
    bank = encoder.encode(items)
    fresh = told(Engine(ComemMode(backbone, generation=SHORT, encoder=encoder)), questions)
    engine = Engine(ComemMode(backbone, generation=SHORT, bank=bank), batch_size=4)
    assert told(engine, questions) == fresh
    assert engine.counts.encoder_calls == 0


def test_no_item_is_encoded_twice_and_a_batchs_missing_ones_in_one_call(
    backbone: HFBackbone, encoder: QFormerEncoder, questions: Questions, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    plain = QFormerEncoder.forward

    def counted(self: QFormerEncoder, inputs: dict[str, Any]) -> torch.Tensor:
        calls.append(len(inputs["input_ids"]))
        return plain(self, inputs)

    monkeypatch.setattr(QFormerEncoder, "forward", counted)
    engine = Engine(ComemMode(backbone, generation=SHORT, encoder=encoder), batch_size=3)
    first = told(engine, questions)
    assert sum(calls) == 6 and len(calls) <= 3  # six items, at most one call a batch
    assert (engine.counts.encoder_calls, engine.counts.items_encoded) == (len(calls), 6)
    assert told(engine, questions) == first and sum(calls) == 6


def test_inputs_are_made_ahead_once(
    backbone: HFBackbone, encoder: QFormerEncoder, questions: Questions, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, ...]] = []
    plain = QFormerEncoder.inputs

    def noted(self: QFormerEncoder, items: Sequence[KnowledgeItem]) -> dict[str, torch.Tensor]:
        made.append(tuple(item.id for item in items))
        return plain(self, items)

    monkeypatch.setattr(QFormerEncoder, "inputs", noted)
    told(Engine(ComemMode(backbone, generation=SHORT, encoder=encoder), batch_size=3), questions)
    assert sorted(sum(made, ())) == [f"i{n}" for n in range(6)]  # what was prepared is what was used


def test_what_is_remembered_is_bounded(encoder: QFormerEncoder, items: list[KnowledgeItem]) -> None:
    memories = LiveBank(encoder, cache_items=2, items_per_call=2)
    whole = encoder.encode(items)
    torch.testing.assert_close(memories.of(items).embeddings, whole.embeddings, atol=1e-4, rtol=1e-4)
    assert len(memories._cache) == 2 and memories.counts.encoder_calls == 3
    memories.of(items[-2:])
    assert memories.counts.encoder_calls == 3 and memories.of([]).embeddings.shape == (0, 8, 64)
    with pytest.raises(ValueError, match="items_per_call"):
        LiveBank(encoder, items_per_call=0)


def test_other_decoding_and_other_memories_go_the_backbones_own_way(
    backbone: HFBackbone, questions: Questions, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = fast(backbone)
    assert isinstance(quick, EngineBackbone) and fast(quick) is quick
    seen: list[GenerationConfig] = []
    plain = HFBackbone._answer

    def noted(self: HFBackbone, conversations: Any, memories: Any, config: Any, *rest: Any) -> Any:
        seen.append(config)
        return plain(self, conversations, memories, config, *rest)

    monkeypatch.setattr(HFBackbone, "_answer", noted)
    sampling = GenerationConfig(max_new_tokens=3, temperature=0.7, seed=1)
    told(Engine(BaselineMode(backbone, generation=sampling), batch_size=9), questions)
    told(Engine(VlmAsMemoryMode(backbone, generation=SHORT), batch_size=9), questions)
    told(Engine(BaselineMode(backbone, generation=SHORT), batch_size=9), questions)
    assert seen == [sampling, SHORT] and PAPER_SAMPLING.temperature > 0


def test_a_broken_picture_is_named_and_costs_its_batch_alone(
    backbone: HFBackbone, questions: Questions
) -> None:
    broken = (Example("broken", "What is it?" + "?" * 40, ImageRef(data=b"GIF89a no")), None)
    engine = Engine(BaselineMode(backbone, generation=SHORT), batch_size=3)
    answers = engine.stream([*((example, None) for example, _ in questions), broken])
    seen = []
    with pytest.raises(ValueError, match="image"):
        for example_id, _ in answers:
            seen.append(example_id)
    assert len(seen) == 9 and "broken" not in seen


def test_bad_sizes(backbone: HFBackbone) -> None:
    with pytest.raises(ValueError, match="batch_size is 0"):
        Engine(BaselineMode(backbone), batch_size=0)


def test_a_bank_of_another_width_is_refused(backbone: HFBackbone) -> None:
    with pytest.raises(ValueError, match="width 32"):
        Engine(ComemMode(backbone, bank=MemoryBank(torch.zeros(1, 8, 32), ("a",), "f")))
