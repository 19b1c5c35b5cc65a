"""One copy of the weights gives the gradients of two, with and without activation checkpointing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from comem.memory.checkpointing import enable_checkpointing
from comem.memory.injection import PREFIX
from comem.memory.lora import adapter_switch
from comem.memory.qformer_encoder import QFormerEncoder
from comem.types import KnowledgeItem

Gradients = dict[str, Tensor]


def gradients(
    encoder: QFormerEncoder, reader: Any, items: list[KnowledgeItem], question: dict[str, Tensor]
) -> Gradients:
    """One training step's gradients of LoRA and Q-Former, in training mode."""
    encoder.train()
    reader.train()
    encoder.zero_grad()
    memory = encoder(encoder.inputs(items))
    with PREFIX.attach(reader, question, [memory.flatten(0, 1)]) as inputs:
        logits = reader(**inputs, use_cache=False).logits
    nn.functional.cross_entropy(logits[0, -6:-1], question["input_ids"][0, -5:]).backward()
    return {
        n: p.grad.clone() for n, p in encoder.named_parameters() if p.requires_grad and p.grad is not None
    }


@pytest.fixture()
def question(tiny_processor: Any, small_image: Any) -> dict[str, Tensor]:
    from comem.io.images import open_image

    text = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Where?<|im_end|>\nIn Oslo."
    return dict(
        tiny_processor(text=[text], images=[open_image(small_image(56, 56, seed=3))], return_tensors="pt")
    )


def largest(a: Gradients, b: Gradients) -> float:
    assert a.keys() == b.keys()
    return max(float((a[n] - b[n]).abs().max()) for n in a)


def test_gradients_of_one_copy_and_two_with_and_without_checkpointing(
    encoder: QFormerEncoder, tiny_qwen2_5_vl: Any, items: list[KnowledgeItem], question: dict[str, Tensor]
) -> None:
    two = copy.deepcopy(encoder)
    reader = copy.deepcopy(two.model)  # a second full copy, LoRA off for ever
    reader.requires_grad_(False)
    reference = gradients(two, reader, items, question)
    assert len(reference) > 40
    assert all(float(g.abs().max()) > 0 for n, g in reference.items() if ".lora_B." in n)

    assert largest(gradients(encoder, encoder.model, items, question), reference) <= 1e-6
    enable_checkpointing(encoder.model)
    assert largest(gradients(encoder, encoder.model, items, question), reference) <= 1e-6
    assert not adapter_switch(encoder.model).on
    enable_checkpointing(two.model)
    assert largest(gradients(two, reader, items, question), reference) <= 1e-6


def test_language_model_and_vision_tower_are_both_recomputed(
    encoder: QFormerEncoder, items: list[KnowledgeItem], question: dict[str, Tensor]
) -> None:
    enable_checkpointing(encoder.model)
    states: dict[str, list[bool]] = {"model.language_model.layers.0.mlp": [], "model.visual.blocks.0.mlp": []}
    for name, seen in states.items():
        module = encoder.model.get_submodule(name)
        note: Callable[..., None] = lambda m, a, s=seen: s.append(adapter_switch(encoder.model).on)  # noqa: E731
        module.register_forward_pre_hook(note)
    gradients(encoder, encoder.model, items, question)
    text, vision = states.values()
    # encoder forward, reader forward, then the recomputations in reverse order, each in its own state
    assert text == [True, False, False, True]
    assert vision[:2] == [True, False] and vision[-1] is True and len(vision) >= 3


def test_dropout_is_the_same_in_the_recomputation(
    make_encoder: Any, items: list[KnowledgeItem], question: dict[str, Tensor]
) -> None:
    encoder = make_encoder(dropout=0.3)
    torch.manual_seed(5)
    plain = gradients(encoder, encoder.model, items, question)
    enable_checkpointing(encoder.model)
    torch.manual_seed(5)
    again = gradients(encoder, encoder.model, items, question)
    assert largest(plain, again) <= 1e-6
    torch.manual_seed(6)
    assert largest(plain, gradients(encoder, encoder.model, items, question)) > 1e-5


def test_two_backwards_through_one_forward(encoder: QFormerEncoder, items: list[KnowledgeItem]) -> None:
    enable_checkpointing(encoder.model)
    encoder.train()
    memory = encoder(encoder.inputs(items))
    parameters = encoder.trainable_parameters()
    first = torch.autograd.grad(memory.square().sum(), parameters, retain_graph=True)
    second = torch.autograd.grad(memory.square().sum(), parameters)
    assert all(torch.allclose(a, b) for a, b in zip(first, second, strict=True))


def test_plain_checkpointing_would_fail(
    encoder: QFormerEncoder, items: list[KnowledgeItem], question: dict[str, Tensor]
) -> None:
    """Why the module exists: the recomputation runs with LoRA off and saves other tensors."""
    enable = getattr(encoder.model, "activation_checkpointing_enable", None)
    if enable is None:
        enable = encoder.model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    with pytest.raises(CheckpointError):
        gradients(encoder, encoder.model, items, question)
