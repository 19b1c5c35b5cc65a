"""A small store, and an encoder without a model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comem.bank.format import EncoderInfo
from comem.bank.forms import PLAIN_FORMS
from comem.bank.writer import create_store
from comem.types import ImageRef, KnowledgeItem

MADE_BY = "a" * 64
QUERIES, WIDTH = 2, 16


def memory_of(text: str) -> np.ndarray:
    """float32 (q, d) that depends on the text alone, and is the same in bfloat16."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
    return np.random.default_rng(seed).integers(-60, 60, (QUERIES, WIDTH)).astype(np.float32) / 4


class FakeEncoder:
    """Counts what it encodes; the memory depends on text and picture."""

    prepares = False

    def __init__(self, fingerprint: str = MADE_BY) -> None:
        self.name = fingerprint
        self.calls: list[tuple[str, ...]] = []
        self.num_vectors: int | None = QUERIES
        self.width = WIDTH

    def item_format(self) -> dict[str, Any]:
        return {"prompt": "remember", "max_chars": 5000}

    def encode(self, items: Sequence[KnowledgeItem], batch_size: int = 16, inputs: Any = None) -> Any:
        import torch

        from comem.memory.bank import MemoryBank

        self.calls.append(tuple(item.id for item in items))
        broken = [item.id for item in items if "broken" in item.text]
        if broken:
            raise ValueError(f"knowledge item {broken[0]!r}: the image is damaged")
        memories = np.stack([memory_of(item.text) for item in items])
        return MemoryBank(torch.from_numpy(memories), tuple(item.id for item in items), self.name)

    def fingerprint(self) -> str:
        return self.name

    def accepted_fingerprints(self) -> tuple[str, ...]:
        return (self.name, "older")


@pytest.fixture()
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture()
def items() -> list[KnowledgeItem]:
    return [KnowledgeItem(f"i{n}", f"text {n}", ImageRef(data=bytes([n]))) for n in range(10)]


@pytest.fixture()
def empty_store(tmp_path: Path) -> Callable[..., Path]:
    """`empty_store(form, name)` makes a store without items, five to a shard."""

    def make(form: str = "bf16", name: str = "store", made_by: str = MADE_BY) -> Path:
        folder = tmp_path / name
        create_store(folder, PLAIN_FORMS[form](QUERIES, WIDTH), EncoderInfo(made_by), shard_items=5)
        return folder

    return make
