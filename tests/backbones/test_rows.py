"""Every row that transformers can build, from tiny random configs: batches, images, memory in front."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from backbones.seeing import SEEING
from backbones.tiny import BUILDERS, DISTINCT, build
from torch import Tensor

from comem.backbones.base import PAPER_SAMPLING, GenerationConfig
from comem.backbones.hf import HFBackbone
from comem.backbones.positions import decoder_layers, forget_positions, memory_layers
from comem.backbones.specs import BACKBONES, BackboneError
from comem.memory.injection import PREFIX
from comem.memory.injection.keys_values import KeysValues, KVMemory, default_layers, join, read_items, rotate
from comem.types import ImageRef, Message

SHORT = GenerationConfig(max_new_tokens=5)
MROPE = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
PLAIN = [name for name in DISTINCT if name not in MROPE]
#: One image is cut into several crops, two are not: the same picture has another length in company.
CROPS_ALONE = ("llava_onevision",)

built = cache(build)


@pytest.fixture(params=DISTINCT)
def backbone(request: pytest.FixtureRequest) -> HFBackbone:
    return built(request.param)


def chat(*content: str | ImageRef) -> list[Message]:
    return [Message("user", content)]


def logits(backbone: HFBackbone, inputs: dict[str, Tensor]) -> Tensor:
    """`(b, l, v)` of a forward pass that sees nothing of earlier ones."""
    forget_positions(backbone.model)
    with torch.no_grad():
        return backbone.model(**inputs).logits


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_every_row_is_built() -> None:
    built_whole = {name for name, row in BACKBONES.items() if row.declared and not row.adapter}
    assert {*BUILDERS, *SEEING} == built_whole
    standing_for = {BACKBONES[name].family for name in DISTINCT}
    assert standing_for == {BACKBONES[name].family for name in BUILDERS}


def test_rows_of_a_batch_do_not_touch(backbone: HFBackbone, small_image: Any) -> None:
    chats = [
        chat(small_image(84, 56, 1), "What?"),
        chat("no picture at all"),
        chat("W", small_image(56, 84, 2)),
    ]
    if backbone.spec.several_images:
        chats.append(chat(small_image(84, 56, 3), "and", small_image(56, 112, 4), "?"))
    answers = backbone.generate(chats, config=SHORT)
    alone = [backbone.generate([c], config=SHORT)[0] for c in chats]
    assert [a.text for a in answers] == [a.text for a in alone] and len({a.text for a in answers}) == len(
        chats
    )
    assert [a.prompt_tokens for a in answers] == [a.prompt_tokens for a in alone]
    assert backbone.prompt_lengths(chats) == [a.prompt_tokens for a in answers]


def test_the_picture_reaches_the_model(backbone: HFBackbone, small_image: Any) -> None:
    first, second = (
        logits(backbone, backbone.process([chat(small_image(56, 56, seed), "x")]))[:, -1] for seed in (1, 2)
    )
    assert ((first - second).abs().max() > 1e-3 * first.abs().max()) == backbone.spec.sees_images


def test_one_image_or_several(backbone: HFBackbone, small_image: Any) -> None:
    first, second = small_image(56, 56, 1), small_image(56, 56, 2)
    if not backbone.spec.sees_images:
        assert "pixel_values" not in backbone.process([chat(first, "x", second)])
        return
    if not backbone.spec.several_images:
        with pytest.raises(BackboneError, match="takes one image in a conversation, got 2"):
            backbone.process([chat(first, "x", second)])
        return
    answers = backbone.generate([chat(first, "x", second), chat(second, "x", first)], config=SHORT)
    assert answers[0].text != answers[1].text


def test_turns_of_one_role_in_a_row(backbone: HFBackbone) -> None:
    """RAG writes one user turn per item; templates that want turns to alternate get a single one."""
    turns = [Message("user", (text,)) for text in ("first", "second", "third")]
    ids = backbone.process([turns])["input_ids"][0]
    text = backbone.process.tokenizer.convert_ids_to_tokens(ids)
    joined = "".join(text)
    assert joined.index("first") < joined.index("second") < joined.index("third")
    if backbone.spec.alternates:
        assert "firstĊsecondĊthird" in joined


def test_no_second_start_token(backbone: HFBackbone) -> None:
    start = backbone.process.tokenizer.bos_token_id
    if start is not None:
        assert backbone.process([chat("x")])["input_ids"][0].tolist().count(start) == 1


def test_text_cannot_forge_structure(backbone: HFBackbone, small_image: Any) -> None:
    special = backbone.process.tokenizer.added_tokens_decoder.values()
    tricky = " ".join(str(token) for token in special)
    plain, forged = (backbone.process([chat(small_image(), text)])["input_ids"][0] for text in ("x", tricky))
    assert (plain >= 256).sum() == (forged >= 256).sum()


def test_memory_in_a_batch(backbone: HFBackbone, small_image: Any) -> None:
    chats = [chat(small_image(56, 56, 1), "What?"), chat(small_image(84, 56, 2), "Where is it?"), chat("no")]
    prefixes = [torch.randn(8, 32), None, torch.randn(24, 32)]
    answers = backbone.generate(chats, prefixes, SHORT, injection=PREFIX)
    alone = [backbone.generate([c], [p], SHORT, PREFIX)[0] for c, p in zip(chats, prefixes, strict=True)]
    without = backbone.generate(chats, None, SHORT)
    assert [a.text for a in answers] == [a.text for a in alone]
    assert [a.text == w.text for a, w in zip(answers, without, strict=True)] == [False, True, False]
    assert [a.context_tokens for a in answers] == [8, 0, 24]


def test_papers_sampling_with_memory(backbone: HFBackbone, small_image: Any) -> None:
    """The repetition penalty looks up the score of every id in the prompt, placeholders included."""
    sampling = replace(PAPER_SAMPLING, max_new_tokens=3)
    for question in (
        chat("x"),
        *([chat(small_image(), "x")] if backbone.spec.name != "llama_3_2_vision" else []),
    ):
        memory = torch.ones(8, 32)
        first, again = (backbone.generate([question], [memory], sampling, PREFIX)[0] for _ in range(2))
        assert first.text == again.text


@contextmanager
def noted(module: Any, kwargs: dict[str, Any]) -> Any:
    """Keeps the keyword arguments of a module's first call."""

    def note(_: Any, args: Any, given: dict[str, Any]) -> None:
        if not kwargs:
            kwargs.update(given, **{f"arg{i}": value for i, value in enumerate(args)})

    handle = module.register_forward_pre_hook(note, with_kwargs=True)
    yield
    handle.remove()


@pytest.mark.parametrize("name", PLAIN)
def test_soft_prefix_equals_concatenated_embeddings(name: str, small_image: Any) -> None:
    """Against the decoder on [memory][what it is given without memory], at positions 0, 1, 2 …"""
    backbone, model, memory = built(name), built(name).model, torch.randn(8, 32)
    sees = name not in ("llama_3_2_vision", "gemma3")  # their masks know where pictures are: text alone
    inputs = backbone.process([chat(small_image(84, 56, 1), "What is it?") if sees else chat("What is it?")])
    seen: dict[str, Any] = {}
    with noted(model.get_decoder(), seen):
        plain = logits(backbone, inputs)
    embeddings = seen.get("inputs_embeds")
    if embeddings is None:
        embeddings = model.get_input_embeddings()(inputs["input_ids"])
    with torch.no_grad():
        hidden = model.get_decoder()(inputs_embeds=torch.cat([memory[None], embeddings], 1)).last_hidden_state
        expected = model.get_output_embeddings()(hidden)[:, 8:]
    with PREFIX.attach(model, inputs, [memory]) as extended:
        found = logits(backbone, extended)[:, 8:]
    assert_close(found, expected)
    assert (found - plain).abs().max() > 0.1 * plain.abs().max()


@pytest.mark.parametrize("name", MROPE)
def test_soft_prefix_shifts_positions(name: str, small_image: Any) -> None:
    backbone, model = built(name), built(name).model
    inputs = backbone.process([chat(small_image(84, 56, 1), "What is it?")])
    plain: dict[str, Any] = {}
    shifted: dict[str, Any] = {}
    with noted(model.get_decoder().rotary_emb, plain):
        logits(backbone, inputs)
    memory = [torch.randn(8, 32)]
    with PREFIX.attach(model, inputs, memory) as extended, noted(model.get_decoder().rotary_emb, shifted):
        logits(backbone, extended)
    native, found = (kwargs.get("position_ids", kwargs.get("arg1")) for kwargs in (plain, shifted))
    assert torch.equal(found[..., 8:], native + 8)
    assert torch.equal(found[..., :8], torch.arange(8).expand_as(found[..., :8]))


def ordinary_prompt(
    backbone: HFBackbone, item: list[Message], question: list[Message]
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Item, question, and both in one text, as the processor makes them."""
    processor, tok = backbone.processor, backbone.process.tokenizer
    from comem.io.images import open_image

    def one(texts: list[str], images: list[ImageRef]) -> dict[str, Tensor]:
        kwargs: dict[str, Any] = {"images": [[open_image(ref) for ref in images]]} if images else {}
        return dict(processor(text=["".join(texts)], add_special_tokens=False, return_tensors="pt", **kwargs))

    def rendered(turns: list[Message], ask: bool) -> str:
        text = processor.apply_chat_template(
            backbone.process._render(turns), tokenize=False, add_generation_prompt=ask
        )
        missing = tok("x")["input_ids"][0] == tok.bos_token_id and not text.startswith(tok.bos_token)
        return tok.bos_token + text if missing else text

    def images(turns: list[Message]) -> list[ImageRef]:
        refs = [part for turn in turns for part in turn.content if isinstance(part, ImageRef)]
        return refs if backbone.spec.sees_images else []

    a, q = rendered(item, False), rendered(question, True)
    return one([a], images(item)), one([q], images(question)), one([a, q], images(item) + images(question))


@contextmanager
def blind(model: Any, layers: list[int], split: int) -> Any:
    """In these layers, positions from `split` on see nothing before it."""

    def hide(_: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        mask = kwargs["attention_mask"].clone()
        mask[:, :, split:, :split] = torch.finfo(mask.dtype).min
        return args, {**kwargs, "attention_mask": mask}

    with ExitStack() as stack:
        for layer in layers:
            attention = decoder_layers(model)[layer].self_attn
            stack.callback(attention.register_forward_pre_hook(hide, with_kwargs=True).remove)
        yield


@contextmanager
def implementation(model: Any, name: str) -> Any:
    before = model.get_decoder().config._attn_implementation
    model.set_attn_implementation(name)
    yield
    model.set_attn_implementation(before)


@pytest.mark.parametrize("chosen", ["all", "some"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_kv_memory_equals_the_ordinary_prompt(
    backbone: HFBackbone, chosen: str, attention: str, small_image: Any
) -> None:
    """One item in front of a question: as one prompt of which the other layers do not see the item."""
    model, several = backbone.model, backbone.spec.several_images and backbone.spec.name not in CROPS_ALONE
    passage = ("The answer is 7.", *([small_image(84, 56, 1)] if several else []))
    # in transformers' Llama-3.2-Vision, text before a picture sees it too: no picture
    picture = [] if backbone.spec.family == "mllama" else [small_image(56, 84, 2)]
    item, question, both = ordinary_prompt(backbone, chat(*passage), chat(*picture, "What is it?"))
    able = memory_layers(model)
    layers = able if chosen == "all" else able[1::2] or able[:1]
    split = item["input_ids"].shape[1]
    others = [
        i for i, layer in enumerate(decoder_layers(model)) if hasattr(layer, "self_attn") and i not in layers
    ]
    with implementation(model, "eager"), blind(model, others, split):
        expected = logits(backbone, both)[:, split:]
    with implementation(model, attention):
        memory = join(model, read_items(model, item, layers))
        plain = logits(backbone, question)
        with KeysValues().attach(model, {}, [memory]):
            found = logits(backbone, question)
        assert torch.equal(logits(backbone, question), plain)  # no hook is left
    assert len(memory) == split and memory.layers == tuple(layers)
    assert_close(found, expected)
    assert (found - plain).abs().max() > 1e-2 * plain.abs().max()


def test_items_follow_one_another(backbone: HFBackbone, small_image: Any) -> None:
    """Joined keys are those of items that were read at these positions in the first place."""
    model, name = backbone.model, backbone.spec.name
    pictures = (small_image(84, 56, 1), small_image(56, 112, 2)) if backbone.spec.sees_images else ("", "")
    chats = [chat(pictures[0], "The answer is 7."), chat("Or is it eight?"), chat("x", pictures[1])]
    if not backbone.spec.mixed_batches:
        chats = chats[::2]
    layers = memory_layers(model)
    batch = backbone.process(chats, add_generation_prompt=False, padding_side="right")
    items = read_items(model, batch, layers)
    joined = join(model, items)
    position, start = -joined.span, 0
    assert joined.span == sum(item.span for item in items)
    for turn, item in zip(chats, items, strict=True):
        moved = read_at(backbone, turn, position, layers)
        stop = start + len(item)
        for layer in layers:
            assert_close(joined.keys[layer][:, start:stop], moved.keys[layer])
            assert_close(joined.values[layer][:, start:stop], moved.values[layer])
        position, start = position + item.span, stop
    assert position == 0 and start == len(joined)
    if name in MROPE:
        assert joined.span < len(joined)  # pictures take fewer positions than tokens


def read_at(backbone: HFBackbone, turn: list[Message], start: int, layers: Any) -> KVMemory:
    """An item read alone, its positions counted from `start`."""

    def shift(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if "position_ids" in kwargs:
            return args, {**kwargs, "position_ids": kwargs["position_ids"] + start}
        return (args[0], args[1] + start, *args[2:]), kwargs

    batch = backbone.process([turn], add_generation_prompt=False)
    handle = backbone.model.get_decoder().rotary_emb.register_forward_pre_hook(shift, with_kwargs=True)
    try:
        return read_items(backbone.model, batch, layers)[0]
    finally:
        handle.remove()


def test_kv_memories_in_a_batch(backbone: HFBackbone, small_image: Any) -> None:
    model = backbone.model
    batch = backbone.process(
        [chat("The answer is 7, as it was."), chat("No")], add_generation_prompt=False, padding_side="right"
    )
    long, short = read_items(model, batch, memory_layers(model))
    memories = [join(model, [long, short]), None, join(model, [long])]
    chats = [chat(small_image(56, 56, 1), "What?"), chat(small_image(84, 56, 2), "Where is it?"), chat("no")]
    way = KeysValues()
    answers = backbone.generate(chats, memories, SHORT, way)
    alone = [backbone.generate([c], [m], SHORT, way)[0] for c, m in zip(chats, memories, strict=True)]
    without = backbone.generate(chats, None, SHORT)
    assert [a.text for a in answers] == [a.text for a in alone]
    assert [a.text == w.text for a, w in zip(answers, without, strict=True)] == [False, True, False]
    assert [a.context_tokens for a in answers] == [len(long) + len(short), 0, len(long)]
    assert [a.prompt_tokens - a.context_tokens for a in answers] == [w.prompt_tokens for w in without]


def test_attention_picks_tokens(backbone: HFBackbone) -> None:
    """The quarter of the tokens with most attention, against the model's own attention weights."""
    model, layers = backbone.model, memory_layers(backbone.model)
    chats = [chat("The answer to everything is 42."), chat("No")]
    batch = backbone.process(chats, add_generation_prompt=False, padding_side="right")
    scored = layers[0]
    whole, kept = read_items(model, batch, layers), read_items(model, batch, layers, 0.25, scored)
    with implementation(model, "eager"), torch.no_grad():
        forget_positions(model)
        weights = model(**batch, output_attentions=True).attentions
    weights = [w for w in weights if w is not None][scored if len(weights) == 4 else 0]
    for row, (full, part) in enumerate(zip(whole, kept, strict=True)):
        size = len(full)
        best = weights[row, :, :size, :size].mean(dim=(0, 1)).topk(-(-size // 4)).indices.sort().values
        assert len(part) == len(best) and part.span == full.span
        for layer in layers:
            torch.testing.assert_close(part.keys[layer], full.keys[layer][:, best], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("depth", "expected"), [(28, (17, 18, 19)), (36, (22, 23, 24, 25)), (4, (2,)), (2, (1,))]
)
def test_the_papers_layers_scale_with_depth(depth: int, expected: tuple[int, ...]) -> None:
    model = built("qwen2_5").model

    class Deep:
        def get_decoder(self) -> Any:
            layers = [model.get_decoder().layers[0]] * depth
            return type("Decoder", (), {"layers": layers, "config": type("Config", (), {})()})()

    assert default_layers(Deep()) == expected


def test_layers_that_hold_no_memory() -> None:
    assert memory_layers(built("llama_3_2_vision").model) == (0, 2, 3)  # 1 is cross-attention
    assert memory_layers(built("gemma3").model) == (1, 3)  # the others have a window
    assert default_layers(built("gemma3").model) == (1,)  # 2 of 4 by the paper's share: the nearest
    batch = built("gemma3").process([chat("x")])
    with pytest.raises(ValueError, match=r"layers \[0, 9\] hold no memory.*\[1, 3\]"):
        read_items(built("gemma3").model, batch, [0, 1, 9])
    with pytest.raises(ValueError, match="no layers"):
        read_items(built("gemma3").model, batch, [])


@pytest.mark.parametrize("wrong", [0.0, -0.1, 1.5])
def test_wrong_fractions(wrong: float) -> None:
    backbone = built("qwen2_5")
    with pytest.raises(ValueError, match="share of tokens"):
        read_items(backbone.model, backbone.process([chat("x")]), [1], wrong)


def text_memory(text: str = "The answer is 7.", layers: tuple[int, ...] = (1, 2)) -> KVMemory:
    backbone = built("qwen2_5")
    return join(backbone.model, read_items(backbone.model, backbone.process([chat(text)]), layers))


@pytest.mark.parametrize(
    ("memories", "message"),
    [
        (lambda: [text_memory(), text_memory()], "2 memories for a batch of 1 rows"),
        (lambda: [text_memory(), text_memory(layers=(0,))], "different layers"),
    ],
)
def test_wrong_memories(memories: Callable[[], list[KVMemory]], message: str) -> None:
    backbone = built("qwen2_5")
    inputs = backbone.process([chat("x")])
    before = logits(backbone, inputs)
    with pytest.raises(ValueError, match=message), KeysValues().attach(backbone.model, {}, memories()):
        logits(backbone, inputs)
    assert torch.equal(logits(backbone, inputs), before)  # hooks are removed on errors, too
    with pytest.raises(ValueError, match="2 memories for 1 rows"):
        backbone.generate([chat("x")], [None, None], injection=KeysValues())
    with pytest.raises(ValueError, match="no memories to join"):
        join(backbone.model, [])


def test_attention_without_masks_is_refused() -> None:
    backbone = built("qwen2_5")
    memory, config = text_memory(), backbone.model.get_decoder().config
    before, config._attn_implementation = config._attn_implementation, "flash_attention_2"
    try:
        attached = KeysValues().attach(backbone.model, {}, [memory])
        with pytest.raises(ValueError, match="attn='sdpa'"), attached:
            pass
    finally:
        config._attn_implementation = before


def test_keys_that_cannot_be_moved() -> None:
    model = build("qwen2_5").model
    model.get_decoder().rotary_emb.rope_type = "dynamic"
    with pytest.raises(ValueError, match="'dynamic' change with the length"):
        join(model, [text_memory()])


def test_far_shifts_stay_exact() -> None:
    """A shift there and back, 20,000 positions away, where float32 angles are off by a thousandth."""
    keys, frequencies = torch.randn(2, 5, 16), 1.0 / 10000 ** (torch.arange(8) / 8)
    there = rotate(keys, 20_000, frequencies)
    torch.testing.assert_close(rotate(there, -20_000, frequencies), keys, rtol=1e-5, atol=1e-5)
    assert rotate(keys.bfloat16(), 3, frequencies).dtype == torch.bfloat16
    torch.testing.assert_close(rotate(keys, 7, frequencies[:4])[..., 8:], keys[..., 8:])  # partly rotary
