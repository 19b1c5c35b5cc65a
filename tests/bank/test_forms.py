"""Packing: exact where it says so, bounded where not; compared with torch's own conversions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from comem.bank.forms import PLAIN_FORMS
from comem.bank.serve import as_tensor
from comem.registry import UnknownNameError


@pytest.fixture()
def memories() -> np.ndarray:
    generator = np.random.default_rng(0)
    return (generator.standard_normal((5, 3, 32)) * 10 ** generator.uniform(-3, 3, (5, 3, 1))).astype("f4")


@pytest.mark.parametrize(
    "name, dtype", [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_floats_are_what_torch_makes_of_them(memories: np.ndarray, name: str, dtype: torch.dtype) -> None:
    form = PLAIN_FORMS[name](3, 32)
    rows = form.pack(memories)
    expected = torch.from_numpy(memories).to(dtype)
    assert rows.shape == (5, form.stride) and rows.dtype == np.uint8
    assert torch.equal(as_tensor(form, rows), expected)
    assert np.array_equal(form.unpack(rows), expected.float().numpy())
    assert np.array_equal(form.pack(form.unpack(rows)), rows)


def test_bfloat16_rounds_halves_to_even_and_keeps_extremes() -> None:
    halves = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 3.3e38, 1e-40, 0.0, -0.0, 1.0], dtype="f4")
    form = PLAIN_FORMS["bf16"](1, 8)
    expected = torch.from_numpy(halves).to(torch.bfloat16).view(torch.int16).numpy()
    assert np.array_equal(form.pack(halves.reshape(1, 1, 8)).view("<i2")[0], expected)


def test_int8_is_within_half_a_step(memories: np.ndarray) -> None:
    form = PLAIN_FORMS["int8"](3, 32)
    rows = form.pack(memories)
    assert rows.shape == (5, 3 * (4 + 32))
    half_a_step = np.abs(memories).max(-1, keepdims=True) / 254
    assert (np.abs(form.unpack(rows) - memories) <= half_a_step * 1.001).all()
    assert np.array_equal(form.unpack(form.pack(np.zeros((2, 3, 32), "f4"))), np.zeros((2, 3, 32)))


def test_no_memories(memories: np.ndarray) -> None:
    for name, make in PLAIN_FORMS.items():
        form = make(3, 32)
        assert form.pack(memories[:0]).shape == (0, form.stride), name
        assert form.unpack(np.zeros((0, form.stride), np.uint8)).shape == (0, 3, 32), name


def test_float16_refuses_what_it_cannot_hold(memories: np.ndarray) -> None:
    memories[2, 1, 3] = 1e6
    with pytest.raises(ValueError, match="1e\\+06, beyond float16.*store it as bf16"):
        PLAIN_FORMS["fp16"](3, 32).pack(memories)


def test_the_sizes_at_7b() -> None:
    kib = {name: make(8, 3584).stride / 1024 for name, make in PLAIN_FORMS.items()}
    assert kib == {"fp32": 112, "bf16": 56, "fp16": 56, "int8": 28.03125}
    with pytest.raises(UnknownNameError, match="did you mean bf16"):
        PLAIN_FORMS["bf8"]
