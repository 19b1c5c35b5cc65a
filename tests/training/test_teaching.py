"""The divergence from the teacher against torch's own, and what it trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from comem.backbones.item_turns import item_turns
from comem.memory.lora import adapters_off
from comem.training.collator import Collator
from comem.training.dataset import TrainingExample
from comem.training.lessons import Lesson
from comem.training.model import MemoryTrainingModel, answer_logits, answer_loss
from comem.training.teaching import divergence, taught_rows
from comem.types import ImageRef, KnowledgeItem

Make = Callable[..., TrainingExample]
Items = tuple[KnowledgeItem, ...]


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_divergence_is_torchs_own(temperature: float) -> None:
    student, teacher = torch.randn(2, 7, 30).unbind()
    expected = kl_divergence(
        Categorical(logits=teacher / temperature), Categorical(logits=student / temperature)
    )
    torch.testing.assert_close(divergence(student, teacher, temperature), temperature**2 * expected)


def test_no_divergence_from_the_same_logits() -> None:
    logits = torch.randn(5, 40)
    assert divergence(logits, logits.clone()).eq(0).all()


def test_gradient_of_softened_divergence_is_hintons() -> None:
    """d/dz T²·KL = T·(q − p) with both softened: for large T its size does not vanish."""
    student, teacher = torch.randn(3, 9, requires_grad=True), torch.randn(3, 9)
    divergence(student, teacher, 4.0).sum().backward()
    expected = 4.0 * ((student / 4).softmax(-1) - (teacher / 4).softmax(-1))
    assert student.grad is not None
    torch.testing.assert_close(student.grad, expected.detach())


def test_taught_rows() -> None:
    rows = torch.tensor([0, 0, 1, 2, 2, 2])
    assert taught_rows(rows, (0, 2)).tolist() == [True, True, False, True, True, True]


def taught(example: TrainingExample, teacher: Items, weight: float = 1.0, answer: float = 1.0) -> Any:
    return replace(example, lesson=Lesson(0, teacher, weight, answer))


def test_a_reader_that_reads_what_its_teacher_reads_learns_nothing(
    training_model: MemoryTrainingModel, collator: Collator, example: Make
) -> None:
    """Without memory and with a teacher without items, the two are one: the divergence is 0 to the bit."""
    plain = [
        replace(taught(example("a", 0), (), 1.0, 0.0)),
        taught(example("bbb", 0, image=True), (), 1.0, 0.0),
    ]
    loss, count = training_model(collator(plain))
    assert float(loss.detach()) == 0 and count > 0


def test_loss_is_cross_entropy_and_divergence_from_plain_rag(
    training_model: MemoryTrainingModel, collator: Collator, example: Make
) -> None:
    first, second = example("a", 2, image=True), example("bbb", 1, image=True)
    batch = collator([taught(first, first.items, 0.5), second])
    loss, count = training_model(batch)
    (memory, other), reader = training_model.prefixes(batch.items, batch.rows), training_model.reader
    with adapters_off(training_model.encoder.model):
        entropy, tokens = answer_loss(reader, batch.question, [memory, other])
        shown = dict(collator.process([[*item_turns(collator.rag, first.items), *first.messages()]]))
        size = int(tokens) - int((batch.question["labels"][1] != -100).sum())
        teacher = reader(**shown).logits[0, -size - 1 : -1]
        student, _, rows = answer_logits(reader, batch.question, [memory, other])
    expected = entropy + 0.5 * divergence(student[rows == 0], teacher).sum()
    assert int(count) == int(tokens)
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-5)


def test_the_teachers_way_has_no_gradient_and_only_the_encoder_learns(
    training_model: MemoryTrainingModel, collator: Collator, example: Make
) -> None:
    one = example("a", 2)
    training_model(collator([taught(one, one.items, 1.0, 0.0)]))[0].backward()
    graded = {n for n, p in training_model.named_parameters() if p.grad is not None and p.grad.any()}
    assert graded and all(".lora_" in name or "qformer" in name for name in graded)


def test_mixed_lessons_equal_single_ones(
    training_model: MemoryTrainingModel, collator: Collator, example: Make
) -> None:
    a, b, c = example("a", 2), example("bbb", 1, image=True), example("cc", 1)
    lessons = [taught(a, a.items, 0.7), b, taught(c, (), 1.0, 0.0)]
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


def test_a_teachers_item_that_cannot_be_read_is_left_out(
    collator: Collator, example: Make, tmp_path: Path
) -> None:
    broken = replace(example("b", 1).items[0], image=ImageRef(path=str(tmp_path / "none.png")))
    good = example("a", 1)
    batch = collator([taught(replace(good, items=(broken, *good.items)), (broken, *good.items))])
    alone = collator([taught(good, good.items)])
    assert batch.skipped and batch.teaching is not None and alone.teaching is not None
    assert batch.teaching.inputs["input_ids"].equal(alone.teaching.inputs["input_ids"])


def test_an_empty_memory_is_the_untouched_model_to_the_bit(
    training_model: MemoryTrainingModel, collator: Collator, example: Make
) -> None:
    batch = collator([example("a", 0, image=True)])
    reader = training_model.reader
    with torch.no_grad(), adapters_off(reader):
        logits, _, _ = answer_logits(reader, batch.question, [None])
        empty, _, _ = answer_logits(reader, batch.question, [torch.zeros(0, 64)])
        labels = batch.question["labels"][0]
        whole = reader(**batch.question).logits[0, :-1][labels[1:] != -100]
    assert logits.equal(whole) and empty.equal(whole)


def test_too_long_for_the_teacher_is_named(collator: Collator, example: Make) -> None:
    one = example("a", 3)
    fits = int(collator([one]).question["attention_mask"].sum())
    with pytest.raises(ValueError, match="'a \\(as the teacher reads it\\)' has .* tokens, above max_tokens"):
        replace(collator, max_tokens=fits)([taught(one, one.items)])
