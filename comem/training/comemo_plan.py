"""What a stage of CoMemo would train and compute, told from sizes and a sample of the dialogues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comem.backbones.flops import Flops, attention_flops, decoder, linear, output_layer, tile_tower
from comem.backbones.hf import HFBackbone
from comem.backbones.media import BlockSizes
from comem.memory.lora import add_lora
from comem.training.comemo import Sample, collator_for, unfreeze, with_blocks
from comem.training.data import TrainingExample
from comem.training.settings import TrainSettings


@dataclass(frozen=True)
class StagePlan:
    """The numbers of a stage.

    Attributes:
        parameters: of model and blocks, LoRA included.
        trained: of these, by part.
        tokens: of a dialogue, image tokens included; 0 where nothing can be read.
        flops: of a dialogue, forward and backward.
    """

    parameters: int
    trained: Mapping[str, int]
    tokens: float = 0.0
    flops: float = 0.0


def plan_stage(settings: TrainSettings, given: HFBackbone, sample: Sequence[TrainingExample]) -> StagePlan:
    """The plan of a stage.

    Args:
        settings: of the run.
        given: a CoMemo, or an InternVL model, whose weights are on the meta device.
        sample: some of the dialogues.

    Raises:
        ValueError: as `comem.training.comemo.build_run`.
    """
    backbone = with_blocks(given, settings)
    comemo, asked = backbone.comemo, settings.comemo
    if asked.stage == 3 and asked.whole == "lora":
        add_lora(comemo.model, settings.lora)
    unfreeze(comemo, settings)
    trained: dict[str, int] = {}
    for name, parameter in comemo.named_parameters():
        if parameter.requires_grad:
            part = _part(name)
            trained[part] = trained.get(part, 0) + parameter.numel()
    parameters = sum(p.numel() for p in comemo.parameters())
    batch = collator_for(settings, backbone)(sample) if sample else None
    if batch is None or not batch.samples:
        return StagePlan(parameters, trained)
    config, sizes = comemo.model.config, comemo.blocks.sizes
    work = sum(
        dialogue_flops(row, config, sizes, settings, comemo.side**2).training(settings.checkpointing)
        for row in batch.samples
    )
    tokens = sum(row["input_ids"].shape[1] for row in batch.samples)
    return StagePlan(parameters, trained, tokens / len(batch.samples), work / len(batch.samples))


def dialogue_flops(
    row: Sample, config: Any, sizes: BlockSizes, settings: TrainSettings, tile_tokens: int
) -> Flops:
    """Operations of one dialogue, by how their backward pass counts.

    Args:
        row: its inputs with `labels`.
        config: of InternVL.
        sizes: of the blocks.
        settings: which parts learn, and which path images take.
        tile_tokens: tokens that a tile gives.
    """
    asked, text = settings.comemo, config.get_text_config()
    whole = asked.stage == 3 and asked.whole == "full"
    rank = settings.lora.rank if asked.stage == 3 and not whole else 0
    length, tiles = row["input_ids"].shape[1], len(row.get("pixel_values", ()))
    tower = tile_tower(config.vision_config, tiles, rank)
    model = decoder(text, length, rank=rank)
    model += output_layer(text, int((row["labels"][:, 1:] >= 0).sum()))
    if whole:
        tower, model = tower.learning, model.learning
    elif not rank:  # nothing before the projector learns, so nobody asks for these gradients
        tower = Flops(inputs=tower.forward)
    media = tiles * tile_tokens
    packed = int(config.vision_config.hidden_size / config.downsample_ratio**2)
    projector = linear(packed, text.hidden_size, media) + linear(text.hidden_size, text.hidden_size, media)
    found = tower + model + projector.learning
    if tiles and asked.image_path != "context":
        found += _block(sizes, length, media).learning * len(sizes.layers)
    return found


def _block(sizes: BlockSizes, length: int, media: int) -> Flops:
    """One block over a dialogue."""
    width, inner = sizes.width, sizes.heads * sizes.head_dim
    attention = linear(width, inner, length) * 2.0 + linear(width, 2 * inner, media)
    return (
        attention + attention_flops(length * media, inner) + linear(width, sizes.intermediate, length) * 3.0
    )


def _part(name: str) -> str:
    """What a parameter belongs to, for people."""
    if ".lora_" in name:
        return "LoRA"
    if name.startswith("blocks."):
        return "gates" if name.endswith("_gate") else "blocks"
    for part, said in (("multi_modal_projector", "projector"), ("vision_tower", "vision tower")):
        if part in name:
            return said
    return "decoder"
