"""From a run folder to an encoder folder: LoRA folded in, or kept as a small adapter."""

from __future__ import annotations

from pathlib import Path

import torch

from comem.backbones.hf import load_backbone
from comem.backbones.specs import resolve_backbone
from comem.memory.encoder import MemoryEncoder
from comem.memory.serialization import ADAPTER, QFORMER
from comem.training import checkpoint as ckpt
from comem.training.plan import on_meta
from comem.training.run_folder import recorded
from comem.training.settings import TrainSettings


def merge_run(run: str | Path, out: str | Path, adapter: bool = False, dtype: str = "auto") -> MemoryEncoder:
    """Write the encoder that a run has trained.

    Its best checkpoint is taken if the run was evaluated, else its last one. The Q-Former goes along
    (the authors' merge loses it: authors_code.md C2).

    Args:
        run: a run folder, or one of its checkpoints.
        out: the folder to write; must not exist, or be empty.
        adapter: keep LoRA and Q-Former as an adapter beside the base model, instead of folding.
        dtype: of the merged weights; "auto" as the base is stored. Folding is exact to 1e-5 in
            float32 only; in bf16 the sum is rounded. A run on a 4-bit base gives bf16.

    Returns:
        The encoder as written.

    Raises:
        ValueError: no complete checkpoint, `out` holds something already, or the run's base was in 4 bits
            and an adapter is asked for: an adapter belongs to the very base that it was trained on.
    """
    out = Path(out)
    checkpoint, settings = _settled(Path(run), out, adapter)
    if settings.quantization:
        dtype = "bfloat16"  # as `train` loads it: what is quantised is the rounded weight
    backbone = load_backbone(settings.model, dtype=dtype, quantization=settings.quantization)
    encoder = MemoryEncoder.load(checkpoint, reader=backbone.model, processor=backbone.processor)
    if not adapter:
        encoder = encoder.merge()
    encoder.save(out)
    return encoder


def merge_plan(
    run: str | Path, out: str | Path, adapter: bool = False, dtype: str = "auto"
) -> list[tuple[str, str]]:
    """What `merge_run` would do, as labels and values; no weights are read.

    Raises:
        ValueError: as `merge_run`.
    """
    checkpoint, settings = _settled(Path(run), Path(out), adapter)
    state = ckpt.read_state(checkpoint)
    kept = [checkpoint / name for name in ((ADAPTER, QFORMER) if adapter else (QFORMER,))]
    size = sum(path.stat().st_size for path in kept)
    if not adapter:
        model = on_meta(resolve_backbone(settings.model))
        stored = model.config.get_text_config().dtype or model.config.dtype or torch.float32
        width = torch.empty(0, dtype=getattr(torch, dtype) if dtype != "auto" else stored).element_size()
        size += width * sum(parameter.numel() for parameter in model.parameters())
    rated = ", ".join(f"{name} {value:.4f}" for name, value in state.metrics.items())
    return [
        ("checkpoint", f"{checkpoint}, step {state.step:,}" + (f" ({rated})" if rated else "")),
        ("base", settings.model),
        ("writes", f"{out}, about {size / 2**30:,.3f} GiB"),
        ("as", "an adapter beside the base" if adapter else "a self-contained encoder, LoRA folded in"),
    ]


def _settled(run: Path, out: Path, adapter: bool) -> tuple[Path, TrainSettings]:
    """The checkpoint and its run's settings; refuses what cannot be merged before a weight is read."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not empty; give another folder, or remove it")
    checkpoint, root = _checkpoint(run)
    settings = recorded(root)
    if adapter and settings.quantization:
        raise ValueError(f"{root} was trained on a {settings.quantization} base; merge it without --adapter")
    return checkpoint, settings


def _checkpoint(run: Path) -> tuple[Path, Path]:
    """The checkpoint to merge and the run folder that it belongs to."""
    if (run / "state.json").is_file():
        return run, run.parent.parent
    if not (run / "config.yaml").is_file():
        raise ValueError(f"{run} is no run folder (no config.yaml); give the `output` of comem train")
    checkpoint = ckpt.best(run / "checkpoints")
    if checkpoint is None:
        raise ValueError(f"{run} has no complete checkpoint yet; train first (comem train output={run} …)")
    return checkpoint, run
