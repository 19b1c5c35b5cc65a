"""A CoMemo to train from nothing on the embedded world: its decoder is the embedded one, all else is fresh.

The data is InternVL's JSONL: conversations that show coats of arms one after the other. The first is to be
kept in mind; of each later one the field's colour is asked; the last question is what colour the first one
had. So what is asked lies further back the longer the conversation is.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comem.config import option
from comem.toy.dataset import write_lines
from comem.toy.world import Entity, World, check_numbers, image_path

_MARKS = ("<img>", "</img>", "<IMG_CONTEXT>")


@dataclass(frozen=True)
class ComemoSettings:
    """A small CoMemo with the embedded decoder (model/), and conversations: train.jsonl, test.jsonl.

    Vision tower and projector are random; the blocks, one before each layer, start as its self-attention,
    gates closed: comem train --config comemo_toy_1 goes on from there.

    Attributes:
        output: the folder.
        count: conversations to train on.
        images: how many a conversation shows, drawn with equal chance from these numbers.
        test_count: conversations to test on, of towns that are not trained on.
        size: edge of an image in pixels; tiles have 56.
        wide: so many times as wide as high, so that an image is cut into tiles.
        max_tiles: of an image; 1 gives each one.
        seed: of the weights and conversations.
    """

    output: Path = option(positional=True, metavar="DIR")
    count: int = 2000
    images: tuple[int, ...] = (1, 2, 3, 4)
    test_count: int = 200
    size: int = 56
    wide: int = 1
    max_tiles: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        check_numbers(self, "count", "test_count")
        check_numbers(self, "images", "size", "wide", "max_tiles", most=1000)


def build_comemo(settings: ComemoSettings) -> dict[str, int]:
    """Write model, images and conversations; the same settings give the same files."""
    world = World(0, 400)
    parts = {
        "train": (world.split("train"), settings.count),
        "test": (world.split("test"), settings.test_count),
    }
    for name, (towns, count) in parts.items():
        for town in towns:
            _save(settings, town)
        rows = [conversation(towns, settings, name, number) for number in range(count)]
        write_lines(settings.output / f"{name}.jsonl", rows)
    tiny_comemo(settings)
    return {"conversations": settings.count, "to test on": settings.test_count, "model": 1}


def conversation(
    towns: Sequence[Entity], settings: ComemoSettings, split: str, number: int, images: int = 0
) -> dict[str, Any]:
    """One record of InternVL's form.

    Args:
        towns: to show.
        settings: how many images, and the seed.
        split: names the record.
        number: of the record.
        images: so many; 0 draws them.
    """
    rng = random.Random(f"comemo/{settings.seed}/{split}/{number}")
    shown = rng.sample(towns, images or rng.choice(settings.images))
    said = [("<image>\nThis is the first.", "Yes")]
    said += [("<image>\nWhat colour?", town.arms.field) for town in shown[1:]]
    said.append(("And the first?", shown[0].arms.field))
    turns = [
        {"from": role, "value": text}
        for pair in said
        for role, text in zip(("human", "gpt"), pair, strict=True)
    ]
    paths = [image_path(town, 1) for town in shown]
    return {
        "id": f"{split}{number}",
        "image": paths,
        "conversations": turns,
        "answers": [shown[0].arms.field],
    }


def _save(settings: ComemoSettings, town: Entity) -> None:
    """The town's arms; wide ones stand at the left of a plain strip."""
    from PIL import Image

    from comem.io.files import whole_file
    from comem.toy.draw import draw

    path = settings.output / image_path(town, 1)
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    arms = draw(town, 1, settings.size)
    if settings.wide > 1:
        strip = Image.new("RGB", (settings.size * settings.wide, settings.size), "gray")
        strip.paste(arms, (0, 0))
        arms = strip
    with whole_file(path) as temporary:
        arms.save(temporary, "PNG")


def tiny_comemo(settings: ComemoSettings) -> None:
    """The model folder: the embedded decoder as a Qwen2, a vision tower of two layers, and blocks."""
    import torch
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    from comem.backbones.comemo import CoMemo, CoMemoConfig, CoMemoProcessor, image_processor, stop_at_turns
    from comem.backbones.hf import load_backbone
    from comem.backbones.media import BlockSizes, MediaBlocks, every
    from comem.backbones.text_reader import text_config_of

    torch.manual_seed(settings.seed)
    toy = load_backbone("toy", device="cpu")
    tokenizer, text = toy.process.tokenizer, text_config_of(toy.model.config)
    tokenizer.add_special_tokens({"additional_special_tokens": list(_MARKS)})
    vision = {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
        "image_size": [56, 56], "patch_size": [14, 14], "attention_bias": True, "layer_scale_init_value": 1.0,
    }  # fmt: skip
    config = InternVLConfig(
        vision_config=vision, text_config=text.to_dict(), image_seq_length=4,
        image_token_id=tokenizer.convert_tokens_to_ids(_MARKS[2]), tie_word_embeddings=False,
    )  # fmt: skip
    model: Any = InternVLForConditionalGeneration(config)
    decoder = dict(toy.model.get_decoder().state_dict())
    rows = max(text.vocab_size, len(tokenizer))
    model.model.language_model.load_state_dict(decoder)
    with torch.no_grad():
        model.lm_head.weight.copy_(toy.model.get_output_embeddings().weight)
    if rows > text.vocab_size:
        model.resize_token_embeddings(rows, mean_resizing=True)
    stop_at_turns(model, tokenizer)
    sizes = BlockSizes(text.hidden_size, 4, 32, 256, every(1, text.num_hidden_layers))
    blocks = MediaBlocks(sizes)
    blocks.start(text.hidden_size**-0.5)
    blocks.start_as(model)
    about = CoMemoConfig(sizes, max_tiles=settings.max_tiles, system="")
    comemo = CoMemo(model, blocks, about)
    processor = CoMemoProcessor(tokenizer, image_processor(56), comemo.side, about)
    comemo.save(settings.output / "model", processor)
