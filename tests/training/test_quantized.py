"""QLoRA: a run on a 4-bit base, resumed and merged, where bitsandbytes is installed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from comem.backbones.hf import load_backbone
from comem.memory.qformer_encoder import QFormerEncoder
from comem.training.merge import merge
from comem.training.run import train
from comem.training.settings import MergeSettings, TrainSettings
from comem.types import KnowledgeItem

Make = Callable[..., TrainSettings]


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_an_adapter_of_a_4bit_base_is_refused(settings: Make, tmp_path: Path) -> None:
    config = settings(max_steps=1)
    train(config)
    path = Path(config.output) / "config.yaml"
    path.write_text(path.read_text().replace("quantization: ''", "quantization: 4bit"))
    with pytest.raises(ValueError, match="4bit base; merge it without --adapter"):
        merge(MergeSettings(Path(config.output), tmp_path / "adapter", adapter=True))


@pytest.mark.slow
def test_qlora_learns_resumes_and_merges(settings: Make, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    config = settings(quantization="4bit", precision="bf16", epochs=4, save_every=2)
    result = train(config)
    assert result.loss < 0.95 * losses(result.folder)[0]
    half = replace(config, output=str(tmp_path / "half"))
    train(half)
    for path in sorted((tmp_path / "half" / "checkpoints").iterdir())[1:]:
        (path / "state.json").unlink()
    resumed = train(half)
    assert losses(resumed.folder) == losses(result.folder)
    for name in ("adapter", "qformer"):
        mine, theirs = (load_file(run.checkpoint / f"{name}.safetensors") for run in (resumed, result))
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    backbone = load_backbone(config.model, dtype="bfloat16", quantization="4bit")
    unmerged = QFormerEncoder.load(result.checkpoint, reader=backbone.model, processor=backbone.processor)
    merged = merge(MergeSettings(result.folder, tmp_path / "merged"))
    item = [KnowledgeItem("a", "It is ab.", None)]
    again = QFormerEncoder.load(tmp_path / "merged")
    one, two, three = (e.encode(item).embeddings.float() for e in (unmerged, merged, again))
    assert torch.equal(two, three)
    assert float((one - two).norm() / one.norm()) < 0.05  # bf16
