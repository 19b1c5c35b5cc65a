"""A tiny training set that a tiny model can learn by heart, and settings to match."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from filelock import FileLock
from PIL import Image

from comem.memory.lora import LoraSettings
from comem.memory.qformer import QFormerConfig
from comem.memory.qformer_encoder import QFormerEncoder
from comem.memory.settings import QFormerSettings
from comem.training.collator import Collator
from comem.training.data import TrainingExample
from comem.training.model import MemoryTrainingModel
from comem.training.settings import OptimSettings, TrainSettings
from comem.types import ImageRef, KnowledgeItem
from tests.training.processes import Runs, run_all

ANSWERS = ["ab", "cd", "ef", "gh"]


@pytest.fixture()
def train_file(tmp_path: Path) -> Path:
    """Four questions that differ in their item alone, which holds the answer."""
    rng = numpy.random.default_rng(0)
    rows = []
    for number, answer in enumerate(ANSWERS):
        name = f"{number}.png"
        pixels = rng.integers(0, 256, (28, 28, 3), dtype=numpy.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
        item = {"id": f"k{number}", "text": f"It is {answer}.", "image": name}
        rows.append({"id": f"q{number}", "question": "What is it?", "answer": answer, "knowledge": [item]})
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


@pytest.fixture()
def settings(tmp_path: Path, train_file: Path, tiny_backbone_folder: Path) -> Callable[..., TrainSettings]:
    """`settings(**changes)`: a run of a few quick steps."""
    base = TrainSettings(
        model=str(tiny_backbone_folder),
        data=str(train_file),
        output=str(tmp_path / "run"),
        batch_size=4,
        epochs=6.0,
        precision="fp32",
        save_every=2,
        tensorboard=False,  # its import takes seconds
        lora=LoraSettings(rank=4, alpha=8, dropout=0.05),
        qformer=QFormerSettings(num_queries=4, depth=2, heads=4, output_scale="auto"),
        optim=OptimSettings(lr=5e-3),
    )

    def make(**changes: Any) -> TrainSettings:
        return replace(base, **changes)

    return make


@pytest.fixture()
def training_model(tiny_processor: Any) -> MemoryTrainingModel:
    """A tiny model with LoRA that does something already (its B starts at zero otherwise)."""
    import torch
    from conftest import build_tiny_qwen2_5_vl

    config = QFormerConfig(64, num_queries=4, depth=2, heads=4)
    encoder = QFormerEncoder.new(build_tiny_qwen2_5_vl(), tiny_processor, LoraSettings(4, 8, 0.0), config)
    for name, parameter in encoder.named_parameters():
        if ".lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return MemoryTrainingModel(encoder)


@pytest.fixture()
def collator(tiny_processor: Any, tiny_backbone_folder: Path) -> Collator:
    from functools import partial

    from comem.backbones.base import ChatProcessor
    from comem.backbones.specs import resolve_backbone
    from comem.memory.items import item_inputs
    from comem.memory.settings import KnowledgeFormat

    return Collator(
        process=partial(
            ChatProcessor(resolve_backbone(tiny_backbone_folder), tiny_processor), add_generation_prompt=False
        ),
        process_items=partial(item_inputs, processor=tiny_processor, form=KnowledgeFormat()),
        tokenizer=tiny_processor.tokenizer,
    )


@pytest.fixture()
def example(small_image: Callable[..., ImageRef]) -> Callable[..., TrainingExample]:
    """`example("q", items=2, image=True)`: a question with that many items."""

    def make(name: str, items: int = 1, image: bool = False, answer: str = "yes") -> TrainingExample:
        return TrainingExample(
            id=name,
            turns=((f"What about {name}?", answer),),
            turn_images=((small_image(seed=99),),) if image else (),
            items=tuple(
                KnowledgeItem(f"{name}{i}", f"{name} has {i} legs", small_image(seed=i)) for i in range(items)
            ),
            answers=(answer,),
        )

    return make


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_backbone_folder: Path) -> Runs:
    """All runs of several processes, made once, whatever number of pytest's workers asks for them."""
    common = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        common = common.parent
    with FileLock(common / "processes.lock"):
        if not (common / "processes").exists():
            made = tmp_path_factory.mktemp("processes")
            holder = run_all(made, tiny_backbone_folder)
            (made / "holder").write_text(str(holder))
            (common / "processes").symlink_to(made)
    return Runs((common / "processes").resolve())
