"""Run folder to encoder folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from comem.cli import main
from comem.io.files import write_json
from comem.memory.qformer_encoder import QFormerEncoder
from comem.training import checkpoint as ckpt
from comem.training.data import load_examples
from comem.training.merge import merge, merge_plan
from comem.training.run import build_encoder, train
from comem.training.settings import MergeSettings, TrainSettings

Make = Callable[..., TrainSettings]


def test_merged_and_adapter_memory_equal_the_run(settings: Make, tmp_path: Path) -> None:
    from comem.backbones.hf import load_backbone

    result = train(settings(max_steps=3))
    items = [example.items[0] for example in load_examples(settings().data)]
    trained = build_encoder(settings(), load_backbone(settings().model), result.checkpoint)
    expected = trained.encode(items).embeddings
    merge(MergeSettings(result.folder, tmp_path / "merged"))
    merge(MergeSettings(result.folder, tmp_path / "adapter", adapter=True))
    for name in ("merged", "adapter"):
        memory = QFormerEncoder.load(tmp_path / name).encode(items).embeddings
        torch.testing.assert_close(memory, expected, atol=1e-5, rtol=0)
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    with pytest.raises(ValueError, match="not empty"):
        merge(MergeSettings(result.folder, tmp_path / "merged"))


def test_the_merged_folder_needs_nothing_else(
    settings: Make, tiny_backbone_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = shutil.copytree(tiny_backbone_folder, tmp_path / "base")
    result = train(settings(model=str(base), max_steps=1, eval_data=settings().data, eval_examples=1))
    words = ["merge", str(result.folder), str(tmp_path / "merged")]
    assert main([*words, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "step 1" in shown and "eval_loss" in shown and not (tmp_path / "merged").exists()
    assert main([*words, "--dtype", "bfloat16"]) == 0
    size = sum(path.stat().st_size for path in (tmp_path / "merged").glob("*.safetensors"))
    planned = merge_plan(MergeSettings(result.folder, tmp_path / "other", dtype="bfloat16"))[2][1]
    assert float(planned.split()[-2]) == pytest.approx(size / 2**30, abs=1e-3)
    shutil.rmtree(base)
    shutil.move(tmp_path / "merged", tmp_path / "moved")
    items = [example.items[0] for example in load_examples(settings().data)]
    encoder = QFormerEncoder.load(tmp_path / "moved")
    assert encoder.encode(items).embeddings.isfinite().all() and encoder.model.dtype == torch.bfloat16


def test_nothing_to_merge(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run folder"):
        merge(MergeSettings(tmp_path, tmp_path / "out"))


def test_the_best_checkpoint_is_merged(settings: Make, tmp_path: Path) -> None:
    """By right answers, then loss; the newest where nothing was evaluated (`checkpoint.best`)."""
    config = settings(eval_data=settings().data, eval_every=2, eval_examples=2, epochs=4, keep_last=9)
    result = train(config)
    folder = result.folder / "checkpoints"
    states = {path: ckpt.read_state(path) for path in ckpt.checkpoints(folder)}
    assert len(states) == 2 and all("eval_accuracy" in state.metrics for state in states.values())
    first = folder / "step-00000002"
    last = folder / "step-00000004"
    for path, loss, accuracy in ((first, 9.0, 1.0), (last, 0.1, 0.5)):
        rated = replace(states[path], metrics={"eval_loss": loss, "eval_accuracy": accuracy})
        write_json(path / "state.json", asdict(rated))
    merge(MergeSettings(result.folder, tmp_path / "merged"))
    mine, best, other = (
        load_file(path / "qformer.safetensors") for path in (tmp_path / "merged", first, last)
    )
    assert all(torch.equal(mine[name], best[name]) for name in best)
    assert not all(torch.equal(best[name], other[name]) for name in best)
