"""The decoder's tokens are those of transformers' generate, whatever shares the batch or its buffers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from comem.backbones.base import GenerationConfig
from comem.backbones.hf import HFBackbone
from comem.engine.engine import Decoder, NewTokens
from comem.engine.prefill import SlotCache
from comem.memory.injection import PREFIX
from comem.types import Message
from tests.conftest import build_tiny_qwen2_5_vl

LONG = 20


def decoder_for(backbone: HFBackbone, **options: Any) -> Decoder:
    return Decoder(backbone.model, backbone.processor.tokenizer.pad_token_id, **options)


def decode(
    decoder: Decoder, backbone: HFBackbone, batch: list[list[Message]], memories: list[Tensor | None],
    tokens: int = LONG, stop: tuple[int, ...] = (),
) -> NewTokens:  # fmt: skip
    inputs = backbone.process(batch)
    sizes = [0 if memory is None else len(memory) for memory in memories]
    prompt = decoder.prepare(inputs, sizes, PREFIX)
    return decoder.generate(prompt, memories, tokens, stop)


def reference(backbone: HFBackbone, chat: list[Message], memory: Tensor | None) -> list[int]:
    """transformers' own tokens for one question, no end token: always LONG of them."""
    inputs = backbone.process([chat])
    decoding = {
        **GenerationConfig(max_new_tokens=LONG).arguments(),
        "eos_token_id": None,
        "pad_token_id": 256,
    }
    with torch.no_grad(), PREFIX.attach(backbone.model, inputs, [memory]) as extended:
        tokens = backbone.model.generate(**extended, **decoding)
    return tokens[0, extended["input_ids"].shape[1] :].tolist()


def test_a_mixed_batch_equals_each_question_alone_in_transformers(
    backbone: HFBackbone, conversations: list[list[Message]], memories: list[Tensor | None]
) -> None:
    alone = [reference(backbone, chat, m) for chat, m in zip(conversations, memories, strict=True)]
    made = decode(decoder_for(backbone), backbone, conversations, memories)
    assert made.tokens.tolist() == alone
    assert len({tuple(row) for row in alone}) == 4  # memories and questions decide
    assert 0 < made.first_seconds < made.seconds


def test_buffers_that_are_used_again_hold_nothing_of_the_batch_before(
    backbone: HFBackbone, conversations: list[list[Message]], memories: list[Tensor | None]
) -> None:
    decoder = decoder_for(backbone)
    fresh = decode(decoder, backbone, conversations[::-1], memories[::-1])
    decode(decoder, backbone, conversations, [None] * 4)
    again = decode(decoder, backbone, conversations[::-1], memories[::-1])
    assert len(decoder._steps) == 1  # the same buffers
    assert torch.equal(fresh.tokens, again.tokens)


def test_large_buffers_do_not_pile_up(
    backbone: HFBackbone, conversations: list[list[Message]], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = decoder_for(backbone)
    for rows in (1, 2, 3):
        decode(decoder, backbone, conversations[:rows], [None] * rows, tokens=2)
    assert len(decoder._steps) == 3
    monkeypatch.setattr("comem.engine.engine._KEPT_TOKENS", 4 * 256)
    decode(decoder, backbone, conversations, [None] * 4, tokens=2)
    assert list(decoder._steps) == [(4, 256)]  # the others went, the one in use stays


def test_a_row_ends_at_its_stop_token(
    backbone: HFBackbone, conversations: list[list[Message]], memories: list[Tensor | None]
) -> None:
    decoder, pad = decoder_for(backbone), backbone.processor.tokenizer.pad_token_id
    free = decode(decoder, backbone, conversations, memories).tokens
    stop = int(free[0, 4])
    cut = decode(decoder, backbone, conversations, memories, stop=(stop,)).tokens
    for row, whole in zip(cut.tolist(), free.tolist(), strict=True):
        end = whole.index(stop) + 1 if stop in whole else LONG
        assert row[:end] == whole[:end] and set(row[end:]) <= {pad}
    only = decode(decoder, backbone, conversations[:1], memories[:1], stop=(stop,)).tokens
    assert only.shape == (1, free[0].tolist().index(stop) + 1)  # no step more than needed


def test_work_is_counted_exactly(
    backbone: HFBackbone, conversations: list[list[Message]], memories: list[Tensor | None]
) -> None:
    """One prefill of the real tokens, no padding, one pass a token: a regression shows in numbers."""
    decoder = decoder_for(backbone)
    decode(decoder, backbone, conversations, memories, tokens=6)
    questions = sum(backbone.prompt_lengths(conversations))
    counts = decoder.counts.as_dict()
    assert counts["prefills"] == 1 and counts["forward_passes"] == 6
    assert counts["prompt_tokens"] == questions + 8 + 24 + 16
    assert counts["padded_tokens"] == counts["encoder_calls"] == 0
    # ids, token types, positions, pixels, the grid, and where memory is: nothing else, nothing twice
    assert counts["copies_to_device"] == 6


def test_the_forward_passes_are_the_counted_ones(
    backbone: HFBackbone, conversations: list[list[Message]], memories: list[Tensor | None]
) -> None:
    seen: list[int] = []
    hook = backbone.model.lm_head.register_forward_hook(lambda m, args, out: seen.append(out.shape[1]))
    try:
        decode(decoder_for(backbone), backbone, conversations, memories, tokens=3)
    finally:
        hook.remove()
    assert seen == [4, 1, 1]  # logits of each row's last token alone, then one token a row


class Replay:
    """Stands in for a CUDA graph where there is no GPU: replaying it does the work again."""

    def __init__(self, work: Any) -> None:
        self.work, self.result = work, work()
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        self.result.copy_(self.work())


class ReplayPool:
    def __init__(self) -> None:
        self.made: list[Replay] = []

    def record(self, work: Any) -> tuple[Replay, Tensor]:
        made = Replay(_undone(work))
        self.made.append(made)
        return made, made.result


def _undone(work: Any) -> Any:
    """`work` whose first call, the recording, changes nothing: a recorded pass is not carried out."""
    step = getattr(work, "__self__", None)
    calls: list[int] = []

    def run() -> Tensor:
        calls.append(1)
        if len(calls) > 1 or not hasattr(step, "written"):
            return work().clone()
        return torch.zeros_like(step.token)  # a decoding step: it would write a token

    return run


def test_recorded_passes_at_fixed_addresses_give_the_same_tokens(
    backbone: HFBackbone, conversations: list[list[Message]], memories: list[Tensor | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Prompts filled up to a recorded length, rows to a power of two, pictures by a recorded tower."""
    expected = decode(decoder_for(backbone), backbone, conversations, memories).tokens
    monkeypatch.setattr("comem.engine.engine.GraphPool", ReplayPool)
    decoder = decoder_for(backbone, graphs=True)
    pool: Any = decoder.pool
    for _ in range(3):  # as it is, recorded, replayed
        assert torch.equal(decode(decoder, backbone, conversations, memories).tokens, expected)
    assert len(pool.made) == 3 and all(made.replays >= 2 for made in pool.made)  # tower, prompt, step
    for rows in (slice(0, 3), slice(1, 2)):  # fewer rows than the buffers hold; no picture at all
        for _ in range(3):
            some = decode(decoder, backbone, conversations[rows], memories[rows])
            assert torch.equal(some.tokens, expected[rows])
    total = sum(backbone.prompt_lengths(conversations)) + 48
    assert decoder.counts.padded_tokens > 0 and -total % 32 < 32
    assert torch.equal(decode(decoder, backbone, conversations, memories).tokens, expected)


def test_refusals(backbone: HFBackbone, conversations: list[list[Message]], tiny_qwen2: Any) -> None:
    with pytest.raises(ValueError, match="attention can be packed"):
        Decoder(tiny_qwen2).generate(None, [], 1)  # type: ignore[arg-type]
    eager = build_tiny_qwen2_5_vl()
    eager.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="attention can be packed"):
        Decoder(eager).generate(None, [], 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="stop tokens"):
        decode(decoder_for(backbone), backbone, conversations[:1], [None], stop=tuple(range(9)))
    from comem.backbones.prepared import Segments

    with pytest.raises(ValueError, match="do not fit"):
        SlotCache(1, 8, torch.device("cpu")).start(Segments.of([8]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_recorded_steps_equal_eager_ones_on_a_gpu(
    conversations: list[list[Message]], memories: list[Tensor | None], tiny_processor: Any
) -> None:
    from comem.backbones.specs import BACKBONES

    backbone = HFBackbone(BACKBONES["qwen2_5_vl"], build_tiny_qwen2_5_vl().cuda(), tiny_processor)
    there = [None if memory is None else memory.cuda() for memory in memories]
    eager = decode(decoder_for(backbone, graphs=False), backbone, conversations, there)
    recorded = decoder_for(backbone, graphs=True)
    assert torch.equal(decode(recorded, backbone, conversations, there).tokens, eager.tokens)
    assert torch.equal(decode(recorded, backbone, conversations, there).tokens, eager.tokens)  # replayed
    some = decode(recorded, backbone, conversations[:3], there[:3])  # three rows in buffers of four
    assert torch.equal(some.tokens, eager.tokens[:3])
