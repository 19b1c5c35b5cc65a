"""Batches: labels, mixed numbers of items, pictures that cannot be read."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from comem.training.collator import IGNORED, Collator
from comem.training.data import TrainingExample
from comem.types import ImageRef, KnowledgeItem

Make = Callable[..., TrainingExample]
BROKEN = ImageRef(data=b"\x89PNG no")


def learned(batch: Any, row: int, tokenizer: Any) -> str:
    labels = batch.question["labels"][row]
    return tokenizer.decode(labels[labels != IGNORED])


def test_labels_are_answer_and_end_mark(collator: Collator, example: Make) -> None:
    batch = collator([example("a", 1, answer="four"), example("bbbbbb", 2, image=True, answer="x")])
    assert learned(batch, 0, collator.tokenizer) == "four<|im_end|>\n"
    assert learned(batch, 1, collator.tokenizer) == "x<|im_end|>\n"
    assert batch.answer_tokens == (4 + 2) + (1 + 2)


def test_left_padding(collator: Collator, example: Make) -> None:
    batch = collator([example("a", 0), example("bbbbbb", 0)])
    mask = batch.question["attention_mask"]
    assert mask[0, 0] == 0 and mask[:, -1].all() and mask[1].all()


def test_every_turn_is_learned(collator: Collator) -> None:
    dialogue = TrainingExample("d", (("One?", "uno"), ("Two?", "dos")))
    assert learned(collator([dialogue]), 0, collator.tokenizer) == "uno<|im_end|>\ndos<|im_end|>\n"


def test_items_of_all_questions_go_into_one_batch(collator: Collator, example: Make) -> None:
    batch = collator([example("a", 2), example("b", 0), example("c", 5)])
    assert batch.rows == ((0, 1), (), (2, 3, 4))  # at most max_items = 3, best first
    assert len(batch.items["input_ids"]) == 5


def test_equal_items_are_encoded_once(collator: Collator, example: Make) -> None:
    first, second = example("a", 2), example("b", 1)
    shared = dataclasses.replace(second, items=(*second.items, first.items[0]))
    assert collator([first, shared]).rows == ((0, 1), (2, 0))


def test_no_items_at_all(collator: Collator, example: Make) -> None:
    batch = collator([example("a", 0)])
    assert batch.items == {} and batch.rows == ((),)


def test_the_next_item_takes_the_place_of_a_broken_one(collator: Collator, example: Make) -> None:
    whole = example("a", 4)
    items = (whole.items[0], KnowledgeItem("bad", "text", BROKEN), *whole.items[1:])
    batch = collator([dataclasses.replace(whole, items=items)])
    assert torch.equal(batch.items["input_ids"], collator([whole]).items["input_ids"])
    assert len(batch.skipped) == 1 and "item bad of question a" in batch.skipped[0]


def test_a_question_without_readable_items_stays(collator: Collator) -> None:
    lonely = TrainingExample("a", (("Q?", "A"),), items=(KnowledgeItem("bad", "text", BROKEN),))
    batch = collator([lonely])
    assert batch.ids == ("a",) and batch.rows == ((),) and len(batch.skipped) == 1


def test_a_question_with_a_broken_picture_is_left_out(collator: Collator, example: Make) -> None:
    broken = dataclasses.replace(example("a"), turn_images=((BROKEN,),))
    batch = collator([broken, example("b")])
    assert batch.ids == ("b",) and "question a" in batch.skipped[0]
    assert collator([broken]).ids == ()
    assert collator([broken]).answer_tokens == 0


def test_an_example_that_is_too_long_is_named(collator: Collator, example: Make) -> None:
    longest = collator([example("a")]).question["input_ids"].shape[1]
    short = dataclasses.replace(collator, max_tokens=longest)
    batch = short([example("long", answer="x" * 60), example("a")])
    assert batch.ids == ("a",)
    (said,) = batch.skipped
    assert re.match("question long: the example 'long' has .* tokens, above max_tokens=", said)
    assert short([example("long", answer="x" * 60)]).skipped == batch.skipped


def test_no_assistant_turn(collator: Collator) -> None:
    from comem.training.collator import answer_labels

    with pytest.raises(ValueError, match="no assistant turn in row 0"):
        answer_labels(torch.tensor([[1, 2, 3]]), collator.tokenizer)
