"""The embedded models, loaded once for all tests of memories."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import comem
from comem.retrieval.embedder import load_embedder
from comem.store.models import Models
from comem.toy.draw import image_of
from comem.toy.world import Entity, World

QUESTION = "What are the walls of this town made of?"


@pytest.fixture(scope="session")
def models() -> Models:
    backbone = comem.load_backbone("toy")
    return Models(backbone, comem.load_encoder("toy", backbone), load_embedder("toy"))


@pytest.fixture
def opened(tmp_path: Path, models: Models) -> Callable[..., comem.Memory]:
    """Opens a memory on the models that are loaded."""

    def open_(name: str = "memory", **options) -> comem.Memory:
        memory = comem.Memory(tmp_path / name, **options)
        memory.models = models
        return memory

    return open_


@pytest.fixture(scope="session")
def towns() -> tuple[Entity, ...]:
    """Towns that no model has seen."""
    return World().split("test")[:6]


@pytest.fixture
def remembered(opened, towns) -> comem.Memory:
    """A memory of these towns, half of them ann's."""
    memory = opened()
    for number, town in enumerate(towns):
        memory.add(
            f"{town.name}: {town.passage()}", image_of(town, view=0), id=town.id,
            user_id="ann" if number % 2 == 0 else "ben", metadata={"founded": town.facts["founded"]},
        )  # fmt: skip
    return memory
