"""A tiny CoMemo with a real tokenizer: InternViT, a Llama decoder of four layers, blocks before every "
"second."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from comem.backbones.comemo import CoMemo, CoMemoBackbone, CoMemoConfig, backbone
from comem.backbones.media import BlockSizes, MediaBlocks
from comem.backbones.specs import BACKBONES
from tests.backbones.tiny import lively, text, tokenizer

SPECIAL = ["<s>", "</s>", "<|im_end|>", "<|im_start|>", "<img>", "</img>", "<IMG_CONTEXT>"]


def tiny_comemo(gate: float = 0.7, seed: int = 0, **changes: Any) -> CoMemoBackbone:
    """Tiles of 56 pixels, four tokens each.

    Args:
        gate: of all blocks.
        seed: of the weights.
        changes: of the config.
    """
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    torch.manual_seed(seed)
    tok = tokenizer(SPECIAL, "</s>", "</s>", "<s>")
    vision = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
        "image_size": [56, 56], "patch_size": [14, 14], "attention_bias": True,
    }  # fmt: skip
    config = InternVLConfig(
        vision_config=vision, text_config={"model_type": "llama", **text(tok)}, image_seq_length=4,
        image_token_id=tok.convert_tokens_to_ids("<IMG_CONTEXT>"), tie_word_embeddings=False,
    )  # fmt: skip
    model = lively(InternVLForConditionalGeneration(config))
    blocks = MediaBlocks(BlockSizes(32, heads=3, head_dim=8, intermediate=24, layers=(1, 3)))
    blocks.start(0.2)
    for parameter in blocks.gate_parameters():
        parameter.data.fill_(gate)
    settings = replace(CoMemoConfig(blocks.sizes, max_tiles=4, system="Be brief."), **changes)
    return backbone(BACKBONES["comemo_2b"], CoMemo(model, blocks, settings), tok, "cpu")
