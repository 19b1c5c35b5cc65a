"""From settings to the parts of a run: backbone, encoder, collator, examples."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from comem.backbones.hf import HFBackbone
from comem.memory.encoder import MemoryEncoder, hidden_size
from comem.memory.folder import load_weights, read_folder
from comem.memory.inputs import PICTURE_PROMPT, KnowledgeFormat, item_inputs
from comem.memory.lora import LoraSettings
from comem.memory.qformer import QFormerConfig, token_embedding_scale
from comem.training.collator import Collator
from comem.training.settings import QFormerSettings, TrainSettings


def build_encoder(
    settings: TrainSettings,
    backbone: HFBackbone,
    checkpoint: Path | None = None,
    reader: HFBackbone | None = None,
) -> MemoryEncoder:
    """The encoder on the backbone's own weights: from a checkpoint, from `init`, or fresh by the seed.

    What is trained is held in float32, also beside a bf16 base: steps of 5e-5 vanish in bf16.

    Args:
        reader: the model that answers, if it is not the backbone.

    Raises:
        ValueError: `init` holds LoRA or a Q-Former of other sizes than the configuration asks for,
            a Q-Former that writes for a reader of another width among them.
    """
    torch.manual_seed(settings.seed)
    config = qformer_config(settings.qformer, backbone.model, reader.model if reader else None)
    form = knowledge_format(settings, reader or backbone)
    encoder = MemoryEncoder.new(backbone.model, backbone.processor, settings.lora, config, form)
    encoder.elastic = settings.elastic
    if settings.qformer.near_identity:
        encoder.qformer.start_near_identity()
    for parameter in encoder.trainable_parameters():
        parameter.data = parameter.data.float()
    source = checkpoint or (Path(settings.init) if settings.init else None)
    if source is not None:
        _check_sizes(source, settings, encoder.qformer.config)
        load_weights(encoder, source)
    return encoder


def knowledge_format(settings: TrainSettings, reader: HFBackbone) -> KnowledgeFormat:
    """How the encoder reads; questions' pictures, too, if the reader sees none or if asked to."""
    wanted = {"auto": not reader.spec.sees_images, "memory": True, "none": False}[settings.question_picture]
    return KnowledgeFormat(
        min_pixels=settings.min_pixels,
        max_pixels=settings.max_pixels,
        picture_prompt=PICTURE_PROMPT if wanted else None,
    )


def _check_sizes(source: Path, settings: TrainSettings, wanted: QFormerConfig) -> None:
    """Refuse a folder whose trained parts are of other sizes, before a tensor is touched."""
    about = read_folder(source).about
    lora, qformer = LoraSettings(**(about["lora"] or {})), QFormerConfig(**about["qformer"])
    if (lora.rank, lora.alpha) != (settings.lora.rank, settings.lora.alpha):
        raise ValueError(f"{source} holds {lora}, the settings ask for {settings.lora}; set them alike")
    if qformer.width_out != wanted.width_out:
        raise ValueError(
            f"{source} writes memories of width {qformer.width_out}, the reader reads {wanted.width_out}: "
            "set `reader` to the model that it was trained for, or start without `init`"
        )
    if _sizes(qformer) != _sizes(wanted):
        raise ValueError(f"{source} holds {qformer}, the settings ask for {wanted}; set them alike")


def _sizes(config: QFormerConfig) -> QFormerConfig:
    """What a Q-Former's tensors show: the output scale's start value does not, that it has one does."""
    return replace(config, output_size=None, output_scale=None if config.output_scale is None else 1.0)


def qformer_config(settings: QFormerSettings, model: Any, reader: Any = None) -> QFormerConfig:
    """The Q-Former's sizes: the model's width in, the reader's out, its output scale as a number."""
    reader = model if reader is None else reader
    width, scale = hidden_size(reader), settings.output_scale
    if scale == "auto":
        scale = token_embedding_scale(reader.get_input_embeddings())
    return QFormerConfig(
        hidden_size(model),
        num_queries=settings.num_queries,
        depth=settings.depth,
        heads=settings.heads,
        ff_mult=settings.ff_mult,
        shared=settings.shared,
        output_size=None if width == hidden_size(model) else width,
        output_scale=scale,
    )


def _context(backbone: HFBackbone) -> int:
    """The longest input that the model's positions are made for, in tokens."""
    return int(getattr(backbone.model.config.get_text_config(), "max_position_embeddings", 1 << 30))


def build_collator(
    settings: TrainSettings, backbone: HFBackbone, form: KnowledgeFormat, reader: HFBackbone | None = None
) -> Collator:
    """The collator; it holds processors only, no model, so that data workers stay small.

    Items are written for the backbone, questions for the reader (None: the backbone, too).

    Raises:
        ValueError: `wrong_items` beside a memory of the question's own picture, which would be learned to be
            overlooked with them.
    """
    if settings.wrong_items and form.reads_pictures:
        raise ValueError(
            "wrong_items with a reader that gets the question's picture as memory: what it says without any "
            "memory knows nothing of the picture; set wrong_items=0, or question_picture=none"
        )
    chat = (reader or backbone).process
    return Collator(
        process=partial(chat, add_generation_prompt=False),
        process_items=partial(item_inputs, processor=backbone.processor, form=form),
        tokenizer=chat.tokenizer,
        max_items=settings.max_items,
        max_tokens=min(settings.max_tokens, _context(reader or backbone)),
        picture_memory=form.reads_pictures,
    )
