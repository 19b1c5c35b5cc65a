"""The encoder: memories that depend on their item alone, and an identity that tells encoders apart."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from comem.memory.lora import LoraSettings, adapter_switch, lora_state
from comem.memory.qformer import QFormer, QFormerConfig
from comem.memory.qformer_encoder import QFormerEncoder, qformer_config
from comem.memory.settings import KnowledgeFormat, QFormerSettings
from comem.types import KnowledgeItem


def test_batches_equal_single_items_in_the_given_order(
    encoder: QFormerEncoder, items: list[KnowledgeItem]
) -> None:
    single = torch.cat([encoder.encode([item]).embeddings for item in items])
    for batch_size in (1, 2, 5):
        bank = encoder.encode(items, batch_size=batch_size)
        assert bank.ids == tuple(item.id for item in items)
        assert torch.allclose(bank.embeddings, single, atol=1e-5)
    assert bank.embeddings.shape == (5, 8, 64) and not bank.embeddings.requires_grad
    assert not torch.allclose(single[0], single[1], atol=1e-2)


def test_memory_is_that_of_the_last_layer_without_logits(
    encoder: QFormerEncoder, items: list[KnowledgeItem], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    encoder.model.lm_head.register_forward_hook(lambda *a: calls.append("head"))
    inputs = encoder.inputs(items)
    memory = encoder(inputs)
    assert calls == [] and memory.requires_grad
    from comem.backbones.positions import with_positions
    from comem.backbones.prepared import Prepared
    from comem.memory.lora import adapters_on

    with adapters_on(encoder.model):
        out = encoder.model(**with_positions(encoder.model, inputs), output_hidden_states=True)
    hidden = out.hidden_states[-1]
    torch.testing.assert_close(  # packed against padded: other sums, equal to rounding
        memory, encoder.qformer(hidden, inputs["attention_mask"]), atol=1e-5, rtol=1e-5
    )
    monkeypatch.setattr(Prepared, "packs", False)
    assert torch.equal(encoder(inputs), encoder.qformer(hidden, inputs["attention_mask"]))


def test_the_reader_is_untouched_by_encoding(encoder: QFormerEncoder, items: list[KnowledgeItem]) -> None:
    ids = torch.arange(12)[None]
    before = encoder.model(input_ids=ids).logits
    encoder.qformer.train()
    encoder.encode(items)
    assert torch.equal(encoder.model(input_ids=ids).logits, before)
    assert not adapter_switch(encoder.model).on
    assert encoder.qformer.training and not encoder.model.training  # modes are put back one by one
    with pytest.raises(ValueError, match="neither text nor image"):
        encoder.encode([KnowledgeItem("void", "", None)])
    assert encoder.qformer.training and not adapter_switch(encoder.model).on


def test_dropout_is_off_while_encoding(make_encoder: Any, items: list[KnowledgeItem]) -> None:
    encoder = make_encoder(dropout=0.5).train()
    assert torch.equal(encoder.encode(items).embeddings, encoder.encode(items).embeddings)


def test_none_and_repeated_items(encoder: QFormerEncoder, items: list[KnowledgeItem]) -> None:
    assert encoder.encode([]).prefix().shape == (0, 64)
    with pytest.raises(ValueError, match="'i0' comes twice"):
        encoder.encode([items[0], items[1], items[0]])
    with pytest.raises(ValueError, match="batch_size=0"):
        encoder.encode(items, batch_size=0)


def test_merged_memory_equals_unmerged(encoder: QFormerEncoder, items: list[KnowledgeItem]) -> None:
    before, fingerprint = encoder.encode(items), encoder.fingerprint()
    merged = encoder.merge()
    after = merged.encode(items)
    assert float((after.embeddings - before.embeddings).abs().max()) <= 1e-5
    assert merged.fingerprint() != fingerprint  # its weights are others …
    assert fingerprint in merged.accepted_fingerprints()  # … but it takes the banks of the encoder it was
    assert merged.merge() is merged


def test_a_reader_of_another_width_gets_memory_of_its_width(
    make_encoder: Any, items: list[KnowledgeItem]
) -> None:
    encoder = make_encoder(output_size=96, num_queries=2)
    assert encoder.encode(items).embeddings.shape == (5, 2, 96)


def test_fingerprint_changes_with_everything_that_memory_depends_on(
    encoder: QFormerEncoder, tiny_qwen2_5_vl: Any
) -> None:
    seen = {"": encoder.fingerprint()}
    assert encoder.fingerprint() == seen[""] == copy.deepcopy(encoder).fingerprint()
    with torch.no_grad():
        first = next(iter(lora_state(encoder.model).values()))
        first[0, 0] += 1
        seen["lora"] = encoder.fingerprint()
        encoder.qformer.latents[0, 0, 0] += 1
        seen["qformer"] = encoder.fingerprint()
        encoder.model.get_input_embeddings().weight[0, 0] += 1
        seen["base"] = encoder.fingerprint()
    for name, form in {
        "prompt": KnowledgeFormat(prompt=" other"),
        "cut": KnowledgeFormat(max_chars=9),
        "pixels": KnowledgeFormat(max_pixels=28 * 28, min_pixels=28 * 28),
    }.items():
        seen[name] = QFormerEncoder(
            encoder.model, encoder.processor, encoder.qformer, encoder.lora, form
        ).fingerprint()
    seen["scale"] = QFormerEncoder(
        encoder.model, encoder.processor, encoder.qformer, replace(encoder.lora, alpha=99)
    ).fingerprint()
    assert len(set(seen.values())) == len(seen)


def test_fingerprint_is_not_stale_after_an_optimizer_step_or_new_data(encoder: QFormerEncoder) -> None:
    seen = {encoder.fingerprint()}
    optimizer = torch.optim.AdamW(encoder.trainable_parameters(), lr=0.1)
    encoder.qformer.latents.sum().backward()
    optimizer.step()
    seen.add(encoder.fingerprint())
    encoder.qformer.latents.data = torch.zeros_like(encoder.qformer.latents)
    seen.add(encoder.fingerprint())
    assert len(seen) == 3


def test_fingerprint_is_that_of_the_weights_not_of_their_dtype(encoder: QFormerEncoder) -> None:
    before = encoder.fingerprint()
    assert encoder.to(torch.bfloat16).fingerprint() == before


def test_wrong_parts_are_refused(base_model: Any, tiny_processor: Any) -> None:
    with pytest.raises(ValueError, match="reads width 32, the model gives 64"):
        QFormerEncoder(base_model, tiny_processor, QFormer(QFormerConfig(32)))
    with pytest.raises(ValueError, match="LoRA settings"):
        QFormerEncoder(base_model, tiny_processor, QFormer(QFormerConfig(64)), LoraSettings())


def test_memory_can_start_at_the_norm_of_token_embeddings(
    base_model: Any, tiny_processor: Any, items: Any
) -> None:
    config = qformer_config(QFormerSettings(heads=4, depth=2, output_scale="auto"), base_model)
    encoder = QFormerEncoder.new(base_model, tiny_processor, LoraSettings(dropout=0.0), config)
    norm = encoder.encode(items).embeddings.norm(dim=-1).mean()
    assert norm == pytest.approx(
        base_model.get_input_embeddings().weight.norm(dim=-1).mean().item(), rel=0.05
    )


@pytest.mark.parametrize("family", ["tiny_qwen2_vl"])
def test_qwen2_vl_too(family: str, request: pytest.FixtureRequest, make_encoder: Any, items: Any) -> None:
    encoder = make_encoder(model=copy.deepcopy(request.getfixturevalue(family)))
    single = torch.cat([encoder.encode([item]).embeddings for item in items])
    assert torch.allclose(encoder.encode(items).embeddings, single, atol=1e-4)
