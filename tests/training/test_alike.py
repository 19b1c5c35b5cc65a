"""Micro-batches that are alike on every process, whatever each process's share holds."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from comem.memory.items import item_inputs
from comem.memory.settings import PICTURE_PROMPT, KnowledgeFormat
from comem.training.collator import IGNORED, Collator, TrainingBatch
from comem.training.data import (
    IMAGE,
    ITEM,
    ITEM_IMAGE,
    PLAIN,
    PLAIN_IMAGE,
    QUESTION,
    Lesson,
    TrainingExample,
    fillers,
    kinds,
)
from comem.training.model import MemoryTrainingModel
from comem.training.schedule import Order, Steps
from comem.types import ImageRef, KnowledgeItem

Make = Callable[..., TrainingExample]


@pytest.fixture()
def examples(example: Make) -> list[TrainingExample]:
    """In turn: nothing but a question, a text, an item with a picture, a picture of its own; one broken."""
    text, broken = KnowledgeItem("t", "a text", None), KnowledgeItem("b", "x", ImageRef(data=b"broken"))
    made = [
        example("a", items=0),
        dataclasses.replace(example("b", items=0), items=(text,)),
        example("c"),
        example("d", items=0, image=True),
    ]
    return [*made, dataclasses.replace(example("e", items=0), items=(broken,)), *made[:2]]


def held(batch: TrainingBatch) -> set[str]:
    """What a batch makes the model do, from its tensors."""
    parts = {
        QUESTION: bool(batch.question),
        IMAGE: "pixel_values" in batch.question,
        ITEM: bool(batch.items) and any(batch.rows),
        ITEM_IMAGE: "pixel_values" in batch.items,
        PLAIN: batch.plain is not None,
        PLAIN_IMAGE: batch.plain is not None and "pixel_values" in batch.plain.inputs,
    }
    return {kind for kind, there in parts.items() if there}


@pytest.mark.parametrize("image_memory", [False, True])
@pytest.mark.parametrize(("world", "micro"), [(2, 0), (2, 1), (3, 2)])
def test_all_processes_hold_the_same(
    world: int, micro: int, image_memory: bool, examples: list[TrainingExample], collator: Collator
) -> None:
    if image_memory:  # as for a text-only reader
        read: Any = collator.process_items
        form = KnowledgeFormat(picture_prompt=PICTURE_PROMPT)
        items = partial(item_inputs, **{**read.keywords, "form": form})
        collator = dataclasses.replace(collator, process_items=items, image_memory=True)
    for seed in range(2):
        order = Order(len(examples), 5, seed)
        ranks = [Steps(examples, order, collator, micro, rank, world, alike=True) for rank in range(world)]
        for step in range(order.steps_per_epoch):
            batches = [steps[step] for steps in ranks]
            asked = [[name for batch in own for name in batch.ids] for own in batches]
            assert sorted(sum(asked, [])) == sorted(examples[i].id for i in order.indices(step))
            for together in zip(*batches, strict=True):  # as many on each
                assert all(held(batch) == held(together[0]) for batch in together), (seed, step)


def test_a_question_that_cannot_be_read_leaves_its_place_to_a_filler(
    examples: list[TrainingExample], collator: Collator
) -> None:
    broken = dataclasses.replace(examples[2], id="x", turn_images=((ImageRef(data=b"broken"),),))
    wanted = kinds([broken], 3)
    batch = collator([broken], wanted)
    assert held(batch) == wanted == {QUESTION, IMAGE, ITEM, ITEM_IMAGE}
    assert batch.ids == () and len(batch.rows) == 1 and batch.answer_tokens == 0
    assert len(batch.skipped) == 1 and batch.skipped[0].startswith("question x: ")


def test_a_plain_question_is_had_by_all_or_none(examples: list[TrainingExample], collator: Collator) -> None:
    answered, *others = examples[:4]
    plain = [dataclasses.replace(one, lesson=Lesson(plain=True)) for one in others]
    for one, other in itertools.permutations([answered, *plain], 2):
        needed = kinds([one, other], 3)
        batches = [collator([example], needed) for example in (one, other)]
        assert held(batches[0]) == held(batches[1]) == set(needed), (one.id, other.id)


def test_a_filler_teaches_nothing(
    examples: list[TrainingExample], collator: Collator, training_model: MemoryTrainingModel
) -> None:
    plain = dataclasses.replace(examples[2], lesson=Lesson(plain=True))
    everything = frozenset((QUESTION, IMAGE, ITEM, ITEM_IMAGE, PLAIN, PLAIN_IMAGE))
    for one in (plain, examples[2]):
        alone, filled = training_model(collator([one])), training_model(collator([one], everything))
        torch.testing.assert_close(filled[0], alone[0], rtol=1e-5, atol=1e-5)
        assert int(filled[1]) == int(alone[1])


def test_a_filler_is_neither_learned_nor_named(
    examples: list[TrainingExample], collator: Collator, training_model: MemoryTrainingModel
) -> None:
    everything = frozenset((QUESTION, IMAGE, ITEM, ITEM_IMAGE))
    plain, filled = collator(examples[1:2]), collator(examples[1:2], everything)
    assert filled.ids == plain.ids and len(filled.rows) == 2 and filled.answer_tokens == plain.answer_tokens
    assert bool((filled.question["labels"][1] == IGNORED).all())
    gradients: list[dict[str, Any]] = []
    for batch in (plain, filled, collator([], everything)):
        training_model.zero_grad()
        loss, count = training_model(batch)
        loss.backward()
        gradients.append({name: p.grad for name, p in training_model.named_parameters() if p.requires_grad})
    assert float(loss.detach()) == 0.0 and int(count) == 0
    for name, gradient in gradients[1].items():
        was = gradients[0][name]
        torch.testing.assert_close(
            gradient, torch.zeros_like(gradient) if was is None else was, rtol=1e-4, atol=1e-5
        )
        assert float(gradients[2][name].abs().max()) == 0.0, "alone it has exact zeros, for every parameter"


def test_kinds_are_those_of_the_items_used(example: Make) -> None:
    two = dataclasses.replace(
        example("q", items=2), items=(KnowledgeItem("t", "x", None), example("q").items[0])
    )
    assert kinds([two], max_items=1) == {QUESTION, ITEM} and ITEM_IMAGE in kinds([two], max_items=2)
    assert kinds([], 3) == frozenset() and fillers(frozenset()) == []
