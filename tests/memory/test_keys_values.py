"""Keys that are moved: by how much, and in which direction."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from comem.memory.injection.keys_values import KVMemory, join, rotate
from comem.memory.settings import KVSettings


def rotated(keys: torch.Tensor, position: int, frequencies: torch.Tensor) -> torch.Tensor:
    """Rotary embeddings as transformers has them: `x cos + rotate_half(x) sin`."""
    angle = position * torch.cat([frequencies, frequencies])
    half = keys.shape[-1] // 2
    turned = torch.cat([-keys[..., half:], keys[..., :half]], dim=-1)
    return keys * angle.cos() + turned * angle.sin()


@pytest.mark.parametrize("shift", [-9, 4])
def test_a_key_moves_in_the_direction_of_its_shift(shift: int) -> None:
    """A key read at position 20 and moved by s is the key read at 20 + s."""
    keys, frequencies = torch.randn(2, 1, 8), 1.0 / 100 ** (torch.arange(4) / 4)
    there = rotate(rotated(keys, 20, frequencies), shift, frequencies)
    torch.testing.assert_close(there, rotated(keys, 20 + shift, frequencies), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(there, rotated(keys, 20 - shift, frequencies), atol=1e-2)


def test_joined_memories_end_just_before_the_question(tiny_qwen2: Any) -> None:
    """Two items of three and two tokens: their keys stand at -5 … -1, in the items' order."""
    frequencies = tiny_qwen2.model.rotary_emb.inv_freq
    width = 2 * len(frequencies)
    plain = [torch.randn(2, size, width) for size in (3, 2)]

    def read(keys: torch.Tensor) -> KVMemory:
        at = [rotated(keys[:, i : i + 1], i, frequencies) for i in range(keys.shape[1])]
        return KVMemory({0: torch.cat(at, dim=1)}, {0: torch.zeros_like(keys)}, keys.shape[1])

    joined = join(tiny_qwen2, [read(keys) for keys in plain])
    whole = torch.cat(plain, dim=1)
    expected = [rotated(whole[:, i : i + 1], i - 5, frequencies) for i in range(5)]
    torch.testing.assert_close(joined.keys[0], torch.cat(expected, dim=1), atol=1e-5, rtol=1e-5)
    assert len(joined) == joined.span == 5


def test_settings() -> None:
    with pytest.raises(ValueError, match="fraction 25: give more than 0"):
        KVSettings(fraction=25)
