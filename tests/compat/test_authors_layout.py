"""The authors' layouts for a text-only reader: what stands where, at which positions, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen2ForCausalLM

from comem.backbones.base import GenerationConfig
from comem.backbones.hf import HFBackbone, load_backbone
from comem.backbones.positions import with_positions
from comem.backbones.specs import BACKBONES
from comem.backbones.text_reader import text_config_of
from comem.compat.checkpoint import share_question_side
from comem.compat.commands import ConvertCheckpointSettings
from comem.compat.convert import convert
from comem.memory.injection import INJECTIONS
from comem.memory.injection.authors import AuthorsLayout, read_prompt
from comem.memory.lora import adapters_on
from comem.memory.qformer_encoder import QFormerEncoder
from comem.modes.comem import ComemMode
from comem.modes.vlm_as_memory import VlmAsMemoryMode
from comem.types import Example, KnowledgeItem, Message, RetrievedContext
from tests.compat.authors_layouts import merged, their_qformer
from tests.conftest import token_id

ONE = GenerationConfig(max_new_tokens=2)


@pytest.fixture()
def text_reader(encoder: QFormerEncoder, tiny_processor: Any) -> HFBackbone:
    """Layers of its own, the encoder's token embeddings and head: as released."""
    torch.manual_seed(4)
    model: Any = Qwen2ForCausalLM(text_config_of(encoder.model.config))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(4.0)
    share_question_side(encoder.model, model)  # type: ignore[arg-type]
    tokenizer = tiny_processor.tokenizer
    return HFBackbone(BACKBONES["qwen2_5"], model.eval().requires_grad_(False), tokenizer)


@pytest.fixture()
def chats(small_image: Any) -> list[list[Message]]:
    """Of different lengths; the second without a picture."""
    return [
        [Message("user", ("Which?", small_image(56, 84, 1), "That one?"))],
        [Message("user", ("Who wrote it?",))],
        [Message("user", (small_image(56, 56, 2), "Where is this town, and since when?"))],
    ]


@contextmanager
def seen_by(model: Any) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Embeddings `(b, l, d)` and positions `(b, l)` of every forward call."""
    seen: list[tuple[Tensor, Tensor]] = []

    def note(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        positions = kwargs["position_ids"].expand(len(hidden), -1)
        seen.append((hidden.clone(), positions.clone()))

    handle = model.model.layers[0].register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def parts_of(encoder: QFormerEncoder, reader: Any, chat: list[Message]) -> tuple[Tensor, ...]:
    """Hidden states and input embeddings `(l, d)` of one prompt, and its ids, by the plain way."""
    model: Any = encoder.model
    inputs = reader.process([chat])
    with torch.no_grad(), adapters_on(model):
        hidden = model.base_model(**with_positions(model, inputs)).last_hidden_state[0]
        embeds = model.get_input_embeddings()(inputs["input_ids"])[0]
        if "pixel_values" in inputs:
            found = model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
            features = torch.cat(list(getattr(found, "pooler_output", found)))
            embeds[inputs["input_ids"][0] == token_id("<|image_pad|>")] = features
    return hidden, embeds, inputs["input_ids"][0]


@pytest.mark.parametrize("layout", ["authors_llm", "authors_llm_training"])
def test_what_stands_where(
    layout: Any, encoder: QFormerEncoder, text_reader: HFBackbone, chats: list[list[Message]]
) -> None:
    injection = AuthorsLayout(encoder, layout)
    reader = injection.reader(text_reader)
    memories = [torch.randn(16, 64), torch.randn(8, 64), None]
    with seen_by(text_reader.model) as seen:
        answers = reader.generate(chats, memories, ONE, injection)
    embedded, positions = seen[0]
    for row, (chat, memory) in enumerate(zip(chats, memories, strict=True)):
        hidden, embeds, ids = parts_of(encoder, reader, chat)
        ends = (ids == token_id("<|vision_end|>")).nonzero().flatten().tolist()
        if layout == "authors_llm_training" and ends:
            embeds = embeds[ends[0] + 1 :]
        expected = torch.cat([part for part in (memory, hidden, embeds) if part is not None])
        torch.testing.assert_close(embedded[row, -len(expected) :], expected, atol=1e-5, rtol=1e-5)
        assert positions[row, -len(expected) :].tolist() == list(range(len(expected)))
        assert answers[row].prompt_tokens == len(expected)
    # decoding goes on behind the prompt (their LLM code has no offset: authors_code.md 1.9)
    assert seen[1][1][:, 0].tolist() == (positions[:, -1] + 1).tolist()


def test_the_logits_are_those_of_plain_concatenation(
    encoder: QFormerEncoder, text_reader: HFBackbone, chats: list[list[Message]]
) -> None:
    injection = AuthorsLayout(encoder)
    reader = injection.reader(text_reader)
    memory = torch.randn(8, 64)
    hidden, embeds, _ = parts_of(encoder, reader, chats[0])
    with torch.no_grad():
        logits = text_reader.model(inputs_embeds=torch.cat([memory, hidden, embeds])[None]).logits[0, -1]
    expected = text_reader.process.tokenizer.decode([int(logits.argmax())], skip_special_tokens=True)
    (answer,) = reader.generate(chats[:1], [memory], GenerationConfig(max_new_tokens=1), injection)
    assert answer.text == expected.strip()


def test_in_the_mode_with_their_order(
    encoder: QFormerEncoder, text_reader: HFBackbone, items: list[KnowledgeItem], small_image: Any
) -> None:
    injection = AuthorsLayout(encoder)
    mode = ComemMode(text_reader, encoder=encoder, injection=injection, item_order="reversed", generation=ONE)
    assert mode.opens_question_images and not encoder.form.reads_images
    with seen_by(text_reader.model) as seen:
        (answer,) = mode.answer_batch(
            [Example("q", "What?", small_image(56, 56, 3))], [RetrievedContext("q", tuple(items[:2]))]
        )
    assert answer.context_tokens == 16
    expected = encoder.encode(items[:2]).select(["i1", "i0"]).prefix()
    torch.testing.assert_close(seen[0][0][0, :16], expected, atol=1e-5, rtol=1e-5)


def test_a_prompt_is_read_with_the_tuned_encoder(
    encoder: QFormerEncoder, text_reader: HFBackbone, chats: list[list[Message]]
) -> None:
    inputs = AuthorsLayout(encoder).reader(text_reader).process(chats)
    with torch.no_grad():
        prompt = read_prompt(encoder, inputs)
    assert prompt.hidden.shape == prompt.embeddings.shape == (*inputs["input_ids"].shape, 64)
    with torch.no_grad():
        untuned = encoder.model.base_model(**with_positions(encoder.model, inputs)).last_hidden_state  # type: ignore[operator]
    assert (prompt.hidden - untuned).abs().max() > 1e-2, "LoRA is on"


def test_refusals(encoder: QFormerEncoder, text_reader: HFBackbone, chats: list[list[Message]]) -> None:
    with pytest.raises(ValueError, match="layout 'comem': allowed are authors_llm, authors_llm_training"):
        AuthorsLayout(encoder, "comem")
    sees = replace(text_reader, spec=replace(text_reader.spec, sees_images=True))
    with pytest.raises(ValueError, match="for text-only readers; qwen2_5 sees images itself"):
        INJECTIONS["authors_llm"](sees, encoder)
    with pytest.raises(ValueError, match="give --encoder DIR"):
        INJECTIONS["authors_llm_training"](text_reader, None)
    config = text_config_of(encoder.model.config)
    config.hidden_size = 96
    wide = replace(text_reader, model=Qwen2ForCausalLM(config))
    with pytest.raises(
        ValueError, match="hidden states of width 64 before the question, the reader reads 96"
    ):
        AuthorsLayout(encoder).reader(wide)
    injection = AuthorsLayout(encoder)
    with pytest.raises(ValueError, match="takes memory as embeddings only"):
        VlmAsMemoryMode(text_reader, injection=injection)
    reader = injection.reader(text_reader)
    assert reader.generate([]) == [] and reader.prompt_lengths([]) == []


def test_a_converted_checkpoint_answers(
    encoder: QFormerEncoder, text_reader: HFBackbone, tiny_processor: Any, small_image: Any, tmp_path: Path
) -> None:
    """From their text-only checkpoint to an answer in their layout: `comem convert`, then the two folders."""
    theirs = merged(tmp_path / "theirs", encoder.merge().model, text_reader.model, their_qformer())
    tiny_processor.save_pretrained(theirs)
    convert(
        ConvertCheckpointSettings(
            theirs, tmp_path / "encoder", reader=tmp_path / "reader", question_vision="encoder"
        )
    )
    made, reader = QFormerEncoder.load(tmp_path / "encoder"), load_backbone(tmp_path / "reader")
    assert not reader.spec.sees_images
    table = made.model.get_input_embeddings().weight  # type: ignore[operator]
    assert torch.equal(reader.model.get_input_embeddings().weight, table)
    head = made.model.get_output_embeddings().weight  # type: ignore[operator]
    assert torch.equal(reader.model.lm_head.weight, head)
    mode = ComemMode(
        reader, encoder=made, injection=AuthorsLayout(made), item_order="reversed", generation=ONE
    )
    item = KnowledgeItem("a", "Oslo is a town.", small_image(56, 56, 1))
    questions = [Example("q", "What?", small_image(56, 56, 3))]
    (answer,) = mode.answer_batch(questions, [RetrievedContext("q", (item,))])
    (length,) = mode.reader.prompt_lengths([[mode.question_turn(questions[0], True)]])
    assert answer.prompt_tokens == 8 + 2 * length
