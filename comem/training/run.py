"""One training run, from its settings to its folder: `train(settings)`."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from comem.backbones.hf import load_backbone
from comem.config import as_dict
from comem.memory.checkpointing import enable_checkpointing
from comem.memory.encoder import MemoryEncoder
from comem.records import run_manifest, write_json
from comem.training import checkpoint as ckpt
from comem.training.build import build_collator, build_encoder
from comem.training.dataset import TrainingExample, load_examples
from comem.training.kernels import use_kernels
from comem.training.model import MemoryTrainingModel
from comem.training.precision import use_bf16
from comem.training.ranks import check_launch, on_main
from comem.training.run_folder import locked, settle
from comem.training.selection import select
from comem.training.settings import TrainSettings
from comem.training.sharding import shard, sharded
from comem.training.trainer import Trainer, TrainResult

logger = logging.getLogger(__name__)


def train(settings: TrainSettings) -> TrainResult:
    """Train in `settings.output`, from its newest complete checkpoint if it has one.

    The folder gets config.yaml, run.json (versions, seed), metrics.jsonl (a line a step),
    metrics.json (the summary) and checkpoints/, each an adapter folder as `MemoryEncoder.save` writes.

    Several processes (accelerate launch) share each step's questions; the main one alone writes.

    Raises:
        ValueError: bad data or settings, a folder in use or of another configuration; NaN.
        Interrupted: on Ctrl-C or SIGTERM, after a checkpoint.
        StorageError: no space left.
    """
    if not settings.data:
        raise ValueError("no training data: set data=FILE.jsonl (one question a line)")
    examples = select(load_examples(settings.data, settings.knowledge or None), settings)
    asked = load_examples(settings.eval_data, settings.knowledge or None) if settings.eval_data else []
    folder = Path(settings.output)
    check_launch()
    with ExitStack() as held:
        # the main process holds the folder for all; the others get its finding, or its refusal
        found = on_main(lambda: _enter(held, folder, settings))
        resume = Path(found) if found else None
        if resume and ckpt.read_state(resume).finished:
            return _finished(folder, resume)
        dtype = "bfloat16" if settings.quantization or use_bf16(settings.precision) else "float32"
        device = "cpu" if sharded() else None  # whole on the CPU, in pieces on the GPU
        attn, quantization = settings.attn or None, settings.quantization
        load = partial(load_backbone, dtype=dtype, device=device, attn=attn, quantization=quantization)
        backbone = load(settings.model)
        reader = load(settings.reader) if settings.reader else backbone
        encoder = build_encoder(settings, backbone, resume, reader)
        _check_something_to_encode(settings, examples, encoder)
        for network in {id(b.model): b.model for b in (backbone, reader)}.values():
            if settings.checkpointing:
                enable_checkpointing(network)
            if sharded():
                shard(network)
            use_kernels(network, settings.liger)  # last: it asks where the weights are
        model = MemoryTrainingModel(encoder, reader.model, reader.placeholder_id, settings.loss_chunk)
        collator = build_collator(settings, backbone, encoder.form, reader)
        return Trainer(settings, model, collator, examples, asked, reader, resume).run()


def _check_something_to_encode(
    settings: TrainSettings, examples: Sequence[TrainingExample], encoder: MemoryEncoder
) -> None:
    """Refuse questions from which no memory can be learned: without items, all of them."""
    pictures = encoder.form.reads_pictures
    if not any(example.items or (pictures and example.images) for example in examples):
        raise ValueError(
            f"no question of {settings.data} has a knowledge item, so no memory can be learned: add "
            "'knowledge' to the records (comem retrieve finds items, comem data synthesise keeps what helps)"
        )


def _enter(held: ExitStack, folder: Path, settings: TrainSettings) -> str:
    """Lock and settle the folder until `held` is closed; the checkpoint to go on from, or nothing."""
    held.enter_context(locked(folder))
    settle(folder, settings)
    ckpt.sweep(folder / "checkpoints")
    resume = ckpt.latest(folder / "checkpoints")
    if resume is None or not ckpt.read_state(resume).finished:
        if resume:
            logger.warning("going on from %s", resume)
        write_json(folder / "run.json", run_manifest({"config": as_dict(settings)}))
    return str(resume or "")


def _finished(folder: Path, checkpoint: Path) -> TrainResult:
    """The result of a run that has nothing left to do."""
    state = ckpt.read_state(checkpoint)
    logger.warning("%s is finished after %d steps; nothing to do", folder, state.step)
    return TrainResult(folder, checkpoint, state.step, state.elapsed, math.nan, state.metrics)
