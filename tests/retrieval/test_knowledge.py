"""The knowledge base on a disk that is full."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comem.io.files import StorageError
from comem.retrieval.corpus.table import write_knowledge_base
from comem.retrieval.knowledge import KnowledgeBase
from comem.types import KnowledgeItem


def items(count: int) -> list[KnowledgeItem]:
    return [KnowledgeItem(f"k{n}", f"{n} " * 50, None) for n in range(count)]


def test_a_full_disk_leaves_the_older_one(tmp_path: Path, full_disk: Callable[[int], Any]) -> None:
    write_knowledge_base(items(3), tmp_path)
    with full_disk(1_000), pytest.raises(StorageError, match="free some space and run again"):
        write_knowledge_base(items(200), tmp_path)
    assert len(KnowledgeBase(tmp_path)) == 3
    assert not list(tmp_path.glob(".*"))
    assert len(write_knowledge_base(items(200), tmp_path)) == 200
