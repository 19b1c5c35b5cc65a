"""Gated cross-attention blocks on decoders of transformers: what must hold whatever the decoder is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from comem.backbones.media import BlockSizes, Media, MediaBlocks, MediaError, every
from tests.backbones.families import make
from tests.backbones.tiny import build
from tests.conftest import build_tiny_qwen2, build_tiny_qwen2_5_vl

WORDS = torch.tensor([[5, 9, 17, 40, 41, 60, 7, 8]])


def _decoder(name: str) -> Any:
    if name == "qwen2_5":
        return build_tiny_qwen2(4)
    if name == "qwen2_5_vl":
        return build_tiny_qwen2_5_vl(4)
    if name == "internvl3":
        return build("internvl3").model
    return make(name, 4)[0]


DECODERS = ("qwen2_5", "qwen2_5_vl", "internvl3", "llama", "gemma3_text")


@pytest.fixture(params=DECODERS, scope="module")
def model(request: pytest.FixtureRequest) -> Iterator[Any]:
    torch.manual_seed(3)
    model = _decoder(request.param).eval().requires_grad_(False)
    yield model


def blocks_for(model: Any, gate: float = 0.8, **more: Any) -> MediaBlocks:
    torch.manual_seed(11)
    width = model.get_decoder().config.hidden_size
    blocks = MediaBlocks(BlockSizes(width, heads=3, head_dim=8, intermediate=24, layers=(1, 3), **more))
    blocks.start(0.2)
    for parameter in blocks.gate_parameters():
        parameter.data.fill_(gate)
    return blocks


def media_of(model: Any, *sizes: int, ids: bool = True) -> Media:
    torch.manual_seed(12)
    width = model.get_decoder().config.hidden_size
    rows = [torch.randn(size, width) if size else None for size in sizes]
    found = Media.of(rows, [torch.arange(2, 2 + size) for size in sizes] if ids else None)
    assert found is not None
    return found


def logits(model: Any, ids: Tensor = WORDS, **more: Any) -> Tensor:
    mask = more.pop("attention_mask", torch.ones_like(ids))
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, position_ids=places, **more).logits  # type: ignore[no-any-return]


def test_with_gates_at_zero_the_decoder_is_the_base_bitwise(model: Any) -> None:
    base, blocks = logits(model), blocks_for(model, gate=0.0)
    with blocks.attach(model, media_of(model, 6)):
        assert torch.equal(logits(model), base)
    assert torch.equal(logits(model), base)


def test_media_count_and_leaving_restores_the_base(model: Any) -> None:
    base, blocks, media = logits(model), blocks_for(model), media_of(model, 6)
    with blocks.attach(model, media):
        first = logits(model)
    other = Media(media.values.flip(1), media.counts, media.ids)
    with blocks.attach(model, other):
        second = logits(model)
    assert (first - base).abs().max() > 1e-3
    assert (second - first).abs().max() > 1e-4
    assert torch.equal(logits(model), base)
    with blocks.attach(model, None):
        assert torch.equal(logits(model), base)


def test_prefill_and_decoding_equal_one_forward(model: Any) -> None:
    blocks, media = blocks_for(model), media_of(model, 6)
    with blocks.attach(model, media):
        out = model.generate(
            input_ids=WORDS, attention_mask=torch.ones_like(WORDS), max_new_tokens=5, min_new_tokens=5,
            do_sample=False, output_logits=True, return_dict_in_generate=True, pad_token_id=0,
        )  # fmt: skip
        whole = logits(model, out.sequences[:, :-1])
    steps = torch.stack(out.logits, dim=1)
    assert torch.allclose(steps, whole[:, WORDS.shape[1] - 1 :], atol=1e-5)


def test_a_padded_batch_of_unequal_media_equals_single_rows(model: Any) -> None:
    blocks = blocks_for(model)
    media = media_of(model, 6, 0, 3)
    ids = torch.cat([WORDS, torch.tensor([[0, 0, 0, 9, 9, 4, 3, 2], [0, 0, 6, 5, 4, 3, 2, 1]])])
    mask = torch.tensor([[1] * 8, [0] * 3 + [1] * 5, [0] * 2 + [1] * 6])
    with blocks.attach(model, media):
        together = logits(model, ids, attention_mask=mask)
    for row, (skip, count) in enumerate(zip((0, 3, 2), media.counts, strict=True)):
        alone = None
        if count:
            assert media.ids is not None
            alone = Media(media.values[row : row + 1, :count], (count,), media.ids[row : row + 1, :count])
        with blocks.attach(model, alone):
            single = logits(model, ids[row : row + 1, skip:])
        assert torch.allclose(together[row, skip:], single[0], atol=2e-5)


def test_beams_take_their_rows_media(model: Any) -> None:
    blocks, media = blocks_for(model), media_of(model, 6, 3)
    ids = WORDS.repeat(2, 1)
    how = {"max_new_tokens": 3, "num_beams": 2, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with blocks.attach(model, media):
        both = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **how)
    assert media.ids is not None
    for row, count in enumerate(media.counts):
        one = Media(media.values[row : row + 1, :count], (count,), media.ids[row : row + 1, :count])
        with blocks.attach(model, one):
            alone = model.generate(input_ids=WORDS, attention_mask=torch.ones_like(WORDS), **how)
        assert torch.equal(both[row], alone[0])


def test_keys_and_values_are_made_once_for_an_image_set(model: Any) -> None:
    blocks, calls = blocks_for(model), []
    for block in blocks.blocks.values():
        block.to_kv.register_forward_hook(lambda *_: calls.append(1))
    with blocks.attach(model, media_of(model, 6)):
        model.generate(
            input_ids=WORDS, attention_mask=torch.ones_like(WORDS), max_new_tokens=4, pad_token_id=0
        )
    assert len(calls) == len(blocks.blocks)


def test_nothing_is_left_after_an_exception(model: Any) -> None:
    blocks, base = blocks_for(model), logits(model)
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    with pytest.raises(RuntimeError, match="on purpose"), blocks.attach(model, media_of(model, 6)):
        logits(model)
        raise RuntimeError("on purpose")
    assert torch.equal(logits(model), base)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before


def test_checkpointed_gradients_are_equal_and_the_base_has_none(model: Any) -> None:
    blocks = blocks_for(model)
    found = []
    for recompute in (False, True):
        blocks.checkpointing = recompute
        blocks.zero_grad()
        if recompute:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train(recompute)
        with blocks.attach(model, media_of(model, 6)):
            out = model(input_ids=WORDS, attention_mask=torch.ones_like(WORDS), use_cache=False).logits
        out.square().mean().backward()
        found.append({name: p.grad.clone() for name, p in blocks.named_parameters()})
    model.gradient_checkpointing_disable()
    model.eval()
    assert all(torch.allclose(found[0][name], found[1][name], rtol=1e-5, atol=1e-7) for name in found[0])
    assert all(float(grad.abs().max()) > 0 for grad in found[0].values())
    assert all(p.grad is None for p in model.parameters())


def test_without_positions_the_order_of_media_does_not_count(model: Any) -> None:
    blocks, media = blocks_for(model), media_of(model, 6, ids=False)
    with blocks.attach(model, media):
        first = logits(model)
    with blocks.attach(model, Media(media.values.flip(1), media.counts)):
        assert torch.allclose(logits(model), first, atol=1e-5)


def test_samples_of_a_packed_row_do_not_see_each_others_media() -> None:
    model, media = _decoder("llama").eval(), None
    blocks, media = blocks_for(model), media_of(model, 9)
    assert media.ids is not None
    hidden = torch.randn(1, 10, model.config.hidden_size)
    block = blocks.blocks["1"]
    spans = Media(media.values, (4, 0, 5), media.ids, ((0, 3, 0, 4), (3, 6, 4, 4), (6, 10, 4, 9)))
    from comem.backbones.media import _Call

    call = _Call(blocks, spans, None)
    call.ids = torch.arange(10)[None]
    packed = call.through("1", hidden)
    for start, end, first, last in spans.spans:
        alone = hidden[:, start:end]
        if last > first:
            keys = block.keys_values(media.values[:, first:last], media.ids[:, first:last])
            alone = block(alone, *keys, call.ids[:, start:end])
        assert torch.allclose(packed[:, start:end], alone, atol=1e-6)
    assert torch.equal(packed[:, 3:6], hidden[:, 3:6])


def test_a_null_key_lets_a_row_look_away() -> None:
    model = _decoder("llama")
    blocks, media = blocks_for(model, null_key=True), media_of(model, 6, 2)
    block = blocks.blocks["1"]
    hidden = torch.randn(2, 4, model.config.hidden_size)
    keys, values = block.keys_values(media.values, None)
    mask = (torch.arange(6) < torch.tensor([[6], [2]]))[:, None, None]
    block.ff_gate.data.zero_()
    near = block(hidden, keys, values, None, mask)
    block.to_q.weight.data.zero_()
    block.null_key.data.fill_(1.0)  # scores are all 0: each key the same share, the null key's value is 0
    even = block(hidden, keys, values, None, mask)
    means = torch.stack([values[0].sum(1) / 7, values[1, :, :2].sum(1) / 3])  # (b, H, e)
    wanted = hidden + block.attn_gate.tanh() * block.to_out(means.flatten(1))[:, None]
    assert torch.allclose(even, wanted, atol=1e-5)
    assert not torch.allclose(near, even, atol=1e-3)


def test_blocks_that_start_as_the_reader_attend_as_its_layers_do(model: Any) -> None:
    """Against transformers' own attention at position 0; Qwen2.5-VL's and Gemma's have more to them."""
    config = model.get_decoder().config
    own = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    blocks = MediaBlocks(BlockSizes(config.hidden_size, config.num_attention_heads, own, 16, (1, 3)))
    blocks.start(0.2)
    blocks.start_as(model)
    assert set(blocks.gates().values()) == {0.0}
    seen = torch.randn(1, 3, config.hidden_size, generator=torch.Generator().manual_seed(1))
    block, layer = blocks.blocks["3"], model.get_decoder().layers[3]
    block.attn_gate.data.fill_(50.0)
    with torch.no_grad():
        got = block(seen[:, -1:], *block.keys_values(seen, None)) - seen[:, -1:]
        if config.model_type in ("qwen2", "llama"):
            still = torch.ones(1, 3, own), torch.zeros(1, 3, own)
            want = layer.self_attn(
                layer.input_layernorm(seen), position_embeddings=still, attention_mask=None
            )
            torch.testing.assert_close(got, want[0][:, -1:], atol=1e-5, rtol=1e-4)
        assert got.abs().max() > 0
    other = MediaBlocks(BlockSizes(config.hidden_size, 3, 8, 16, (1,)))
    with pytest.raises(MediaError, match="start=random"):
        other.start_as(model)


def test_media_of_another_width_are_projected_or_refused() -> None:
    model = _decoder("llama")
    width = model.config.hidden_size
    wide, blocks = Media.of([torch.randn(3, width + 4)]), blocks_for(model)
    with pytest.raises(MediaError, match=rf"read \(b, M, {width}\)"), blocks.attach(model, wide):
        pass
    blocks = blocks_for(model, media_width=width + 4)
    with blocks.attach(model, Media.of([torch.randn(3, width + 4)])):
        assert logits(model).isfinite().all()


def test_positions_that_jump_without_a_mask_are_refused() -> None:
    model = _decoder("llama")
    places = torch.tensor([[0, 1, 2, 1, 2, 3, 4, 5]])
    with (
        blocks_for(model).attach(model, media_of(model, 4)),
        pytest.raises(MediaError, match="attention_mask"),
    ):
        model(input_ids=WORDS, position_ids=places, use_cache=False)


def test_a_decoder_without_layers_is_refused() -> None:
    blocks, media = blocks_for(_decoder("llama")), media_of(_decoder("llama"), 3)
    layers = torch.nn.Linear(2, 2)
    with pytest.raises(MediaError, match="no list of layers"), blocks.attach(layers, media):
        pass
    with pytest.raises(MediaError, match="has 2 layers"), blocks.attach(make("llama", 2)[0], media):
        pass


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"heads": 0}, "heads=0"),
        ({"head_dim": 7}, "even"),
        ({"layers": ()}, "layers"),
        ({"layers": (3, 1)}, "ascending"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(MediaError, match=message):
        BlockSizes(**{"width": 8, "heads": 2, "head_dim": 4, "intermediate": 8, "layers": (1,), **sizes})


def test_every_counts_from_one() -> None:
    assert every(4, 24) == (3, 7, 11, 15, 19, 23)
    with pytest.raises(MediaError, match="1 to 3"):
        every(4, 3)
