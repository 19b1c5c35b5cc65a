"""One training run, from its settings to its folder: `train(settings)`."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch

from comem.backbones.base import Backbone, Injection
from comem.backbones.hf import HFBackbone, context_of, load_backbone
from comem.backbones.prepared import liger
from comem.config import as_dict
from comem.io.console import Progress, bar
from comem.io.files import one_writer, write_json
from comem.io.run_folder import run_manifest
from comem.memory.checkpointing import enable_checkpointing
from comem.memory.encoder import ENCODERS, Learned, TrainableEncoder
from comem.memory.injection import INJECTIONS, LAYOUTS
from comem.memory.items import item_inputs
from comem.memory.settings import PICTURE_PROMPT, CrossSettings, KnowledgeFormat
from comem.training import checkpoint as ckpt
from comem.training.collator import Collator
from comem.training.data import TrainingExample, load_examples, select
from comem.training.labels import template_labels, value_weights
from comem.training.model import MemoryTrainingModel
from comem.training.ranks import check_launch, on_main, shard, sharded, use_bf16
from comem.training.run_folder import settle
from comem.training.settings import TrainSettings
from comem.training.trainer import Evaluated, Trainer, TrainResult
from comem.types import Message

logger = logging.getLogger(__name__)

VIDEO = "video_memory"  # the kind of encoder with a training of its own


def build_encoder(
    settings: TrainSettings,
    backbone: HFBackbone,
    checkpoint: Path | None = None,
    reader: HFBackbone | None = None,
) -> TrainableEncoder:
    """The encoder on the backbone's own weights: from a checkpoint, from `init`, or fresh by the seed.

    What is trained is held in float32, also beside a bf16 base: steps of 5e-5 vanish in bf16.

    Args:
        settings: of the run.
        backbone: whose model reads the items.
        checkpoint: its folder, which goes before `init`; None for none.
        reader: the model that answers, if it is not the backbone.

    Raises:
        ValueError: `init` holds LoRA or a Q-Former of other sizes than the configuration asks for,
            a Q-Former that writes for a reader of another width among them.
    """
    torch.manual_seed(settings.seed)
    encoder: TrainableEncoder = ENCODERS[settings.encoder].build(
        backbone, lora=settings.lora, qformer=settings.qformer, elastic=settings.elastic,
        form=knowledge_format(settings, backbone, reader), reader=reader.model if reader else None,
    )  # fmt: skip
    for parameter in encoder.trainable_parameters():
        parameter.data = parameter.data.float()
    source = checkpoint or (Path(settings.init) if settings.init else None)
    if source is not None:
        encoder.load_weights(source)
    if settings.vectors and not encoder.any_number:
        raise ValueError(
            f"vectors: encoder={settings.encoder} writes one number of them; give encoder=stretches"
        )
    return encoder


def knowledge_format(
    settings: TrainSettings, backbone: HFBackbone, reader: HFBackbone | None = None
) -> KnowledgeFormat:
    """How the encoder reads; questions' images, too, if the reader sees none or if asked to.

    Raises:
        ValueError: questions' images are to be read by a model that sees none.
    """
    sees, blind = backbone.spec.sees_images, not (reader or backbone).spec.sees_images
    if settings.question_picture == "memory" and not sees:
        raise ValueError(
            f"question_picture=memory: {backbone.spec.name} sees no images; set question_picture=none"
        )
    wanted = {"auto": blind and sees, "memory": True, "none": False}[settings.question_picture]
    return KnowledgeFormat(
        min_pixels=settings.min_pixels,
        max_pixels=settings.max_pixels,
        max_tiles=settings.max_tiles,
        max_side=settings.max_side,
        picture_prompt=PICTURE_PROMPT if wanted else None,
        style=ENCODERS[settings.encoder].style or backbone.spec.items,
    )


def _context(backbone: Backbone) -> int:
    """The longest input that the model's positions are made for, in tokens."""
    return context_of(backbone.model) or 1 << 30


def build_collator(
    settings: TrainSettings, backbone: HFBackbone, form: KnowledgeFormat, reader: Backbone | None = None
) -> Collator:
    """The collator; it holds processors only, no model, so that data workers stay small.

    Items are written for the backbone, questions for the reader (None: the backbone, too).

    Raises:
        ValueError: `wrong_items` beside a memory of the question's own image, which would be learned to be
            overlooked with them.
    """
    if settings.wrong_items and form.reads_images:
        raise ValueError(
            "wrong_items with a reader that gets the question's image as memory: what it says without any "
            "memory knows nothing of the image; set wrong_items=0, or question_picture=none"
        )
    chat = replace((reader or backbone).process, context=None)  # the collator says which example is too long
    return Collator(
        process=partial(chat, add_generation_prompt=False),
        process_items=partial(item_inputs, processor=backbone.processor, form=form),
        tokenizer=chat.tokenizer,
        labels=None if chat.spec.items == "paper" else partial(template_labels, chat),
        weights=partial(value_weights, chat, wording=settings.wording_weight),
        opening=(Message("system", (settings.system,)),) if settings.system else (),
        max_items=settings.max_items,
        max_tokens=min(settings.max_tokens, _context(reader or backbone)),
        image_memory=form.reads_images,
    )


def train(
    settings: TrainSettings, progress: Progress = bar, evaluated: Evaluated | None = None
) -> TrainResult:
    """Train in `settings.output`, from its newest complete checkpoint if it has one.

    The folder gets config.yaml, run.json (versions, seed), metrics.jsonl (a line a step),
    metrics.json (the summary) and checkpoints/, each an adapter folder as `MemoryEncoder.save` writes.

    Several processes (accelerate launch) share each step's questions; the main one alone writes and shows.

    Args:
        settings: of the run.
        progress: shows how far it is; `comem.io.console.quiet` for silence.
        evaluated: is told the step and the figures of each evaluation, as soon as they are there.

    Raises:
        ValueError: bad data or settings, a folder in use or of another configuration; NaN.
        Interrupted: on Ctrl-C or SIGTERM, after a checkpoint.
        StorageError: no space left.
    """
    if not settings.data:
        raise ValueError("no training data: set data=FILE.jsonl (one question a line)")
    passed = list[str]()
    examples = select(_questions(settings, settings.data, passed), settings)
    asked = _questions(settings, settings.eval_data, passed) if settings.eval_data else []
    folder = Path(settings.output)
    check_launch()
    with ExitStack() as held:
        # the main process holds the folder for all; the others get its finding, or its refusal
        found = on_main(lambda: _enter(held, folder, settings, len(set(passed))))
        resume = Path(found) if found else None
        if resume and ckpt.read_state(resume).finished:
            return _finished(folder, resume)
        dtype = "bfloat16" if settings.quantization or use_bf16(settings.precision) else "float32"
        device = "cpu" if sharded() else None  # whole on the CPU, in pieces on the GPU
        attn, quantization = settings.attn or None, settings.quantization
        load = partial(load_backbone, dtype=dtype, device=device, attn=attn, quantization=quantization)
        if settings.comemo.stage or settings.encoder == VIDEO:
            return _stage(settings, load, examples, asked, resume).run(progress, evaluated)
        backbone = load(settings.model)
        reader = load(settings.reader) if settings.reader else backbone
        on_main(lambda: _note_rows(folder, backbone, reader))
        encoder = build_encoder(settings, backbone, resume, reader)
        _check_something_to_encode(settings, examples, encoder)
        injection = build_injection(settings, reader, encoder)  # may start with weights that are still whole
        if sharded():
            encoder.base_digest(keep=True)
        for network in {id(b.model): b.model for b in (backbone, reader)}.values():
            if settings.checkpointing:
                enable_checkpointing(network)
            if sharded():
                shard(network)
            if settings.liger:
                held.enter_context(liger(network))
        model = MemoryTrainingModel(encoder, reader.model, injection, settings.loss_chunk)
        answering = injection.reader(reader)
        collator = build_collator(settings, backbone, knowledge_format(settings, backbone, reader), answering)
        trainer = Trainer(settings, model, collator, examples, asked, answering, resume)
        return trainer.run(progress, evaluated)


def _questions(settings: TrainSettings, path: str, passed: list[str]) -> list[TrainingExample]:
    """The examples of a file, as the kind of encoder has them written."""
    if settings.encoder == VIDEO:
        from comem.training.video import load_video_examples

        return load_video_examples(path, settings.video_stage.videos or None, passed)
    return load_examples(path, settings.knowledge or None, passed)


def _stage(
    settings: TrainSettings,
    load: Callable[[str], HFBackbone],
    examples: Sequence[TrainingExample],
    asked: Sequence[TrainingExample],
    resume: Path | None,
) -> Trainer:
    """The trainer of a stage of CoMemo's, or of a video memory's."""
    if sharded():
        raise ValueError("stages of CoMemo and of video memories train on whole models: start without FSDP")
    if settings.comemo.stage:
        from comem.training import comemo

        run: comemo.CoMemoRun | video.VideoRun = comemo.build_run(settings, load, resume)
    else:
        from comem.training import video

        run = video.build_run(settings, load, resume)
    return Trainer(settings, run.model, run.collator, examples, asked, run.backbone, resume)


def build_injection(settings: TrainSettings, reader: Backbone, encoder: TrainableEncoder) -> Injection:
    """The injection; its own weights, where it has any, as the encoder brings them or fresh by the seed.

    They are held in float32 and trained, as the encoder's are.

    Raises:
        ValueError: the encoder brings weights of other sizes than the configuration asks for.
    """
    asked = as_dict(settings.cross)
    if encoder.learned is None or encoder.learned.name != settings.injection:
        encoder.learned = Learned(settings.injection, asked)
    elif CrossSettings(**encoder.learned.settings).blocks != settings.cross.blocks:
        raise ValueError(
            f"init holds blocks of {encoder.learned.settings}, the settings ask for {asked}; set `cross` "
            "alike"
        )
    encoder.learned.settings = asked
    torch.manual_seed(settings.seed)
    injection = INJECTIONS[settings.injection](reader, encoder)
    if injection.weights is None:
        encoder.learned = None
        if settings.injection not in ("prefix", *LAYOUTS):
            encoder.injection = settings.injection  # an encoder's folder remembers it
        return injection
    for name, parameter in injection.weights.named_parameters():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(not (settings.cross.freeze_gates and name.endswith("_gate")))
    injection.weights.checkpointing = settings.checkpointing
    return injection


def _note_rows(folder: Path, *backbones: HFBackbone) -> None:
    """Keep beside the run what was found of models that no row declares."""
    found = {b.spec.name: asdict(b.spec) for b in backbones if not b.spec.declared}
    if found:
        write_json(folder / "backbones.json", found)


def _check_something_to_encode(
    settings: TrainSettings, examples: Sequence[TrainingExample], encoder: TrainableEncoder
) -> None:
    """Refuse questions from which no memory can be learned: without items, all of them."""
    if not any(example.items or (encoder.reads_images and example.images) for example in examples):
        raise ValueError(
            f"no question of {settings.data} has a knowledge item, so no memory can be learned: add "
            "'knowledge' to the records (comem retrieve finds items, comem data synthesise keeps what helps)"
        )


def _enter(held: ExitStack, folder: Path, settings: TrainSettings, passed_over: int) -> str:
    """Lock and settle the folder until `held` is closed; the checkpoint to go on from, or nothing."""
    held.enter_context(one_writer(folder / ".lock"))
    settle(folder, settings)
    ckpt.clean(folder / "checkpoints")
    ckpt.keep_last(folder / "checkpoints", settings.keep_last, also=ckpt.best(folder / "checkpoints"))
    resume = ckpt.latest(folder / "checkpoints")
    if resume is None or not ckpt.read_state(resume).finished:
        if resume:
            logger.warning("going on from %s", resume)
        facts = {"config": as_dict(settings), "records_passed_over": passed_over}
        write_json(folder / "run.json", run_manifest(facts))
    return str(resume or "")


def _finished(folder: Path, checkpoint: Path) -> TrainResult:
    """The result of a run that has nothing left to do."""
    there = ckpt.read_state(checkpoint)
    logger.warning("%s is finished after %d steps; nothing to do", folder, there.step)
    if not (folder / "metrics.json").exists():  # the run ended between its last checkpoint and this
        ckpt.write_summary(folder, there)
    return TrainResult(folder, checkpoint, there.step, there.elapsed, math.nan, there.metrics)
