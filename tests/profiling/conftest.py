"""A bench with the smallest shape and short prompts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from comem.profiling.bench import Bench
from comem.profiling.prompts import Lengths
from comem.profiling.shapes import SHAPES, random_model

SHORT = Lengths(item=24, question=12, answer=3, item_image=16, question_image=4)


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Bench(random_model(SHAPES["tiny"], "cpu", torch.float32), SHORT, encode_batch=4) as made:
        yield made
