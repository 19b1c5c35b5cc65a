"""Prompts are as long as asked, and as a real processor would make them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from comem.profiling.bench import Bench
from comem.profiling.prompts import Lengths, PromptMaker


def test_lengths_and_pictures(bench: Bench) -> None:
    inputs = bench.maker.prompts(2, items=3)
    assert inputs["input_ids"].shape == (2, 3 * 24 + 12)
    image = inputs["input_ids"] == bench.model.config.image_token_id
    assert image.sum(1).tolist() == [3 * 16 + 4] * 2
    assert inputs["image_grid_thw"].tolist() == [[1, 8, 8]] * 3 + [[1, 4, 4]] + [[1, 8, 8]] * 3 + [[1, 4, 4]]
    assert inputs["pixel_values"].shape == (2 * (3 * 64 + 16), 3 * 2 * 14 * 14)
    assert inputs["pixel_values"].min() < -0.9 and inputs["pixel_values"].max() > 0.9
    assert bench.maker.items(5)["input_ids"].shape == (5, 24)


def test_the_same_tensors_as_a_real_processor(tiny_processor: Any, tiny_qwen2_5_vl: Any) -> None:
    text = "<|vision_start|><|image_pad|><|vision_end|>abcde"
    picture = Image.fromarray(np.zeros((112, 112, 3), dtype=np.uint8))
    real = tiny_processor(text=[text], images=[picture], return_tensors="pt")
    length = real["input_ids"].shape[1]
    made = PromptMaker(tiny_qwen2_5_vl, Lengths(length, length, item_image=16, question_image=16)).prompts(1)
    assert set(made) == set(real)
    for name in made:
        assert made[name].shape == real[name].shape, name
    for name in ("attention_mask", "mm_token_type_ids", "image_grid_thw"):
        assert torch.equal(made[name], real[name]) and made[name].dtype == real[name].dtype, name


def test_words_have_no_role_and_leave_an_id_for_memory(bench: Bench) -> None:
    config = bench.model.config
    drawn = set(bench.maker.text(8, 2000)["input_ids"].flatten().tolist())
    assert len(drawn) > 400  # of 512
    marks = (config.video_token_id, config.vision_start_token_id, config.vision_end_token_id)
    assert not {bench.maker.placeholder, config.image_token_id, *marks} & drawn


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"item_image": 320}, "square number"),
        ({"item": 300}, "at least 327"),
        ({"question": 256}, "at least 259"),
        ({"answer": 1}, "at least 2"),
    ],
)
def test_lengths_that_cannot_be(values: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Lengths(**values)


def test_another_family_is_refused(tiny_qwen2: Any) -> None:
    with pytest.raises(ValueError, match="'qwen2'.*qwen2_5_vl"):
        PromptMaker(tiny_qwen2, Lengths())
