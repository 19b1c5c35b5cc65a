"""The loss against transformers' own, gradients, and mixed batches against single ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from comem.backbones.prepared import Prepared
from comem.memory.lora import adapters_off
from comem.training.collator import Collator
from comem.training.data import TrainingExample
from comem.training.model import MemoryTrainingModel, answer_loss, step_seed

Make = Callable[..., TrainingExample]


def gradients(model: MemoryTrainingModel) -> dict[str, Tensor]:
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return grads


def test_loss_is_transformers_own(
    training_model: MemoryTrainingModel, collator: Collator, example: Make
) -> None:
    batch = collator([example("a", 0, image=True), example("bbb", 0)])
    reader = training_model.reader
    with adapters_off(reader):
        loss, count = answer_loss(Prepared(reader), batch.question, [None, None])
        expected = reader(**batch.question).loss
    assert count == batch.answer_tokens
    torch.testing.assert_close(loss / count, expected, atol=1e-6, rtol=1e-6)


def test_loss_with_memory_is_that_of_plain_concatenation(
    training_model: MemoryTrainingModel, collator: Collator, example: Make
) -> None:
    batch = collator([example("a", 2)])
    reader = training_model.reader
    (memory,) = training_model.prefixes(batch.items, batch.rows)
    assert memory is not None and memory.shape == (2 * 4, 64)
    embeds = torch.cat([memory[None], reader.get_input_embeddings()(batch.question["input_ids"])], dim=1)
    nothing = torch.full((1, len(memory)), -100)
    labels = torch.cat([nothing, batch.question["labels"]], dim=1)
    positions = torch.arange(embeds.shape[1]).expand(3, 1, -1)
    with adapters_off(reader):
        expected = reader(inputs_embeds=embeds, position_ids=positions, labels=labels).loss
    loss, count = training_model(batch)
    torch.testing.assert_close(loss / count, expected, atol=1e-6, rtol=1e-6)


def test_mixed_batch_equals_single_questions(
    training_model: MemoryTrainingModel, collator: Collator, example: Make
) -> None:
    examples = [example("a", 3), example("bbb", 0, image=True), example("cc", 1, image=True)]
    loss, count = training_model(collator(examples))
    loss.backward()
    together, singles, total = gradients(training_model), 0.0, 0
    for one in examples:
        single, number = training_model(collator([one]))
        single.backward()
        singles, total = singles + float(single.detach()), total + int(number)
    assert int(count) == total
    assert abs(float(loss.detach()) - singles) < 1e-4
    for name, grad in gradients(training_model).items():
        torch.testing.assert_close(together[name], grad, atol=2e-4, rtol=1e-3, msg=name)


def test_only_lora_and_qformer_get_gradients(
    training_model: MemoryTrainingModel, collator: Collator, example: Make
) -> None:
    training_model(collator([example("a", 2)]))[0].backward()
    names = set(gradients(training_model))
    trainable = {n for n, p in training_model.named_parameters() if p.requires_grad}
    assert names == trainable
    assert all(".lora_" in name or "qformer" in name for name in names)


def test_without_items_the_gradient_is_zero(
    training_model: MemoryTrainingModel, collator: Collator, example: Make
) -> None:
    loss, _ = training_model(collator([example("a", 0)]))
    loss.backward()
    assert float(loss.detach()) > 0
    assert all(not grad.any() for grad in gradients(training_model).values())


def test_step_seeds_differ() -> None:
    seeds = {step_seed(seed, step, part) for seed in range(3) for step in range(5) for part in range(2)}
    assert len(seeds) == 30
