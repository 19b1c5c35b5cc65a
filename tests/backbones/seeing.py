"""Image-text families that no row declared before: random models, real processors, byte tokenizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from backbones.tiny import _CHATML, _CHATML_ANSWER, _CHATML_TURN, _QWEN, clip, template, text, tokenizer

_SLOT = "<|vision_start|><|image_pad|><|vision_end|>"
_LINEAR: dict[str, Any] = {
    "layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 4,
    "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
_EXPERTS: dict[str, Any] = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}  # fmt: skip


def from_config(config: Any) -> Any:
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_config(config)


def grid_tokens(tok: Any) -> dict[str, int]:
    names = ("vision_start", "vision_end", "image", "video")
    return {
        f"{key}_token_id": tok.convert_tokens_to_ids(token)
        for key, token in zip(names, _QWEN[3:], strict=True)
    }


def qwen3(family: str, **more: Any) -> Callable[[], tuple[Any, Any]]:
    """Qwen3-VL-MoE and Qwen3.5, whose processor is Qwen3-VL's."""

    def build() -> tuple[Any, Any]:
        import transformers

        tok = tokenizer(_QWEN, "<|im_end|>", "<|endoftext|>")
        size = {"shortest_edge": 28 * 28, "longest_edge": 16 * 28 * 28}
        processor = transformers.Qwen3VLProcessor(
            transformers.Qwen2VLImageProcessor(size=size), tok, transformers.Qwen3VLVideoProcessor(),
            chat_template=template(_SLOT, _CHATML_TURN, answer=_CHATML_ANSWER),
        )  # fmt: skip
        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
        if "linear_num_key_heads" in more:
            rope |= {"partial_rotary_factor": 1.0, "mrope_interleaved": True}
        vision = {
            "depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32,
            "patch_size": 14, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1],
        }  # fmt: skip
        config = transformers.CONFIG_MAPPING[family](
            text_config=text(tok, num_hidden_layers=2, rope_parameters=rope, **more), vision_config=vision,
            tie_word_embeddings=False, **grid_tokens(tok),
        )  # fmt: skip
        return from_config(config), processor

    return build


_GLM = [
    "<|endoftext|>", "<|user|>", "<|assistant|>", "<|begin_of_image|>", "<|end_of_image|>", "<|image|>",
    "<|begin_of_video|>", "<|end_of_video|>", "<|video|>",
]  # fmt: skip


def glm(family: str) -> Callable[[], tuple[Any, Any]]:
    """GLM-4V and GLM-4.6V."""

    def build() -> tuple[Any, Any]:
        import transformers

        named = {"glm4v": "Glm4v", "glm46v": "Glm46V"}[family]
        tok = tokenizer(_GLM, "<|user|>", "<|endoftext|>")
        size = {"shortest_edge": 28 * 28, "longest_edge": 16 * 28 * 28}
        chat = template(
            "<|begin_of_image|><|image|><|end_of_image|>", "<|{role}|>\n{content}", answer="<|assistant|>\n"
        )
        processor = getattr(transformers, f"{named}Processor")(
            getattr(transformers, f"{named}ImageProcessor")(size=size), tok,
            getattr(transformers, f"{named}VideoProcessor")(), chat_template=chat,
        )  # fmt: skip
        ids = {
            f"{key}_token_id": tok.convert_tokens_to_ids(token)
            for key, token in zip(
                ("image_start", "image_end", "image", "video_start", "video_end", "video"),
                _GLM[3:],
                strict=True,
            )
        }
        rope = {
            "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2],
            "partial_rotary_factor": 1.0,
        }  # fmt: skip
        vision = {
            "depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32,
            "image_size": 56, "patch_size": 14,
        }  # fmt: skip
        config = transformers.CONFIG_MAPPING[family](
            text_config=text(tok, num_hidden_layers=2, rope_parameters=rope), vision_config=vision, **ids
        )
        return from_config(config), processor

    return build


def lfm2_vl() -> tuple[Any, Any]:
    """Convolutions among its layers; images in tiles of 32 pixels' patches."""
    import transformers

    named = {
        "image_token": "<image>", "image_start_token": "<|image_start|>", "image_end_token": "<|image_end|>",
        "image_thumbnail_token": "<|img_thumbnail|>",
    }  # fmt: skip
    rows = [f"<|img_row_{r}_col_{c}|>" for r in (1, 2) for c in (1, 2)]
    tok = tokenizer([*_CHATML, *named.values(), *rows], "<|im_end|>", "<|endoftext|>", **named)
    images = transformers.Lfm2VlImageProcessor(
        tile_size=56, encoder_patch_size=14, min_image_tokens=1, max_image_tokens=4, max_num_patches=16,
        min_tiles=1, max_tiles=2, do_image_splitting=False,
    )  # fmt: skip
    processor = transformers.Lfm2VlProcessor(
        images, tok, chat_template=template("<image>", _CHATML_TURN, answer=_CHATML_ANSWER)
    )
    vision = {
        "model_type": "siglip2_vision_model", "hidden_size": 16, "intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14, "num_patches": 16,
        "vision_use_head": False,
    }  # fmt: skip
    layers = {"layer_types": ["conv", "full_attention"], "block_ff_dim": 64, "num_hidden_layers": 2}
    config = transformers.Lfm2VlConfig(
        vision_config=vision, text_config={"model_type": "lfm2", **text(tok, **layers)},
        image_token_id=tok.image_token_id, projector_hidden_size=32, tie_word_embeddings=False,
    )  # fmt: skip
    return from_config(config), processor


def perception_lm() -> tuple[Any, Any]:
    import transformers

    named = {"image_token": "<|image|>", "video_token": "<|video|>"}
    tok = tokenizer([*_CHATML, *named.values()], "<|im_end|>", "<|endoftext|>", **named)
    images = transformers.PerceptionLMImageProcessor(tile_size=28, max_num_tiles=2)
    processor = transformers.PerceptionLMProcessor(
        transformers.PerceptionLMVideoProcessor(), images, tok, patch_size=14, pooling_ratio=2,
        chat_template=template("<|image|>", _CHATML_TURN, answer=_CHATML_ANSWER),
    )  # fmt: skip
    vision = {
        "model_type": "timm_wrapper", "architecture": "vit_pe_core_large_patch14_336",
        "model_args": {"embed_dim": 16, "img_size": [28, 28], "depth": 2, "num_heads": 2, "global_pool": ""},
    }  # fmt: skip
    config = transformers.PerceptionLMConfig(
        vision_config=vision, text_config={"model_type": "llama", **text(tok, num_hidden_layers=2)},
        image_token_id=tok.image_token_id, video_token_id=tok.video_token_id, projector_pooling_ratio=2,
        tie_word_embeddings=False,
    )  # fmt: skip
    return from_config(config), processor


_AYA = {
    "start_of_img_token": "<|START_OF_IMG|>", "end_of_img_token": "<|END_OF_IMG|>",
    "img_patch_token": "<|IMG_PATCH|>", "img_line_break_token": "<|IMG_LINE_BREAK|>",
}  # fmt: skip


def aya_vision() -> tuple[Any, Any]:
    """Cohere's language model, whose rotary pairs lie side by side."""
    import transformers

    tok = tokenizer([*_CHATML, "<image>", *_AYA.values()], "<|im_end|>", "<|endoftext|>")
    images = transformers.GotOcr2ImageProcessor(
        size={"height": 28, "width": 28}, crop_to_patches=True, max_patches=2
    )
    processor = transformers.AyaVisionProcessor(
        images, tok, patch_size=14, img_size=28, downsample_factor=1,
        chat_template=template("<image>", _CHATML_TURN, answer=_CHATML_ANSWER),
    )  # fmt: skip
    layers = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 64}
    config = transformers.AyaVisionConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **clip()},
        text_config={"model_type": "cohere2", **text(tok, num_hidden_layers=2, **layers)},
        downsample_factor=1, image_token_index=processor.image_token_id, tie_word_embeddings=False,
    )  # fmt: skip
    return from_config(config), processor


def vipllava() -> tuple[Any, Any]:
    import transformers

    tok = tokenizer(["<s>", "</s>", "<pad>", "<image>"], "</s>", "<pad>", "<s>", image_token="<image>")
    images = transformers.CLIPImageProcessor(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
    )
    processor = transformers.LlavaProcessor(
        images, tok, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=template("<image>\n", "{role}: {content} ", answer="ASSISTANT:"),
    )  # fmt: skip
    config = transformers.VipLlavaConfig(
        vision_config={"model_type": "clip_vision_model", **clip()}, vision_feature_layers=[-1, -2],
        text_config={"model_type": "llama", **text(tok, num_hidden_layers=2)},
        image_token_index=tok.image_token_id, image_seq_length=4,
    )  # fmt: skip
    return from_config(config), processor


def ovis2() -> tuple[Any, Any]:
    import transformers

    marks = ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
    tok = tokenizer([*_CHATML, "<image>", "<IMG_ATOM>", *marks], "<|im_end|>", "<|endoftext|>")
    images = transformers.Ovis2ImageProcessor(size={"height": 28, "width": 28}, crop_to_patches=False)
    processor = transformers.Ovis2Processor(
        images, tok, image_seq_length=1,
        chat_template=template("<image>", _CHATML_TURN, answer=_CHATML_ANSWER),
    )  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 28, "patch_size": 14, "hidden_stride": 2, "vocab_size": 24,
        "num_visual_indicator_tokens": 5,
    }  # fmt: skip
    config = transformers.Ovis2Config(
        vision_config=vision, text_config={"model_type": "qwen2", **text(tok, num_hidden_layers=2)},
        image_token_id=tok.convert_tokens_to_ids("<IMG_ATOM>"), hidden_size=32, vocab_size=320,
        visual_indicator_token_ids=[tok.convert_tokens_to_ids(mark) for mark in marks],
        tie_word_embeddings=False,
    )  # fmt: skip
    return from_config(config), processor


def lighton_ocr() -> tuple[Any, Any]:
    import transformers

    tok = tokenizer(
        [*_CHATML, "<|image_pad|>", "<|vision_pad|>", "<|vision_end|>"], "<|im_end|>", "<|endoftext|>",
        image_token="<|image_pad|>", image_break_token="<|vision_pad|>", image_end_token="<|vision_end|>",
    )  # fmt: skip
    images = transformers.PixtralImageProcessor(
        size={"longest_edge": 56}, patch_size={"height": 14, "width": 14}
    )
    processor = transformers.LightOnOcrProcessor(
        images, tok, patch_size=14, spatial_merge_size=2,
        chat_template=template("<|image_pad|>", _CHATML_TURN, answer=_CHATML_ANSWER),
    )  # fmt: skip
    vision = {
        "model_type": "pixtral", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 56, "patch_size": 14, "head_dim": 8,
    }  # fmt: skip
    config = transformers.LightOnOcrConfig(
        vision_config=vision, text_config={"model_type": "qwen3", **text(tok, num_hidden_layers=2)},
        spatial_merge_size=2, image_token_id=tok.image_token_id, tie_word_embeddings=False,
    )  # fmt: skip
    return from_config(config), processor


#: Family, whether keys and values can stand in front, and how it is built.
SEEING: dict[str, tuple[bool, Callable[[], tuple[Any, Any]]]] = {
    "qwen3_vl_moe": (True, qwen3("qwen3_vl_moe", **_EXPERTS)),
    "qwen3_5": (False, qwen3("qwen3_5", **_LINEAR)),
    "qwen3_5_moe": (False, qwen3("qwen3_5_moe", **_LINEAR, **_EXPERTS)),
    "glm4v": (False, glm("glm4v")),
    "glm46v": (False, glm("glm46v")),
    "lfm2_vl": (False, lfm2_vl),
    "perception_lm": (True, perception_lm),
    "aya_vision": (False, aya_vision),
    "vipllava": (True, vipllava),
    "ovis2": (True, ovis2),
    "lighton_ocr": (True, lighton_ocr),
}
