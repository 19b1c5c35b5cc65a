"""From settings to the parts of a run: backbone, encoder, collator, examples."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from comem.backbones.hf import HFBackbone
from comem.memory.encoder import MemoryEncoder, hidden_size
from comem.memory.folder import load_weights, read_folder
from comem.memory.inputs import KnowledgeFormat, item_inputs
from comem.memory.lora import LoraSettings
from comem.memory.qformer import QFormerConfig, token_embedding_scale
from comem.training.collator import Collator
from comem.training.settings import QFormerSettings, TrainSettings


def build_encoder(
    settings: TrainSettings, backbone: HFBackbone, checkpoint: Path | None = None
) -> MemoryEncoder:
    """The encoder on the backbone's own weights: from a checkpoint, from `init`, or fresh by the seed.

    What is trained is held in float32, also beside a bf16 base: steps of 5e-5 vanish in bf16.

    Raises:
        ValueError: `init` holds LoRA of other settings than the configuration asks for.
    """
    torch.manual_seed(settings.seed)
    config = qformer_config(settings.qformer, backbone.model)
    form = KnowledgeFormat(min_pixels=settings.min_pixels, max_pixels=settings.max_pixels)
    encoder = MemoryEncoder.new(backbone.model, backbone.processor, settings.lora, config, form)
    for parameter in encoder.trainable_parameters():
        parameter.data = parameter.data.float()
    source = checkpoint or (Path(settings.init) if settings.init else None)
    if source is not None:
        held = LoraSettings(**(read_folder(source).about["lora"] or {}))
        if (held.rank, held.alpha) != (settings.lora.rank, settings.lora.alpha):
            raise ValueError(f"{source} holds {held}, the settings ask for {settings.lora}; set them alike")
        load_weights(encoder, source)
    return encoder


def qformer_config(settings: QFormerSettings, model: Any) -> QFormerConfig:
    """The Q-Former's sizes with the model's width, and its output scale as a number."""
    scale = settings.output_scale
    if scale == "auto":
        scale = token_embedding_scale(model.get_input_embeddings())
    return QFormerConfig(
        hidden_size(model),
        num_queries=settings.num_queries,
        depth=settings.depth,
        heads=settings.heads,
        ff_mult=settings.ff_mult,
        shared=settings.shared,
        output_scale=scale,
    )


def build_collator(settings: TrainSettings, backbone: HFBackbone, form: KnowledgeFormat) -> Collator:
    """The collator; it holds processors only, no model, so that data workers stay small."""
    return Collator(
        process=partial(backbone.chat, add_generation_prompt=False),
        process_items=partial(item_inputs, processor=backbone.processor, form=form),
        tokenizer=backbone.chat.tokenizer,
        max_items=settings.max_items,
        max_tokens=settings.max_tokens,
    )
