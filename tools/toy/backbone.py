"""The embedded backbone: a Qwen2.5-VL of about two million parameters, built from a config."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ROPE_THETA = 1e6  # as Qwen2.5-VL's; slow frequencies let a head compare contents far apart
PICTURE_SIZE = 56  # pixels; patches of 14, merged 2 × 2: four tokens an image


def build_processor(tokenizer: Any) -> Any:
    """A `Qwen2_5_VLProcessor` whose images are scaled to about 56 × 56 pixels."""
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


def build_config(tokenizer: Any, hidden: int = 128, layers: int = 5) -> Any:
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
def initialise(model: Any, pixels: Tensor, generator: torch.Generator) -> None:
    """Start from the circuit that answering from context needs instead of waiting for it to appear.

    Small transformers spend most of their training before induction heads form (Olsson et al. 2022); an
    initialisation that already has their shape shortens this ("mimetic initialisation", Trockman and
    Kolter 2023). Heads that find something write random projections of it, "notes", into the residual
    stream; heads that compare read notes. Everything is trained on from there.

    - Layer 0, heads 0 and 1: what stands one and two tokens back. Head 2: the image just shown, head 3:
      the image of the item that a token belongs to.
    - Layer 1: find places preceded by the same tokens as this one, and copy what stands there. Heads 2 and
      3: what stands about seven and ten tokens back (a question, seen from the start of its answer).
    - Layer 2: the same, with weight on places whose nearest image resembles this one's.

    Args:
        model: the backbone, its vision tower trained (`learn_to_see`).
        pixels: some images `(16·n, 1176)`, to bring image tokens to the size of words.
        generator: of the random projections.
    """
    language: Any = model.model.language_model
    width = language.config.hidden_size
    size = width // language.config.num_attention_heads
    first, second, third = (layer.self_attn for layer in language.layers[:3])

    def random(rows: int, scale: float) -> Tensor:
        return torch.randn(rows, width, generator=generator) * scale

    language.embed_tokens.weight.mul_(10)  # 0.02 → 0.2: tokens must not drown in what attention adds
    basis = torch.linalg.qr(random(3 * size, 1.0).T)[0]
    # where notes of each kind are kept: words before, words asked for, the image just shown, the item's
    words, asked, shown, item = basis.split([size, size, size // 2, size // 2], dim=1)
    reads, sees = random(size, 0.06), random(size, 0.06)
    _look_back(first, size, distances=(1, 2))
    mark = torch.nn.functional.normalize(random(1, 1.0)[0], dim=0)
    _mark_images(model.model.visual, pixels, mark)
    _look_at_image(first, size, mark)
    first.v_proj.weight[: 2 * size] = torch.cat([reads, sees])
    unused = torch.zeros(width, size // 2)
    first.o_proj.weight[:] = torch.cat([words, words, shown, unused, item, unused], dim=1)
    _look_back(second, size, distances=(7, 10), heads=(2, 3), fastest=2)
    second.v_proj.weight[size : 2 * size] = reads
    second.o_proj.weight[:, 2 * size : 4 * size] = 0.4 * torch.cat([asked, asked], dim=1)
    slow = _slow_pairs(size)
    for attention, by_image in ((second, 0.0), (third, 4.0)):
        keys, queries = 4 * words.T.clone(), torch.stack([2 * reads, 4 * words.T])
        if by_image:
            queries[1] += 8 * asked.T
            keys[slow] = by_image * item.T[: len(slow)]
            queries[:, slow] = by_image * shown.T[: len(slow)]
        attention.k_proj.weight[:size] = keys
        attention.q_proj.weight[: 2 * size] = queries.reshape(2 * size, width)
        copies = random(size, 0.08)
        attention.v_proj.weight[:size] = copies
        attention.o_proj.weight[:, : 2 * size] = torch.cat([copies, copies]).T


def _angles(size: int) -> Tensor:
    """Rotation per position of the rotary pairs `(i, i + size/2)`, fastest first."""
    return ROPE_THETA ** (-torch.arange(size // 2) / (size // 2))


def _slow_pairs(size: int) -> Tensor:
    """Every second of the pairs that turn little within an episode, as indices of a head's rows."""
    pairs = torch.arange(7, size // 2, 2)
    return torch.cat([pairs, pairs + size // 2])


def _look_back(
    attention: Any,
    size: int,
    distances: tuple[int, ...],
    heads: tuple[int, ...] = (0, 1),
    fastest: int = 0,
    strength: float = 5.0,
) -> None:
    """Biases with which `heads` attend `distances` tokens back: the score is Σ cos(θ(Δ − distance)).

    The heads share their keys. Without the `fastest` rotary pairs the look is broader.
    """
    wave = torch.full((size // 2,), strength)
    wave[:fastest] = 0
    keys = heads[0] // 2 * size
    attention.k_proj.bias[keys : keys + size] = torch.cat([wave, torch.zeros(size // 2)])
    for head, distance in zip(heads, distances, strict=True):
        turned = _angles(size) * distance
        rotated = torch.cat([wave * turned.cos(), -wave * turned.sin()])
        attention.q_proj.bias[head * size : (head + 1) * size] = rotated


def _mark_images(visual: Any, pixels: Tensor, mark: Tensor, size: float = 2.5) -> None:
    """Scale image tokens to the norm `size`; their mean becomes the mark, with the same norm."""
    count = len(pixels) // 16
    tokens = visual(pixels, grid_thw=torch.tensor([[1, 4, 4]] * count))
    tokens = getattr(tokens, "pooler_output", tokens)  # (4·n, d)
    last = visual.merger.mlp[2]
    scale = size / tokens.norm(dim=-1).mean()
    last.weight.mul_(scale)
    last.bias.mul_(scale).add_(mark * size - tokens.mean(0) * scale)


def _look_at_image(attention: Any, size: int, mark: Tensor) -> None:
    """Heads 2 and 3 attend to image tokens, the nearest first, within some 40 and some 200 positions.

    Keys read the mark; the queries' biases choose how fast the score falls with the distance.
    """
    for head, pairs in ((2, torch.tensor([3, 4])), (3, torch.tensor([5, 6]))):
        attention.k_proj.weight[size + pairs] = 0.7 * mark
        attention.q_proj.bias[head * size + pairs] = 5.0
