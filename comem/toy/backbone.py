"""The embedded backbone: a Qwen2.5-VL of about two million parameters, built from a config."""

from __future__ import annotations

import torch
from torch import Tensor, nn

ROPE_THETA = 1e6  # as Qwen2.5-VL's; slow frequencies let a head compare contents far apart
PICTURE_SIZE = 56  # pixels; patches of 14, merged 2 × 2: four tokens a picture


def build_processor(tokenizer):
    """A `Qwen2_5_VLProcessor` whose pictures are scaled to about 56 × 56 pixels."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    limits = {"min_pixels": 28 * 28, "max_pixels": PICTURE_SIZE * PICTURE_SIZE}
    image_processor = Qwen2VLImageProcessor(patch_size=14, merge_size=2, temporal_patch_size=2, **limits)
    video_processor = Qwen2VLVideoProcessor(patch_size=14, merge_size=2, temporal_patch_size=2)
    return Qwen2_5_VLProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        video_processor=video_processor,
        chat_template=tokenizer.chat_template,
    )


def build_config(tokenizer, hidden: int = 128, layers: int = 5):
    """The model's config; every id comes from the tokenizer."""
    from transformers import Qwen2_5_VLConfig

    ids = tokenizer.convert_tokens_to_ids
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden,
            "intermediate_size": 3 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 8192,
            "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA, "mrope_section": [4, 6, 6]},
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": ids("<|im_end|>"),
            "pad_token_id": ids("<|endoftext|>"),
        },
        vision_config={
            "depth": 3,
            "hidden_size": 96,
            "intermediate_size": 192,
            "num_heads": 4,
            "out_hidden_size": hidden,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [0, 1, 2],
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )


@torch.no_grad()
def initialise(model: nn.Module, generator: torch.Generator) -> None:
    """Start from the circuit that in-context copying needs instead of waiting for it to appear.

    Small transformers spend most of their training before induction heads form (Olsson et al. 2022); an
    initialisation that already has their shape shortens this ("mimetic initialisation", Trockman and
    Kolter 2023). Layer 0: two heads look one and two tokens back, by their biases alone, and note what
    stands there. Layer 1: heads look for places whose notes resemble the own token or the own notes, and
    copy what they find. Everything is trained on from there.
    """
    language: nn.Module = model.model.language_model  # type: ignore[assignment]
    width = language.config.hidden_size
    size = width // language.config.num_attention_heads
    language.embed_tokens.weight.mul_(10)  # 0.02 → 0.2: tokens must not drown in what attention adds

    def random(scale: float) -> Tensor:
        return torch.randn(size, width, generator=generator) * scale

    reads, notes = random(0.06), torch.linalg.qr(random(1.0).T)[0]  # (size, width), (width, size)
    local, match = language.layers[0].self_attn, language.layers[1].self_attn
    _look_back(local, size, distances=(1, 2))
    local.v_proj.weight[:size] = reads
    local.o_proj.weight[:, :size] = notes
    local.o_proj.weight[:, size : 2 * size] = notes
    match.k_proj.weight[:size] = 4 * notes.T
    match.q_proj.weight[:size] = 2 * reads
    match.q_proj.weight[size : 2 * size] = 4 * notes.T
    copies = random(0.08)
    match.v_proj.weight[:size] = copies
    match.o_proj.weight[:, :size] = copies.T
    match.o_proj.weight[:, size : 2 * size] = copies.T


def _look_back(attention: nn.Module, size: int, distances: tuple[int, ...], strength: float = 5.0) -> None:
    """Biases with which head h attends `distances[h]` tokens back: the score is Σ cos(θ(Δ − distance))."""
    angles = ROPE_THETA ** (-torch.arange(size // 2) / (size // 2))
    attention.k_proj.bias[: size // 2] = strength  # type: ignore[index]
    attention.k_proj.bias[size // 2 : size] = 0  # type: ignore[index]
    for head, distance in enumerate(distances):
        rotated = strength * torch.cat([torch.cos(angles * distance), -torch.sin(angles * distance)])
        attention.q_proj.bias[head * size : (head + 1) * size] = rotated  # type: ignore[index]
