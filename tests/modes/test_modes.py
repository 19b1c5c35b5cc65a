"""The three modes on tiny models: what they show the backbone, what they count, what they refuse."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from comem.backbones.base import Answer, GenerationConfig
from comem.backbones.hf import HFBackbone
from comem.backbones.specs import BACKBONES, IMAGE_PASSAGE, PASSAGE_IMAGE, PASSAGES, RagFormat
from comem.memory.bank import MemoryBank
from comem.modes import MODES
from comem.registry import UnknownNameError
from comem.types import Example, ImageRef, KnowledgeItem, Message, RetrievedContext

SHORT = GenerationConfig(max_new_tokens=5)


@pytest.fixture(scope="module")
def backbone(tiny_qwen2_5_vl: Any, tiny_processor: Any) -> HFBackbone:
    return HFBackbone(BACKBONES["qwen2_5_vl"], tiny_qwen2_5_vl, tiny_processor)


@pytest.fixture()
def items(small_image: Any) -> list[KnowledgeItem]:
    texts = [f"Passage {i}: the answer is {i}." for i in range(4)]
    return [KnowledgeItem(f"item{i}", text, small_image(56, 56, i)) for i, text in enumerate(texts)]


@pytest.fixture()
def examples(small_image: Any) -> list[Example]:
    return [Example(f"q{i}", f"What is {i}?", small_image(84, 56, 10 + i)) for i in range(3)]


def contexts(items: Sequence[KnowledgeItem]) -> list[RetrievedContext | None]:
    """Three items, none (retrieval found nothing), and no retrieval at all."""
    return [RetrievedContext("q0", tuple(items[:3])), RetrievedContext("q1"), None]


def bank_of(items: Sequence[KnowledgeItem], width: int = 64) -> MemoryBank:
    generator = torch.Generator().manual_seed(5)
    return MemoryBank(torch.randn(len(items), 8, width, generator=generator), tuple(i.id for i in items), "f")


class Recorder:
    """A backbone that keeps what it was asked, and answers with what it was asked in words."""

    def __init__(self, backbone: HFBackbone, **spec: Any) -> None:
        self.backbone, self.spec = backbone, replace(backbone.spec, **spec)
        self.model, self.processor, self.process = backbone.model, backbone.processor, backbone.process
        self.prompt_lengths = backbone.prompt_lengths
        self.hidden_size, self.device, self.dtype = backbone.hidden_size, backbone.device, backbone.dtype
        self.conversations: list[list[Message]] = []
        self.prefixes: Any = None

    def generate(self, conversations: Any, prefixes: Any = None, *_: Any) -> list[Answer]:
        self.conversations, self.prefixes = [list(c) for c in conversations], prefixes
        lengths = self.process(conversations)["attention_mask"].sum(dim=1).tolist()
        return [Answer("x", 0, length, 0.0) for length in lengths]


class SlowEncoder:
    """Stands in for the memory encoder; counts its calls."""

    width, reads_images, num_vectors, elastic = 64, False, 8, ()
    learned, injection = None, ""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []

    def encode(self, items: Sequence[KnowledgeItem]) -> MemoryBank:
        self.calls.append(tuple(item.id for item in items))
        time.sleep(0.03)
        return bank_of(items)

    def accepted_fingerprints(self) -> tuple[str, ...]:
        return ("f", "older")


def ask(example: Example, grounded: bool) -> str:
    return f"{'With' if grounded else 'Without'} help: {example.question}"


def test_the_table() -> None:
    assert set(MODES) == {"baseline", "rag", "comem", "hybrid", "vlm_as_memory", "video_memory"}
    with pytest.raises(UnknownNameError, match="did you mean baseline"):
        MODES["base_line"]


@pytest.mark.parametrize("name", ["baseline", "rag", "comem", "vlm_as_memory"])
def test_each_row_takes_the_same_arguments(name: str, backbone: HFBackbone, items: Any) -> None:
    mode = MODES[name](
        backbone, encoder=None, bank=bank_of(items), ask=ask, generation=SHORT, item_order="reversed"
    )
    assert mode.name == name and mode.grounded == (name != "baseline")
    assert mode.settings.generation is SHORT and mode.settings.ask is ask


@pytest.mark.parametrize("name", ["baseline", "rag", "comem", "vlm_as_memory"])
def test_a_batch_equals_single_answers(name: str, backbone: HFBackbone, items: Any, examples: Any) -> None:
    mode = MODES[name](backbone, bank=bank_of(items), ask=ask, generation=SHORT)
    found = contexts(items)
    together = mode.answer_batch(examples, found)
    alone = [mode.answer_batch([e], [c])[0] for e, c in zip(examples, found, strict=True)]
    for answer, single in zip(together, alone, strict=True):
        assert replace(answer, seconds=0) == replace(single, seconds=0)
    assert mode.answer_batch([], []) == []


def test_baseline_ignores_knowledge(backbone: HFBackbone, items: Any, examples: Any) -> None:
    recorder = Recorder(backbone)
    mode = MODES["baseline"](recorder, ask=ask)
    answers = mode.answer_batch(examples, contexts(items))
    assert [a.context_tokens for a in answers] == [0, 0, 0]
    assert recorder.conversations[0] == [Message("user", (examples[0].image, "Without help: What is 0?"))]


def test_rag_shows_items_then_the_question(backbone: HFBackbone, items: Any, examples: Any) -> None:
    recorder = Recorder(backbone)
    answers = MODES["rag"](recorder, ask=ask).answer_batch(examples, contexts(items))
    first = recorder.conversations[0]
    assert first[:3] == [Message("user", (item.text, item.image)) for item in items[:3]]
    assert first[3] == Message("user", (examples[0].image, "With help: What is 0?"))
    assert recorder.conversations[1] == [Message("user", (examples[1].image, "Without help: What is 1?"))]
    turns = backbone.process([first], add_generation_prompt=False)["input_ids"].shape[1]
    question = backbone.process([first[3:]], add_generation_prompt=False)["input_ids"].shape[1]
    assert [a.context_tokens for a in answers] == [turns - question, 0, 0]


def test_rag_forms(backbone: HFBackbone, items: Any, examples: Any) -> None:
    found = contexts(items)
    item = items[0]

    def first_turn(recorder: Recorder, **options: Any) -> Message:
        MODES["rag"](recorder, **options).answer_batch(examples, found)
        return recorder.conversations[0][0]

    assert first_turn(Recorder(backbone, rag=PASSAGE_IMAGE)).content == (item.text, item.image)
    assert first_turn(Recorder(backbone, rag=IMAGE_PASSAGE)).content == (item.image, item.text)
    assert first_turn(Recorder(backbone), item_order="reversed").content == (items[2].text, items[2].image)
    assert first_turn(Recorder(backbone, rag=PASSAGES)).content == (item.text,)
    short = Recorder(backbone, rag=RagFormat(images=False, passage_chars=10))
    assert first_turn(short).content == (item.text[:10],)


def test_rag_items_without_image_or_text(backbone: HFBackbone, items: Any, examples: Any) -> None:
    odd = (replace(items[0], image=None), replace(items[1], text=""))
    recorder = Recorder(backbone)
    MODES["rag"](recorder).answer_batch(examples[:1], [RetrievedContext("q0", odd)])
    assert [turn.content for turn in recorder.conversations[0][:2]] == [(items[0].text,), (items[1].image,)]
    blind = Recorder(backbone, rag=PASSAGES)
    MODES["rag"](blind).answer_batch(examples[:1], [RetrievedContext("q0", odd)])
    assert [turn.content for turn in blind.conversations[0][:-1]] == [(items[0].text,)]  # no empty turn


def test_comem_puts_memory_in_front(backbone: HFBackbone, items: Any, examples: Any) -> None:
    recorder, bank = Recorder(backbone), bank_of(items)
    answers = MODES["comem"](recorder, bank=bank, ask=ask).answer_batch(examples, contexts(items))
    assert [a.context_tokens for a in answers] == [24, 0, 0]
    assert torch.equal(recorder.prefixes[0], bank.embeddings[:3].flatten(0, 1))
    assert recorder.prefixes[1:] == [None, None]
    assert recorder.conversations[0] == [Message("user", (examples[0].image, "With help: What is 0?"))]
    assert recorder.conversations[2] == [Message("user", (examples[2].image, "Without help: What is 2?"))]
    MODES["comem"](recorder, bank=bank, item_order="reversed").answer_batch(examples, contexts(items))
    assert torch.equal(recorder.prefixes[0], bank.embeddings[:3].flip(0).flatten(0, 1))


def test_comem_reads_the_first_embeddings_of_each_item(
    backbone: HFBackbone, items: Any, examples: Any, tiny_processor: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from conftest import build_tiny_qwen2_5_vl

    from comem.memory.qformer_encoder import QFormerEncoder

    recorder, bank = Recorder(backbone), bank_of(items)
    answers = MODES["comem"](recorder, bank=bank, embeddings=2).answer_batch(examples, contexts(items))
    assert [a.context_tokens for a in answers] == [6, 0, 0]
    assert torch.equal(recorder.prefixes[0], bank.embeddings[:3, :2].flatten(0, 1))
    with pytest.raises(ValueError, match="embeddings=0: give at least 1"):
        MODES["comem"](recorder, bank=bank, embeddings=0)
    with pytest.raises(ValueError, match="9 embeddings of each item: these memories have 1 to 8"):
        MODES["comem"](recorder, bank=bank, embeddings=9).answer_batch(examples, contexts(items))
    encoder = QFormerEncoder.new(build_tiny_qwen2_5_vl(), tiny_processor)
    for elastic, given, said in (
        ((), 2, "trained with all"),
        ((1, 4), 2, "trained for 1, 4"),
        ((1, 4), 4, ""),
    ):
        encoder.elastic = elastic
        caplog.clear()
        MODES["comem"](recorder, encoder=encoder, embeddings=given)
        assert (said in caplog.text) if said else not caplog.text


def test_comem_encodes_every_item_of_a_batch_once(backbone: HFBackbone, items: Any, examples: Any) -> None:
    encoder = SlowEncoder()
    recorder = Recorder(backbone)
    found = [
        RetrievedContext("q0", (items[0], items[1], items[0])),
        None,
        RetrievedContext("q2", (items[1], items[2])),
    ]
    answers = MODES["comem"](recorder, encoder=encoder).answer_batch(examples, found)
    assert encoder.calls == [("item0", "item1", "item2")]
    assert [a.context_tokens for a in answers] == [16, 0, 16]
    assert sum(a.seconds for a in answers) >= 0.03  # the time of encoding counts
    MODES["comem"](recorder, encoder=encoder).answer_batch(examples, [None] * 3)
    assert len(encoder.calls) == 1


def test_comem_prefers_the_bank(backbone: HFBackbone, items: Any, examples: Any) -> None:
    encoder = SlowEncoder()
    mode = MODES["comem"](Recorder(backbone), encoder=encoder, bank=bank_of(items))
    mode.answer_batch(examples, contexts(items))
    assert encoder.calls == []


def test_comem_with_an_encoder_on_the_readers_weights(tiny_processor: Any, items: Any, examples: Any) -> None:
    """Encoder and reader are one copy: the answers equal those from a bank on a model without LoRA."""
    from conftest import build_tiny_qwen2_5_vl

    from comem.memory.lora import LoraSettings
    from comem.memory.qformer import QFormerConfig
    from comem.memory.qformer_encoder import QFormerEncoder

    shared = build_tiny_qwen2_5_vl()
    sizes = QFormerConfig(64, depth=2, heads=4)
    encoder = QFormerEncoder.new(shared, tiny_processor, LoraSettings(4, 8), sizes)
    for name, parameter in shared.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    reader = HFBackbone(BACKBONES["qwen2_5_vl"], shared, tiny_processor)
    clean = HFBackbone(BACKBONES["qwen2_5_vl"], build_tiny_qwen2_5_vl(), tiny_processor)
    found = contexts(items)
    answers = MODES["comem"](reader, encoder=encoder, generation=SHORT).answer_batch(examples, found)
    bank = encoder.encode(items)
    expected = MODES["comem"](clean, bank=bank, generation=SHORT).answer_batch(examples, found)
    assert [a.text for a in answers] == [a.text for a in expected]
    assert len({a.text for a in answers}) == 3


def test_adapters_of_a_shared_encoder_are_off(tiny_processor: Any, items: Any, examples: Any) -> None:
    from conftest import build_tiny_qwen2_5_vl

    from comem.memory.lora import LoraSettings, adapter_switch, add_lora

    shared = build_tiny_qwen2_5_vl()
    plain = MODES["baseline"](HFBackbone(BACKBONES["qwen2_5_vl"], shared, tiny_processor), generation=SHORT)
    expected = [a.text for a in plain.answer_batch(examples, [None] * 3)]
    add_lora(shared, LoraSettings(4, 8))
    for name, parameter in shared.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    adapter_switch(shared).set(True)  # left on by someone
    assert [a.text for a in plain.answer_batch(examples, [None] * 3)] == expected


def test_what_comem_refuses(backbone: HFBackbone, items: Any, examples: Any) -> None:
    build = MODES["comem"]
    with pytest.raises(ValueError, match="needs an encoder or a memory bank"):
        build(backbone)
    with pytest.raises(ValueError, match="width 32, the backbone reads 64"):
        build(backbone, bank=bank_of(items, width=32))
    with pytest.raises(ValueError, match="another encoder"):
        build(backbone, bank=replace(bank_of(items), fingerprint="other"), encoder=SlowEncoder())
    assert build(backbone, bank=replace(bank_of(items), fingerprint="older"), encoder=SlowEncoder())
    with pytest.raises(ValueError, match="retrieval, reversed"):
        build(backbone, bank=bank_of(items), item_order="random")
    with pytest.raises(ValueError, match="item2"):
        build(backbone, bank=bank_of(items[:2])).answer_batch(examples, contexts(items))


@pytest.mark.parametrize("name", ["rag", "comem"])
def test_contexts_belong_to_examples(name: str, backbone: HFBackbone, items: Any, examples: Any) -> None:
    mode = MODES[name](backbone, bank=bank_of(items))
    with pytest.raises(ValueError, match="1 contexts for 3 examples"):
        mode.answer_batch(examples, [None])
    with pytest.raises(ValueError, match="context of 'q0' was given for example 'q1'"):
        mode.answer_batch(examples[1:2], contexts(items)[:1])


def test_a_damaged_item_is_named(backbone: HFBackbone, items: Any, examples: Any) -> None:
    broken = replace(items[0], image=ImageRef(data=b"\x89PNG\r\n"))
    with pytest.raises(ValueError, match="bytes"):
        MODES["rag"](backbone).answer_batch(examples[:1], [RetrievedContext("q0", (broken,))])
