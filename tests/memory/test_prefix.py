"""The soft prefix against explicit embeddings and positions, in batches, in decoding, and on bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from comem.backbones.positions import reserved_id
from comem.memory.injection.prefix import PREFIX, Prefix, make_room, memory_at

VISION = ["tiny_qwen2_5_vl", "tiny_qwen2_vl"]
ALL = [*VISION, "tiny_qwen2"]
QUESTIONS = ["Which country is this?", "How high is it, in metres above the sea?", "Why?"]


@pytest.fixture(params=ALL)
def model(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture(params=VISION)
def vision_model(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def batch(processor: Any, model: Any, questions: list[str], side: str = "left") -> dict[str, Tensor]:
    """Questions with a picture each (sizes differ), or text alone for a text model."""
    sees = hasattr(model.config, "vision_config")
    slot = "<|vision_start|><|image_pad|><|vision_end|>" if sees else ""
    images = [Image.effect_noise((56 + 28 * i, 84), 80).convert("RGB") for i in range(len(questions))]
    kwargs = {"images": images} if sees else {}
    texts = [f"<|im_start|>user\n{slot}{q}<|im_end|>\n<|im_start|>assistant\n" for q in questions]
    out = processor(text=texts, padding=True, padding_side=side, return_tensors="pt", **kwargs)
    if not sees:
        out.pop("mm_token_type_ids", None)
    return dict(out)


def rows(inputs: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    """One row of a batch, without its padding, with its own picture."""
    keep = inputs["attention_mask"][row].bool()
    shape = inputs["input_ids"].shape
    single = {name: value[row : row + 1, keep] for name, value in inputs.items() if value.shape == shape}
    if "image_grid_thw" in inputs:
        patches = inputs["image_grid_thw"].prod(dim=1)
        start = int(patches[:row].sum())
        single["pixel_values"] = inputs["pixel_values"][start : start + int(patches[row])]
        single["image_grid_thw"] = inputs["image_grid_thw"][row : row + 1]
    return single


def memory(model: Any, items: int, seed: int = 0) -> Tensor:
    """Random memory `(8 items, d)`."""
    width = model.get_input_embeddings().weight.shape[1]
    return torch.randn(8 * items, width, generator=torch.Generator().manual_seed(seed))


def embedded(model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The question's embeddings `(1, l, d)` and positions `(3, 1, l)` or `(1, l)`."""
    embeddings = model.get_input_embeddings()(inputs["input_ids"])
    if "pixel_values" not in inputs:
        return embeddings, torch.arange(embeddings.shape[1])[None]
    features = model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
    where = (inputs["input_ids"] == model.config.image_token_id)[..., None]
    embeddings = embeddings.masked_scatter(where, torch.cat(features.pooler_output))
    positions, _ = model.model.get_rope_index(
        inputs["input_ids"],
        mm_token_type_ids=inputs["mm_token_type_ids"],
        image_grid_thw=inputs["image_grid_thw"],
    )
    return embeddings, positions


def with_memory(model: Any, inputs: dict[str, Tensor], prefix: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings and positions of [memory][question]: the question's positions follow the memory's."""
    embeddings, positions = embedded(model, inputs)
    front = torch.arange(len(prefix)).expand(*positions.shape[:-1], -1)
    return torch.cat([prefix[None], embeddings], 1), torch.cat([front, positions + len(prefix)], -1)


def stepwise(model: Any, embeddings: Tensor, positions: Tensor, steps: int) -> list[int]:
    """Greedy decoding without a cache over the full embeddings, positions counted by hand."""
    tokens: list[int] = []
    for _ in range(steps):
        logits = model(inputs_embeds=embeddings, position_ids=positions, use_cache=False).logits
        tokens.append(int(logits[0, -1].argmax()))
        if tokens[-1] == model.config.get_text_config().eos_token_id:
            break
        new = model.get_input_embeddings()(torch.tensor([[tokens[-1]]]))
        embeddings = torch.cat([embeddings, new], 1)
        step = positions.amax().expand(*positions.shape[:-1], 1) + 1
        positions = torch.cat([positions, step], -1)
    return tokens


@torch.no_grad()
@pytest.mark.parametrize("items", [1, 3, 10])
def test_logits_equal_concatenated_embeddings(model: Any, tiny_processor: Any, items: int) -> None:
    inputs = batch(tiny_processor, model, QUESTIONS[:1])
    prefix = memory(model, items)
    with PREFIX.attach(model, inputs, [prefix]) as extended:
        logits = model(**extended).logits
    embeddings, positions = with_memory(model, inputs, prefix)
    expected = model(inputs_embeds=embeddings, position_ids=positions).logits
    torch.testing.assert_close(logits, expected, atol=1e-6, rtol=0)
    plain = model(**inputs).logits
    assert (logits[:, -plain.shape[1] :] - plain).abs().max() > 0.1  # the memory is seen


@torch.no_grad()
def test_positions_are_contiguous(vision_model: Any, tiny_processor: Any) -> None:
    inputs = batch(tiny_processor, vision_model, QUESTIONS)
    prefixes = [memory(vision_model, 2), None, memory(vision_model, 1)]
    with PREFIX.attach(vision_model, inputs, prefixes) as extended:
        positions, _ = vision_model.model.get_rope_index(
            extended["input_ids"],
            mm_token_type_ids=extended["mm_token_type_ids"],
            image_grid_thw=extended["image_grid_thw"],
            attention_mask=extended["attention_mask"],
        )
    for row, size in enumerate((16, 0, 8)):
        real = positions[:, row, extended["attention_mask"][row].bool()]
        alone = rows(inputs, row)
        _, question = embedded(vision_model, alone)
        assert torch.equal(real[:, :size], torch.arange(size).expand(3, -1))
        assert torch.equal(real[:, size:], question[:, 0] + size)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_batch_of_different_memories_equals_single_runs(model: Any, tiny_processor: Any, side: str) -> None:
    inputs = batch(tiny_processor, model, QUESTIONS, side)
    prefixes = [None, memory(model, 1, 1), memory(model, 3, 2)]
    with PREFIX.attach(model, inputs, prefixes) as extended:
        logits = model(**extended).logits
        mask = extended["attention_mask"].bool()
    for row, prefix in enumerate(prefixes):
        with PREFIX.attach(model, rows(inputs, row), [prefix]) as single:
            expected = model(**single).logits[0]
        difference = (logits[row, mask[row]] - expected).abs().max()
        assert difference <= 1e-5 * expected.abs().max()


@torch.no_grad()
def test_generation_in_a_batch_equals_single_runs(model: Any, tiny_processor: Any) -> None:
    inputs = batch(tiny_processor, model, QUESTIONS)
    prefixes = [memory(model, 3), None, memory(model, 1)]
    with PREFIX.attach(model, inputs, prefixes) as extended:
        together = model.generate(**extended, max_new_tokens=12)[:, extended["input_ids"].shape[1] :]
    for row, prefix in enumerate(prefixes):
        with PREFIX.attach(model, rows(inputs, row), [prefix]) as single:
            alone = model.generate(**single, max_new_tokens=12)[0, single["input_ids"].shape[1] :]
        assert together[row, : len(alone)].tolist() == alone.tolist()


@torch.no_grad()
@pytest.mark.parametrize("use_cache", [True, False])
def test_decoding_equals_steps_by_hand(model: Any, tiny_processor: Any, use_cache: bool) -> None:
    inputs = batch(tiny_processor, model, QUESTIONS[1:2])
    prefix = memory(model, 3)
    expected = stepwise(model, *with_memory(model, inputs, prefix), steps=8)
    with PREFIX.attach(model, inputs, [prefix]) as extended:
        tokens = model.generate(**extended, max_new_tokens=8, use_cache=use_cache)
    assert tokens[0, extended["input_ids"].shape[1] :].tolist() == expected
    assert len(set(expected)) > 2  # a model that repeats itself would prove nothing


@torch.no_grad()
def test_beam_search_gives_every_beam_the_memory(model: Any, tiny_processor: Any) -> None:
    inputs = batch(tiny_processor, model, QUESTIONS[:2])
    prefixes = [memory(model, 1), memory(model, 2)]
    with PREFIX.attach(model, inputs, prefixes) as extended:
        together = model.generate(**extended, max_new_tokens=6, num_beams=3)
    with PREFIX.attach(model, rows(inputs, 1), prefixes[1:]) as single:
        alone = model.generate(**single, max_new_tokens=6, num_beams=3)
    assert together[1, -6:].tolist() == alone[0, -6:].tolist()


@torch.no_grad()
def test_earlier_calls_leave_no_trace(vision_model: Any, tiny_processor: Any) -> None:
    inputs = batch(tiny_processor, vision_model, QUESTIONS[:1])
    prefix = memory(vision_model, 1)

    def run() -> tuple[Tensor, list[int]]:
        with PREFIX.attach(vision_model, inputs, [prefix]) as extended:
            logits = vision_model(**extended).logits
            return logits, vision_model.generate(**extended, max_new_tokens=6)[0].tolist()

    first = run()
    other = batch(tiny_processor, vision_model, QUESTIONS)
    with PREFIX.attach(vision_model, other, [memory(vision_model, 10)] * 3) as extended:
        vision_model.generate(**extended, max_new_tokens=3)
    assert vision_model.model.rope_deltas is None
    again = run()
    assert torch.equal(first[0], again[0])
    assert first[1] == again[1]


def test_gradients_reach_the_memory(model: Any, tiny_processor: Any) -> None:
    inputs = batch(tiny_processor, model, QUESTIONS[:1])
    inputs["labels"] = inputs["input_ids"].clone()
    leaf = memory(model, 2).requires_grad_()
    with PREFIX.attach(model, inputs, [leaf]) as extended:
        assert extended["labels"][0, :16].tolist() == [-100] * 16
        model(**extended).loss.backward()
    twin = leaf.detach().clone().requires_grad_()
    embeddings, positions = with_memory(model, inputs, twin)
    labels = torch.cat([torch.full((1, 16), -100), inputs["labels"]], 1)
    model(inputs_embeds=embeddings, position_ids=positions, labels=labels).loss.backward()
    model.zero_grad()
    assert leaf.grad is not None and leaf.grad.abs().max() > 0
    torch.testing.assert_close(leaf.grad, twin.grad, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_a_generated_placeholder_is_an_ordinary_token(model: Any, tiny_processor: Any) -> None:
    from transformers import LogitsProcessorList

    inputs = batch(tiny_processor, model, QUESTIONS[:1])
    placeholder = reserved_id(model, inputs["input_ids"])

    def always(_: Tensor, scores: Tensor) -> Tensor:
        return torch.full_like(scores, -1e9).index_fill(1, torch.tensor([placeholder]), 0.0)

    logits = []
    for use_cache in (True, False):
        with Prefix((placeholder,)).attach(model, inputs, [memory(model, 1)]) as extended:
            out = model.generate(
                **extended,
                max_new_tokens=4,
                use_cache=use_cache,
                return_dict_in_generate=True,
                logits_processor=LogitsProcessorList([always]),
                output_logits=True,
            )
        assert out.sequences[0, -4:].tolist() == [placeholder] * 4
        logits.append(torch.stack(out.logits))
    torch.testing.assert_close(logits[0], logits[1], atol=1e-4, rtol=0)


@torch.no_grad()
def test_no_memory_changes_nothing(model: Any, tiny_processor: Any) -> None:
    inputs = batch(tiny_processor, model, QUESTIONS)
    expected = model(**inputs).logits
    for empty in (None, memory(model, 0)):
        with PREFIX.attach(model, inputs, [empty] * 3) as extended:
            assert torch.equal(extended["input_ids"], inputs["input_ids"])
            assert torch.equal(model(**extended).logits, expected)


@torch.no_grad()
def test_token_types_are_added_where_images_come_without(vision_model: Any, tiny_processor: Any) -> None:
    inputs = batch(tiny_processor, vision_model, QUESTIONS[:1])
    prefix = memory(vision_model, 1)
    with PREFIX.attach(vision_model, inputs, [prefix]) as extended:
        expected = vision_model(**extended).logits
    del inputs["mm_token_type_ids"], inputs["attention_mask"]
    with PREFIX.attach(vision_model, inputs, [prefix]) as extended:
        torch.testing.assert_close(vision_model(**extended).logits, expected, atol=1e-6, rtol=0)


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_the_hook_is_removed_even_on_error(model: Any, tiny_processor: Any) -> None:
    inputs = batch(tiny_processor, model, QUESTIONS[:1])
    before = hooks(model)
    with pytest.raises(RuntimeError, match="inside"), PREFIX.attach(model, inputs, [memory(model, 1)]):
        assert hooks(model) == before + 1
        raise RuntimeError("inside")
    assert hooks(model) == before


def test_layout() -> None:
    inputs = {
        "input_ids": torch.tensor([[9, 9, 1, 2], [3, 4, 5, 6], [7, 9, 9, 9]]),
        "attention_mask": torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0]]),
        "mm_token_type_ids": torch.tensor([[0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]]),
        "image_grid_thw": torch.ones(3, 3, dtype=torch.long),
    }
    extended, positions = make_room(inputs, [3, 0, 1], placeholder_id=8)
    assert extended["input_ids"].tolist() == [[8, 8, 8, 1, 2], [8, 3, 4, 5, 6], [8, 7, 9, 9, 9]]
    assert extended["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [0, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert extended["mm_token_type_ids"].tolist() == [[0, 0, 0, 0, 1], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]
    assert positions.int().tolist() == [[1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]]
    assert extended["image_grid_thw"] is inputs["image_grid_thw"]
    assert inputs["input_ids"].shape == (3, 4)  # the caller's tensors are left alone


IDS = torch.tensor([[1, 2, 3]])


@pytest.mark.parametrize(
    ("inputs", "prefix", "message"),
    [
        ({"input_ids": IDS}, torch.zeros(8, 32), r"\(8, 32\).*\(m, 64\)"),
        ({"input_ids": IDS}, torch.zeros(1, 8, 64), r"\(1, 8, 64\)"),
        ({"input_ids": IDS}, torch.zeros(8, 64, dtype=torch.bfloat16), "bfloat16.*convert it"),
        ({"input_ids": IDS, "attention_mask": IDS * 0}, torch.zeros(8, 64), "empty question"),
        ({"input_ids": IDS, "position_ids": IDS}, torch.zeros(8, 64), "remove position_ids"),
        ({"input_ids": IDS, "inputs_embeds": IDS}, torch.zeros(8, 64), "remove inputs"),
        ({"input_ids": IDS, "segments": IDS}, torch.zeros(8, 64), "segments"),
        ({"input_ids": IDS[0]}, torch.zeros(8, 64), r"shape \(b, l\)"),
        ({"input_ids": None}, torch.zeros(8, 64), r"shape \(b, l\)"),
    ],
)
def test_bad_input(tiny_qwen2: Any, inputs: Any, prefix: Tensor, message: str) -> None:
    before = hooks(tiny_qwen2)
    with pytest.raises(ValueError, match=message), PREFIX.attach(tiny_qwen2, inputs, [prefix]):
        pytest.fail("the context must not open")
    assert hooks(tiny_qwen2) == before


def test_placeholders(tiny_qwen2: Any) -> None:
    with pytest.raises(ValueError, match="placeholder id 2 occurs"):
        make_room({"input_ids": IDS}, [8], 2)
    before = hooks(tiny_qwen2)
    with (
        pytest.raises(ValueError, match="outside the 288"),
        memory_at(tiny_qwen2, [torch.zeros(8, 64)], torch.ones(1, 8).bool(), 5000),
    ):
        pytest.fail("the context must not open")
    assert hooks(tiny_qwen2) == before
    # the first of those named that the inputs do not contain; none left: the highest that is free
    assert [Prefix(free).room(tiny_qwen2, {"input_ids": IDS}, [1])[2] for free in ((2, 7), (3,), ())] == [
        7,
        287,
        287,
    ]


def test_one_memory_per_row(tiny_qwen2: Any) -> None:
    with pytest.raises(ValueError, match="2 memories for 1 rows"):
        make_room({"input_ids": IDS}, [0, 0], 9)


def test_an_infix_stands_where_it_is_wanted() -> None:
    inputs = {
        "input_ids": torch.tensor([[9, 9, 1, 2], [3, 4, 5, 6]]),
        "attention_mask": torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]),
        "labels": torch.tensor([[-100, -100, 1, 2], [3, 4, 5, 6]]),
    }
    extended, positions = make_room(inputs, [2, 1], 8, lambda ids, mask: [3, 2])
    assert extended["input_ids"].tolist() == [[8, 1, 8, 8, 2], [3, 4, 8, 5, 6]]
    assert extended["attention_mask"].tolist() == [[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert extended["labels"].tolist() == [[-100, 1, -100, -100, 2], [3, 4, -100, 5, 6]]
    assert positions.int().tolist() == [[0, 0, 1, 1, 0], [0, 0, 1, 0, 0]]


def test_a_prompt_in_parts_is_refused(tiny_qwen2: Any) -> None:
    prefixed = PREFIX.attach(tiny_qwen2, {"input_ids": IDS}, [torch.zeros(8, 64)])
    with prefixed as extended, pytest.raises(ValueError, match="in parts"):
        tiny_qwen2(input_ids=extended["input_ids"][:, :5])


def test_reserved_id_avoids_inputs_and_config(tiny_qwen2_5_vl: Any) -> None:
    config = tiny_qwen2_5_vl.config
    every = torch.tensor([[i for i in range(288) if i not in (100, config.image_token_id)]])
    assert reserved_id(tiny_qwen2_5_vl, every) == 100
    with pytest.raises(ValueError, match="in use"):
        reserved_id(tiny_qwen2_5_vl, torch.arange(288)[None])


def test_another_models_text_passes_untouched(tiny_qwen2: Any) -> None:
    """The same model encodes items while the context is open: their rows have no memory."""
    other = torch.arange(40)[None]
    expected = tiny_qwen2(input_ids=other).logits
    with PREFIX.attach(tiny_qwen2, {"input_ids": IDS}, [torch.randn(8, 64)]):
        assert torch.equal(tiny_qwen2(input_ids=other).logits, expected)
