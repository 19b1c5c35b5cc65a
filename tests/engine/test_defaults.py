"""Defaults that come with weights: equal answers by the engine and by transformers, or a message."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from comem.backbones.base import GenerationConfig
from comem.backbones.hf import HFBackbone, asked_for
from comem.backbones.specs import BackboneError
from comem.engine.engine import fast
from comem.engine.prefill import WorkCounts
from comem.memory.injection import PREFIX
from comem.types import Message

SHORT = GenerationConfig(max_new_tokens=8)


@pytest.fixture()
def own(backbone: HFBackbone) -> Iterator[Any]:
    """The model's generation config, to change."""
    before = backbone.model.generation_config
    backbone.model.generation_config = copy.deepcopy(before)
    yield backbone.model.generation_config
    backbone.model.generation_config = before


def both(
    backbone: HFBackbone, conversations: list[list[Message]], memories: list[Tensor | None]
) -> tuple[list[str], bool]:
    """The answers, which are the same on both paths, and whether the engine's decoder made them."""
    counts = WorkCounts()
    plain = backbone.generate(conversations, memories, SHORT, PREFIX)
    quick = fast(backbone, counts=counts).generate(conversations, memories, SHORT, PREFIX)
    assert [answer.text for answer in plain] == [answer.text for answer in quick]
    assert [answer.prompt_tokens for answer in plain] == [answer.prompt_tokens for answer in quick]
    return [answer.text for answer in plain], counts.forward_passes > 0


def first_tokens(backbone: HFBackbone, conversations: list[list[Message]], memories: Any) -> list[int]:
    seen: list[int] = []

    def watch(ids: list[int]) -> list[bool]:
        seen.extend(ids)
        return [False] * len(ids)

    backbone.generate(conversations, memories, SHORT, PREFIX, watch)
    return sorted(set(seen))


ACTING: dict[str, Any] = {
    "bad_words_ids": lambda ids: [[each] for each in ids[:3]],
    "suppress_tokens": lambda ids: ids[:3],
    "begin_suppress_tokens": lambda ids: ids[:3],
    "min_new_tokens": lambda ids: 6,
    "min_length": lambda ids: 105,
    "no_repeat_ngram_size": lambda ids: 1,
    "sequence_bias": lambda ids: [[[ids[0]], -50.0]],
    "stop_strings": lambda ids: ["a", "e", "\n", " "],
    "forced_eos_token_id": lambda ids: 270,
    "exponential_decay_length_penalty": lambda ids: (1, 5.0),
    "encoder_repetition_penalty": lambda ids: 1.5,
    "encoder_no_repeat_ngram_size": lambda ids: 1,
    "forced_bos_token_id": lambda ids: 300,
    "max_time": lambda ids: 100.0,
    "remove_invalid_values": lambda ids: True,
}
IDLE: dict[str, Any] = {
    "return_dict_in_generate": True, "output_scores": True, "output_hidden_states": True,
    "output_logits": True,
    "do_sample": True, "temperature": 3.0, "top_k": 1, "top_p": 0.1, "min_p": 0.5, "typical_p": 0.5,
    "num_beams": 4, "num_return_sequences": 3, "early_stopping": True, "length_penalty": 3.0, "max_length": 3,
    "max_new_tokens": 1, "repetition_penalty": 9.0, "use_cache": False, "prompt_lookup_num_tokens": 3,
    "penalty_alpha": 0.6, "dola_layers": "low", "renormalize_logits": True, "epsilon_cutoff": 0.5,
    "cache_implementation": "offloaded",
}  # fmt: skip


@pytest.mark.parametrize("name", ACTING)
def test_what_acts_makes_the_engine_step_aside(
    backbone: HFBackbone, own: Any, conversations: Any, memories: Any, name: str
) -> None:
    before, by_engine = both(backbone, conversations, memories)
    assert by_engine
    setattr(own, name, ACTING[name](first_tokens(backbone, conversations, memories)))
    assert list(asked_for(backbone.model)) == [name]
    after, by_engine = both(backbone, conversations, memories)
    assert not by_engine
    if name in ("bad_words_ids", "suppress_tokens", "no_repeat_ngram_size", "sequence_bias"):
        assert after != before


@pytest.mark.parametrize("name", IDLE)
def test_what_is_ours_to_decide_changes_nothing(
    backbone: HFBackbone, own: Any, conversations: Any, memories: Any, name: str
) -> None:
    if not hasattr(own, name):
        pytest.skip("this version of transformers has no such entry")
    before, _ = both(backbone, conversations, memories)
    setattr(own, name, IDLE[name])
    assert both(backbone, conversations, memories) == (before, True)


def test_many_ends(backbone: HFBackbone, own: Any, conversations: Any, memories: Any) -> None:
    ids = first_tokens(backbone, conversations, memories)
    own.eos_token_id = ids[:1]
    assert both(backbone, conversations, memories)[1]
    own.eos_token_id = [*ids[:1], *range(20, 35)]
    assert not both(backbone, conversations, memories)[1]


@pytest.mark.parametrize(
    ("name", "value"),
    [("bad_words_ids", ["x"]), ("bad_words_ids", [[-3]]), ("sequence_bias", "x"), ("suppress_tokens", "ab"),
     ("stop_strings", [1]), ("no_repeat_ngram_size", "2")],
)  # fmt: skip
def test_an_entry_that_is_none_is_told(
    backbone: HFBackbone, own: Any, conversations: Any, name: str, value: Any
) -> None:
    setattr(own, name, value)
    for each in (backbone, fast(backbone)):
        with pytest.raises(BackboneError, match=f"generation_config.json asks for \\({name}\\)"):
            each.generate(conversations, config=SHORT)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_scores_that_are_no_numbers_are_no_answer(
    backbone: HFBackbone, conversations: Any, temperature: float
) -> None:
    config = replace(SHORT, temperature=temperature)
    weight = backbone.model.lm_head.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight[5, 3] = float("nan")
    try:
        for each in (backbone, fast(backbone)):
            with pytest.raises(ValueError, match="scores have NaN in them: load it in bfloat16"):
                each.generate(conversations, config=config)
    finally:
        with torch.no_grad():
            weight.copy_(before)
