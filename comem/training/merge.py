"""From a run folder to an encoder folder: LoRA folded in, or kept as a small adapter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from comem.backbones.hf import load_backbone
from comem.backbones.specs import resolve_backbone
from comem.config import DryRun
from comem.io.console import print_facts
from comem.io.files import check_free
from comem.memory.encoder import TrainableEncoder, load_encoder
from comem.training import checkpoint as ckpt
from comem.training.plan import on_meta
from comem.training.run_folder import recorded
from comem.training.settings import MergeSettings, TrainSettings

if TYPE_CHECKING:
    from comem.backbones.comemo import CoMemo


def merge(settings: MergeSettings) -> TrainableEncoder | CoMemo:
    """Write the encoder, or the CoMemo, that a run has trained.

    The Q-Former goes along (the authors' merge loses it: authors_code.md C2).

    Returns:
        The encoder as written; of a run of CoMemo's stages, that model.

    Raises:
        ValueError: no complete checkpoint, `out` holds something already, or the run's base was in 4 bits
            and an adapter is asked for: an adapter belongs to the very base that it was trained on.
    """
    checkpoint, run = _settled(settings)
    if run.comemo.stage:
        from comem.training.comemo import merged

        return merged(checkpoint, run, settings.dtype, settings.out)
    # a 4-bit base as `train` loads it: what is quantised is the rounded weight
    dtype = "bfloat16" if run.quantization else settings.dtype
    backbone = load_backbone(run.model, dtype=dtype, quantization=run.quantization)
    ckpt.check_whole(checkpoint)
    encoder = cast(TrainableEncoder, load_encoder(checkpoint, backbone))
    if not settings.adapter:
        encoder = encoder.merge()
    encoder.save(settings.out)
    return encoder


def merge_plan(settings: MergeSettings, options: DryRun = DryRun()) -> list[tuple[str, str]]:  # noqa: B008 (frozen)
    """What `merge` would do, as labels and values; no weights are read.

    Raises:
        ValueError: as `merge`.
    """
    checkpoint, run = _settled(settings)
    state = ckpt.read_state(checkpoint)
    left = {"optimizer"} if settings.adapter else {"optimizer", "adapter"}
    files = (file for file in checkpoint.glob("*.safetensors") if file.stem not in left)
    size = sum(file.stat().st_size for file in files)
    if not settings.adapter:
        model = on_meta(resolve_backbone(run.model))
        dtype = model.config.get_text_config().dtype or model.config.dtype or torch.float32
        if settings.dtype != "auto":
            dtype = getattr(torch, settings.dtype)
        size += dtype.itemsize * sum(parameter.numel() for parameter in model.parameters())
    rated = ", ".join(f"{name} {value:.4f}" for name, value in state.metrics.items())
    kind = "an adapter beside the base" if settings.adapter else "a self-contained encoder, LoRA folded in"
    return [
        ("checkpoint", f"{checkpoint}, step {state.step:,}" + (f" ({rated})" if rated else "")),
        ("base", run.model),
        ("writes", f"{settings.out}, about {size / 2**30:,.3f} GiB"),
        ("as", kind),
    ]


def show_merge(result: TrainableEncoder | CoMemo | list[tuple[str, str]], settings: MergeSettings) -> None:
    """Print the plan, or where the encoder lies."""
    print_facts(result if isinstance(result, list) else [("encoder", str(settings.out))])


def _settled(settings: MergeSettings) -> tuple[Path, TrainSettings]:
    """The checkpoint and its run's settings; refuses what cannot be merged before a weight is read."""
    out = settings.out
    check_free(out)
    checkpoint, root = _checkpoint(settings.run)
    run = recorded(root)
    if settings.adapter and run.quantization:
        raise ValueError(f"{root} was trained on a {run.quantization} base; merge it without --adapter")
    return checkpoint, run


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
