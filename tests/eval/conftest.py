"""A tiny world with an index, a random model of the embedded one's kind, and commands on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from comem.retrieval.index import IndexSettings, build_index
from comem.toy.dataset import DataSettings
from comem.toy.dataset import build as build_world


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a processor, and an adapter folder made on it."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    from comem.backbones.hf import load_backbone
    from comem.memory.lora import LoraSettings
    from comem.memory.qformer import QFormerConfig
    from comem.memory.qformer_encoder import QFormerEncoder
    from tools.toy.backbone import build_config, build_processor
    from tools.toy.tokenizer import build_tokenizer

    folder = tmp_path_factory.mktemp("model") / "backbone"
    torch.manual_seed(0)
    tokenizer = build_tokenizer(vocab_size=600)
    network: Any = Qwen2_5_VLForConditionalGeneration(build_config(tokenizer, hidden=128, layers=1))
    network.save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)
    backbone = load_backbone(folder)
    qformer = QFormerConfig(128, depth=1, heads=2, dim_head=8)
    encoder = QFormerEncoder.new(backbone.model, backbone.processor, LoraSettings(rank=2), qformer)
    encoder.save(folder.parent / "encoder")
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    build_world(DataSettings(folder, size=10, train_questions=2, test_questions=3, image_size=32))
    settings = IndexSettings(corpus=(str(folder / "wit.tsv.gz"),), output=folder / "index", embedder="toy")
    build_index(settings)
    return folder


def words(world: Path, model: Path, mode: str, output: Path, *more: str) -> list[str]:
    """A `comem predict` command; `mode` may name several."""
    return [
        "predict", "--benchmark", "toy", "--data", str(world / "test.jsonl"), "--model", str(model),
        "--mode", *mode.split(), "--output", str(output), "--max-new-tokens", "2",
        "--index", str(world / "index"), "-k", "2", *more,
    ]  # fmt: skip


def predictions(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run folder."""
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
