"""The table of shapes: models whose sizes are those of published ones, and whose weights are random.

How fast a model answers depends on its shapes, not on what it knows: nothing has to be downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from comem.registry import Registry

_SMALL_IDS = {
    "image_token_id": 3, "video_token_id": 6, "vision_start_token_id": 4, "vision_end_token_id": 5,
}  # fmt: skip
_CONFIGS = {"qwen2_5_vl": "Qwen2_5_VLConfig", "qwen2_vl": "Qwen2VLConfig"}


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a vision-language model.

    Attributes:
        name: the row's key.
        family: `model_type` of transformers.
        text, vision: fields of its text and vision config.
        ids: special ids; the published ones if empty.
        tied: whether input and output embeddings are one matrix.
    """

    name: str
    family: str
    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    ids: Mapping[str, int]
    tied: bool = False

    def config(self) -> Any:
        """The config, as transformers reads it."""
        import transformers

        return getattr(transformers, _CONFIGS[self.family])(
            text_config=dict(self.text),
            vision_config=dict(self.vision),
            tie_word_embeddings=self.tied,
            **self.ids,
        )


def text_sizes(hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocab: int) -> dict[str, Any]:
    """Fields of a Qwen text config, M-RoPE's shares of the axes among them."""
    half = hidden // heads // 2
    side = 3 * half // 8  # Qwen's shares of the axes: 16, 24, 24 of 64
    return {
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocab,
        "max_position_embeddings": 128000, "rms_norm_eps": 1e-6, "bos_token_id": None, "eos_token_id": None,
        "pad_token_id": 2,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 1e6, "mrope_section": [half - 2 * side, side, side]
        },
    }  # fmt: skip


def tower_sizes(depth: int, hidden: int, inner: int, heads: int, out: int, full: list[int]) -> dict[str, Any]:
    """Fields of a Qwen2.5-VL vision config."""
    return {
        "depth": depth, "hidden_size": hidden, "intermediate_size": inner, "num_heads": heads,
        "out_hidden_size": out, "fullatt_block_indexes": full, "window_size": 112, "patch_size": 14,
        "spatial_merge_size": 2, "temporal_patch_size": 2,
    }  # fmt: skip


_published_tower = partial(tower_sizes, 32, 1280, 3420, 16, full=[7, 15, 23, 31])
_QWEN_7B = text_sizes(3584, 18944, 28, 28, 4, 152064)
_TOWER_QWEN2_VL = {"depth": 32, "embed_dim": 1280, "hidden_size": 3584, "num_heads": 16, "mlp_ratio": 4}

# Sizes of the published models: config.json of Qwen/Qwen2.5-VL-3B-Instruct, Qwen/Qwen2.5-VL-7B-Instruct and
# Qwen/Qwen2-VL-7B-Instruct. "cpu" is a shape that two cores still carry with prompts of full length.
_ROWS = (
    ModelShape("tiny", "qwen2_5_vl", text_sizes(64, 128, 2, 4, 2, 512),
               tower_sizes(2, 32, 64, 2, 64, [1]), _SMALL_IDS),
    ModelShape("cpu", "qwen2_5_vl", text_sizes(512, 1536, 12, 8, 4, 32000),
               tower_sizes(6, 256, 768, 4, 512, [5]), _SMALL_IDS),
    ModelShape("qwen2_5_vl_3b", "qwen2_5_vl", text_sizes(2048, 11008, 36, 16, 2, 151936),
               _published_tower(2048), {}, True),
    ModelShape("qwen2_5_vl_7b", "qwen2_5_vl", _QWEN_7B, _published_tower(3584), {}),
    ModelShape("qwen2_vl_7b", "qwen2_vl", _QWEN_7B, _TOWER_QWEN2_VL, {}),
)  # fmt: skip

SHAPES: Registry[ModelShape] = Registry("shape", {row.name: row for row in _ROWS})


def random_model(shape: ModelShape, device: str | torch.device, dtype: torch.dtype, seed: int = 0) -> Any:
    """A model of that shape with random weights, made on the device itself; frozen, never stops early."""
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(seed)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(shape.config(), dtype=dtype)
    model.generation_config.eos_token_id = None
    model.generation_config.do_sample = False
    return model.eval().requires_grad_(False)
