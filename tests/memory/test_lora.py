"""LoRA reaches exactly what it shall, and one switch turns one copy into encoder or reader."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

from comem.memory.lora import (
    LoraSettings,
    adapter_switch,
    adapters_off,
    adapters_on,
    add_lora,
    expected_lora_count,
    fold_lora,
    load_lora_state,
    lora_layers,
    lora_state,
    lora_targets,
    trainable_count,
)
from comem.memory.qformer_encoder import QFormerEncoder

TEXT_7B = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}
VISION_7B = {
    "qwen2_5_vl": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
    },
    "qwen2_vl": {"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "num_heads": 16, "mlp_ratio": 4},
}


def meta_7b(family: str) -> nn.Module:
    config = AutoConfig.for_model(family, text_config=TEXT_7B, vision_config=VISION_7B[family])
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


@pytest.mark.parametrize(
    ("family", "total", "modules", "lora"),
    [("qwen2_5_vl", 8_292_166_656, 358, 51_824_640), ("qwen2_vl", 8_291_375_616, 326, 51_159_040)],
)
def test_counts_at_7b(family: str, total: int, modules: int, lora: int) -> None:
    """authors_code.md 1.6; 231.7 M = 2.79 % of the VLM, where the paper says 1.2 %."""
    model = meta_7b(family)
    assert sum(p.numel() for p in model.parameters()) == total
    with torch.device("meta"):
        encoder = QFormerEncoder.new(model, None)
    assert len(lora_layers(model)) == modules
    assert trainable_count(model) == lora
    assert trainable_count(encoder.qformer) == 179_895_296
    assert encoder.trainable_count() == lora + 179_895_296
    if family == "qwen2_5_vl":
        assert round(encoder.trainable_count() / 1e6, 1) == 231.7
        assert round(100 * encoder.trainable_count() / total, 2) == 2.79


@pytest.mark.parametrize("name", ["tiny_qwen2_5_vl", "tiny_qwen2_vl"])
def test_exactly_the_linear_layers_are_adapted(name: str, request: pytest.FixtureRequest) -> None:
    model = copy.deepcopy(request.getfixturevalue(name))
    linear = {n for n, m in model.named_modules() if isinstance(m, nn.Linear)} - {"lm_head"}
    expected = expected_lora_count(model, LoraSettings())
    add_lora(model)
    assert set(lora_layers(model)) == linear
    assert trainable_count(model) == expected
    assert all(".lora_" in n for n, p in model.named_parameters() if p.requires_grad)
    assert any("merger" in n for n in linear)
    assert any(n.startswith("model.language_model.layers.1.") for n in linear)
    assert type(model) is type(request.getfixturevalue(name))


def run(model: Any) -> torch.Tensor:
    return model(input_ids=torch.arange(10)[None], use_cache=False).logits.detach()


def test_a_model_rests_as_reader_and_is_restored_after_errors(
    base_model: Any, encoder: QFormerEncoder
) -> None:
    reader = run(base_model)
    with adapters_on(base_model):
        tuned = run(base_model)
        with adapters_off(base_model):
            assert torch.equal(run(base_model), reader)
        assert torch.equal(run(base_model), tuned)
    assert not torch.allclose(tuned, reader)
    with pytest.raises(RuntimeError, match="boom"), adapters_on(base_model):
        raise RuntimeError("boom")
    assert torch.equal(run(base_model), reader)
    assert all(
        p.requires_grad for p in map(dict(base_model.named_parameters()).get, trained_names(base_model))
    )


def trained_names(model: Any) -> list[str]:
    return [n for n, _ in model.named_parameters() if ".lora_" in n]


def test_reader_state_equals_the_untouched_base(tiny_qwen2_5_vl: Any) -> None:
    model = copy.deepcopy(tiny_qwen2_5_vl)
    before = run(model)
    add_lora(model)
    assert torch.equal(run(model), before)


def test_two_threads_do_not_see_each_others_state(base_model: Any, encoder: QFormerEncoder) -> None:
    wrong: list[bool] = []

    def work(on: bool) -> None:
        context = adapters_on if on else adapters_off
        for _ in range(200):
            with context(base_model):
                if adapter_switch(base_model).on is not on:
                    wrong.append(on)

    threads = [threading.Thread(target=work, args=(on,)) for on in (True, False, True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert not adapter_switch(base_model).on


def test_a_context_entered_in_its_own_state_leaves_that_state(
    base_model: Any, encoder: QFormerEncoder
) -> None:
    switch = adapter_switch(base_model)
    with adapters_on(base_model):
        with adapters_on(base_model):
            assert switch.on
        assert switch.on  # not the opposite
        with adapters_off(base_model):
            with adapters_off(base_model):
                assert not switch.on
            assert not switch.on
        assert switch.on
    with adapters_off(base_model):
        assert not switch.on
    assert not switch.on and adapter_switch(base_model) is switch


def test_a_copied_model_has_a_switch_of_its_own(base_model: Any, encoder: QFormerEncoder) -> None:
    copied = copy.deepcopy(base_model)
    with adapters_on(copied):
        assert adapter_switch(copied).on and not adapter_switch(base_model).on


def test_without_lora_the_switch_does_nothing(tiny_qwen2_5_vl: Any) -> None:
    before = run(tiny_qwen2_5_vl)
    with adapters_on(tiny_qwen2_5_vl):
        assert torch.equal(run(tiny_qwen2_5_vl), before)


def test_folding_keeps_the_outputs_and_leaves_an_ordinary_model(
    base_model: Any, encoder: QFormerEncoder
) -> None:
    with adapters_on(base_model):
        tuned = run(base_model)
    fold_lora(base_model)
    assert torch.allclose(run(base_model), tuned, atol=1e-5)
    assert lora_layers(base_model) == {}
    assert not any(".lora_" in n or "base_layer" in n for n in base_model.state_dict())


def test_state_goes_round_and_wrong_states_are_named(base_model: Any, encoder: QFormerEncoder) -> None:
    state = {name: tensor.clone() for name, tensor in lora_state(base_model).items()}
    with torch.no_grad():
        for tensor in lora_state(base_model).values():
            tensor.zero_()
    load_lora_state(base_model, state)
    assert all(torch.equal(t, state[n]) for n, t in lora_state(base_model).items())
    first = next(iter(state))
    with pytest.raises(ValueError, match="another rank"):
        load_lora_state(base_model, {**state, first: state[first][:2]}, "file.safetensors")
    with pytest.raises(ValueError, match="file.safetensors: 1 LoRA tensors do not match"):
        load_lora_state(base_model, {**state, "other.lora_A.weight": state[first]}, "file.safetensors")


def test_bad_settings_and_a_second_lora_are_refused(base_model: Any, encoder: QFormerEncoder) -> None:
    with pytest.raises(ValueError, match="already"):
        add_lora(base_model)
    with pytest.raises(ValueError, match="rank=0"):
        LoraSettings(rank=0)
    with pytest.raises(ValueError, match=r"dropout=1\.0"):
        LoraSettings(dropout=1.0)
    assert lora_targets(nn.Sequential(nn.Linear(2, 2))).keys() == {"0"}
