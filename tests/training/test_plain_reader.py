"""The divergence from the plain reader against torch's own, and what it trains; fewer embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch.distributions import Categorical, kl_divergence

from comem.backbones.prepared import Prepared
from comem.memory.lora import adapters_off
from comem.training.collator import Collator
from comem.training.data import Lesson, TrainingExample
from comem.training.model import MemoryTrainingModel, answer_logits, answer_loss, divergence
from comem.types import KnowledgeItem

Make = Callable[..., TrainingExample]
Items = tuple[KnowledgeItem, ...]


def test_divergence_is_torchs_own() -> None:
    student, teacher = torch.randn(2, 7, 30).unbind()
    expected = kl_divergence(Categorical(logits=teacher), Categorical(logits=student))
    torch.testing.assert_close(divergence(student, teacher), expected)


def test_no_divergence_from_the_same_logits() -> None:
    logits = torch.randn(5, 40)
    assert divergence(logits, logits.clone()).eq(0).all()


def plain(example: TrainingExample) -> TrainingExample:
    return replace(example, lesson=Lesson(plain=True))


def test_a_reader_without_memory_says_what_the_plain_one_says(
    training_model: MemoryTrainingModel, collator: Collator, example: Make
) -> None:
    """There the two are one: the divergence is 0 to the bit."""
    loss, count = training_model(collator([plain(example("a", 0)), plain(example("bbb", 0, image=True))]))
    assert float(loss.detach()) == 0 and count > 0


def test_loss_is_cross_entropy_and_divergence_from_the_plain_reader(
    training_model: MemoryTrainingModel, collator: Collator, example: Make
) -> None:
    first, second = example("a", 2, image=True), example("bbb", 1, image=True)
    batch = collator([plain(first), second])
    loss, count = training_model(batch)
    (memory, other), reader = training_model.prefixes(batch.items, batch.rows), training_model.reader
    with adapters_off(training_model.encoder.model):
        answered = dict(batch.question) | {"labels": batch.question["labels"].clone()}
        answered["labels"][0] = -100
        entropy, tokens = answer_loss(Prepared(reader), answered, [memory, other])
        shown = dict(collator.process([first.messages()]))
        size = int((batch.question["labels"][0] != -100).sum())
        said = reader(**shown).logits[0, -size - 1 : -1]
        student, _, rows = answer_logits(Prepared(reader), batch.question, [memory, other])
    expected = entropy + divergence(student[rows == 0], said).sum()
    assert int(count) == int(tokens) + size
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-5)


def test_only_the_encoder_learns_from_the_plain_reader(
    training_model: MemoryTrainingModel, collator: Collator, example: Make
) -> None:
    training_model(collator([plain(example("a", 2))]))[0].backward()
    graded = {n for n, p in training_model.named_parameters() if p.grad is not None and p.grad.any()}
    assert graded and all(".lora_" in name or "qformer" in name for name in graded)


def test_mixed_lessons_equal_single_ones(
    training_model: MemoryTrainingModel, collator: Collator, example: Make
) -> None:
    lessons = [plain(example("a", 2)), example("bbb", 1, image=True), plain(example("cc", 1, image=True))]
    together, count = training_model(collator(lessons))
    singles = [training_model(collator([one])) for one in lessons]
    assert int(count) == sum(int(number) for _, number in singles)
    torch.testing.assert_close(together, sum(loss for loss, _ in singles), atol=1e-4, rtol=1e-5)


def test_fewer_embeddings_are_the_first_of_all(
    training_model: MemoryTrainingModel, collator: Collator, example: Make
) -> None:
    examples = [replace(example("a", 2), lesson=Lesson(2)), example("b", 1)]
    batch = collator(examples)
    assert batch.embeddings == (2, 0)
    (short, all_), (long, _) = (
        training_model.prefixes(batch.items, batch.rows, counts) for counts in (batch.embeddings, ())
    )
    assert short is not None and long is not None and all_ is not None
    assert short.shape == (4, 64) and all_.shape == (4, 64)
    assert short.equal(long.unflatten(0, (2, 4))[:, :2].flatten(0, 1))


def test_an_empty_memory_is_the_untouched_model_to_the_bit(
    training_model: MemoryTrainingModel, collator: Collator, example: Make
) -> None:
    batch = collator([example("a", 0, image=True)])
    reader = training_model.reader
    with torch.no_grad(), adapters_off(reader):
        logits, _, _ = answer_logits(Prepared(reader), batch.question, [None])
        empty, _, _ = answer_logits(Prepared(reader), batch.question, [torch.zeros(0, 64)])
        labels = batch.question["labels"][0]
        whole = reader(**batch.question).logits[0, :-1][labels[1:] != -100]
    assert logits.equal(whole) and empty.equal(whole)
