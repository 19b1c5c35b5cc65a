"""VLM-as-memory: what is read of items, how often, what it counts, what it refuses."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from backbones.tiny import build

from comem.backbones.base import GenerationConfig
from comem.memory.injection import keys_values as kv_memory
from comem.memory.injection.keys_values import KeysValues, join, read_items
from comem.modes import MODES, KVSettings
from comem.modes import vlm_as_memory as module
from comem.modes.vlm_as_memory import AUTHORS_KV, VlmAsMemoryMode
from comem.types import Example, KnowledgeItem, Message, RetrievedContext

SHORT = GenerationConfig(max_new_tokens=5)
built = cache(build)


@pytest.fixture()
def items(small_image: Any) -> list[KnowledgeItem]:
    return [KnowledgeItem(f"i{i}", f"Passage {i}: it is {7 * i}.", small_image(56, 84, i)) for i in range(3)]


@pytest.fixture()
def example(small_image: Any) -> Example:
    return Example("q0", "What is it?", small_image(84, 56, 9))


def mode(name: str = "qwen2_5_vl", **settings: Any) -> VlmAsMemoryMode:
    return VlmAsMemoryMode(built(name), generation=SHORT, kv=KVSettings(**settings))


def test_answers_come_from_joined_memories(items: Any, example: Example) -> None:
    """The mode by hand: read, join, put in front, generate."""
    backbone = built("qwen2_5_vl")
    (answer,) = mode(layers=(1, 2)).answer_batch([example], [RetrievedContext("q0", tuple(items))])
    chats = [[Message("user", (item.text, item.image))] for item in items]
    batch = backbone.process(chats, add_generation_prompt=False, padding_side="right")
    memory = join(backbone.model, read_items(backbone.model, batch, (1, 2)))
    question = backbone.process([[Message("user", (example.image, example.question))]])
    with KeysValues().attach(backbone.model, question, [memory]), torch.no_grad():
        tokens = backbone.model.generate(**question, max_new_tokens=5, do_sample=False)
    new = tokens[:, question["input_ids"].shape[1] :]
    assert answer.text == backbone.process.tokenizer.batch_decode(new, skip_special_tokens=True)[0].strip()
    assert answer.context_tokens == len(memory) == int(batch["attention_mask"].sum())
    assert answer.prompt_tokens == len(memory) + question["input_ids"].shape[1]


def test_a_quarter_of_the_tokens(items: Any, example: Example) -> None:
    context = [RetrievedContext("q0", tuple(items))]
    whole, part = (mode(fraction=f).answer_batch([example], context)[0] for f in (1.0, 0.25))
    per_item = [
        mode().answer_batch([example], [RetrievedContext("q0", (i,))])[0].context_tokens for i in items
    ]
    assert whole.context_tokens == sum(per_item)
    assert part.context_tokens == sum(-(-n // 4) for n in per_item)
    assert part.text != whole.text


def test_every_item_of_a_batch_is_read_once(
    items: Any, example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def counted(model: Any, inputs: Any, *args: Any) -> Any:
        sizes.append(len(inputs["input_ids"]))
        return kv_memory.read_items(model, inputs, *args)

    monkeypatch.setattr(module, "read_items", counted)
    examples = [example, replace(example, id="q1"), replace(example, id="q2")]
    found = [
        RetrievedContext("q0", (items[0], items[1], items[0])),
        None,
        RetrievedContext("q2", tuple(items)),
    ]
    answers = mode().answer_batch(examples, found)
    assert sizes == [3] and answers[1].context_tokens == 0
    mode().answer_batch(examples, [None] * 3)
    assert sizes == [3]
    monkeypatch.setattr(module, "_BATCH", 2)
    again = mode().answer_batch(examples, found)
    assert sizes == [3, 2, 1] and [a.text for a in again] == [a.text for a in answers]


def test_reading_counts_as_time(items: Any, example: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    def slow(*args: Any) -> Any:
        time.sleep(0.2)
        return kv_memory.read_items(*args)

    monkeypatch.setattr(module, "read_items", slow)
    (answer,) = mode().answer_batch([example], [RetrievedContext("q0", tuple(items))])
    assert answer.seconds >= 0.2


def test_what_an_item_shows(items: Any, example: Example) -> None:
    item = items[0]
    assert mode().item_turn(example, item).content == (item.text, item.image)
    # one picture at a time is what these models take, and each item is read alone
    assert mode("llava_1_5").item_turn(example, item).content == (item.image, item.text)
    assert mode("qwen2_5").item_turn(example, item).content == (item.text,)
    authors = mode().on(kv=AUTHORS_KV).item_turn(example, item)
    assert authors.content == (example.question, f"Given Information:{item.text}", item.image)


def test_nothing_to_read(items: Any, example: Example) -> None:
    """A text model and an item that is a picture alone: as without knowledge."""
    blank = replace(items[0], text="")
    (answer,) = mode("qwen2_5").answer_batch([example], [RetrievedContext("q0", (blank,))])
    (plain,) = MODES["baseline"](built("qwen2_5"), generation=SHORT).answer_batch([example], [None])
    assert answer.context_tokens == 0 and answer.text == plain.text


def test_the_authors_settings(items: Any, example: Example) -> None:
    context = [RetrievedContext("q0", tuple(items))]
    (ours,), (theirs,) = (
        mode().on(kv=kv).answer_batch([example], context) for kv in (KVSettings(), AUTHORS_KV)
    )
    assert theirs.context_tokens > ours.context_tokens  # the question is read along with each item
    memory = mode().memories([example], [tuple(items)])[0]
    scaled = mode(scale=1.5).memories([example], [tuple(items)])[0]
    for layer in memory.layers:
        torch.testing.assert_close(scaled.keys[layer], 1.5 * memory.keys[layer])
        torch.testing.assert_close(scaled.values[layer], 1.5 * memory.values[layer])


def test_adapters_of_a_shared_encoder_are_off(items: Any, example: Example) -> None:
    from comem.memory.lora import LoraSettings, adapter_switch, add_lora

    backbone = build("qwen2_5_vl")
    context = [RetrievedContext("q0", tuple(items))]
    own = VlmAsMemoryMode(backbone, generation=SHORT)
    (before,) = own.answer_batch([example], context)
    add_lora(backbone.model, LoraSettings(4, 8))
    for name, parameter in backbone.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    adapter_switch(backbone.model).set(True)
    assert own.answer_batch([example], context)[0].text == before.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fraction": 0.0}, "fraction 0.0"), ({"fraction": 25}, "fraction 25"), ({"scale": 0.0}, "scale 0.0"),
        ({"layers": (17, 18, 19)}, r"layers \[17, 18, 19\] hold no memory.*\[0, 1, 2, 3\]"),
    ],
)  # fmt: skip
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mode(**settings)


def test_wrong_order() -> None:
    with pytest.raises(ValueError, match="retrieval, reversed"):
        MODES["vlm_as_memory"](built("qwen2_5"), item_order="random")
