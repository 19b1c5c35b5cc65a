"""For every row of the backbone table that transformers can build: a random model and a real processor.

Models have four layers of width 32; tokenizers know single bytes and the family's special tokens. The
chat templates are short forms of the published ones: the same structure, roles and special tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from comem.backbones.hf import HFBackbone
from comem.backbones.specs import BACKBONES, BackboneSpec

ROWS = 320  # 256 bytes, special tokens, spare rows
LAYERS = 4
_CHATML = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
_QWEN = [*_CHATML, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
_LLAMA3 = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|pad|>"]
_IDEFICS = [
    "<|im_start|>",
    "<end_of_utterance>",
    "<fake_token_around_image>",
    "<image>",
    "<global-img>",
    *(f"<row_{row}_col_{col}>" for row in (1, 2) for col in (1, 2)),
]
_MISTRAL = ["<s>", "</s>", "<pad>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"]


def modes_of(spec: BackboneSpec) -> tuple[str, ...]:
    """The modes that a row can be run in, by what it says that it can do."""
    able = {"comem": spec.soft_prefix, "hybrid": spec.soft_prefix, "vlm_as_memory": spec.kv_memory}
    return ("baseline", "rag", *(name for name, can in able.items() if can))


def template(image: str, turn: str, start: str = "", answer: str = "", alternates: bool = False) -> str:
    """A chat template: `turn` has {role} and {content}; `image` stands for a picture."""
    before, rest = turn.split("{role}") if "{role}" in turn else ("", turn)
    role = "{{ message['role'] }}" if "{role}" in turn else ""
    middle, after = rest.split("{content}")
    check = (
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    )
    return (
        f"{start}{{% for message in messages %}}{check if alternates else ''}{before}{role}{middle}"
        "{% if message['content'] is string %}{{ message['content'] }}"
        "{% else %}{% for part in message['content'] %}"
        f"{{% if part['type'] == 'image' %}}{image}{{% else %}}{{{{ part['text'] }}}}{{% endif %}}"
        f"{{% endfor %}}{{% endif %}}{after}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{answer}{{% endif %}}"
    )


_CHATML_TURN = "<|im_start|>{role}\n{content}<|im_end|>\n"
_CHATML_ANSWER = "<|im_start|>assistant\n"
_LLAMA3_TURN = "<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>"
_LLAMA3_ANSWER = "<|start_header_id|>assistant<|end_header_id|>\n\n"


def tokenizer(special: Sequence[str], eos: str, pad: str, bos: str | None = None, **named: str) -> Any:
    """Bytes and special tokens; writes `bos` itself, as the tokenizers of Llama, Mistral and Gemma do."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    vocab = {character: byte for byte, character in bytes_to_unicode().items()}
    vocab |= {token: 256 + i for i, token in enumerate(special)}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    # no decoder: decoded text tells every byte from every other, also where they are no UTF-8
    if bos:
        core.post_processor = processors.TemplateProcessing(f"{bos} $A", special_tokens=[(bos, vocab[bos])])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=bos, eos_token=eos, pad_token=pad, padding_side="left",
        extra_special_tokens=[t for t in special if t not in (bos, eos, pad)],
        model_specific_special_tokens=named,
    )  # fmt: skip


def text(tok: Any, **more: Any) -> dict[str, Any]:
    """The language model's config."""
    return {
        "vocab_size": ROWS, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "eos_token_id": tok.eos_token_id, "pad_token_id": tok.pad_token_id, "bos_token_id": tok.bos_token_id,
        **more,
    }  # fmt: skip


def clip(patch: int = 14, size: int = 28, **more: Any) -> dict[str, Any]:
    """A CLIP or SigLIP tower."""
    return {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": size, "patch_size": patch, "vocab_size": 8, "projection_dim": 16, **more,
    }  # fmt: skip


def lively(model: Any) -> Any:
    """Weights large enough for every input to move the logits, small enough for attention to stay soft."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 1.5 / parameter[0].numel() ** 0.5)
            elif parameter.numel() == 1:
                parameter.fill_(0.7)  # Llama-3.2-Vision's gates start closed
        table = model.get_input_embeddings()
        table.weight.normal_(0, 1 / float(getattr(table, "embed_scale", 1.0)))  # Gemma 3 scales its own
    model.generation_config.do_sample = False
    model.generation_config.eos_token_id = None  # answers of one length
    return model.eval().requires_grad_(False)


def llava(name: str) -> tuple[Any, Any]:
    from transformers import (
        CLIPImageProcessor,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tok = tokenizer(["<s>", "</s>", "<pad>", "<image>"], "</s>", "<pad>", "<s>", image_token="<image>")
    images = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    chat = template("<image>\n", "{role}: {content} ", answer="ASSISTANT:")
    processor = LlavaProcessor(
        images, tok, patch_size=14, vision_feature_select_strategy="default", chat_template=chat,
        num_additional_image_tokens=1,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **clip()},
        text_config={"model_type": "llama", **text(tok)},
        image_token_index=tok.image_token_id, image_seq_length=4,
    )  # fmt: skip
    return LlavaForConditionalGeneration(config), processor


_PINPOINTS = [[28, 56], [56, 28], [56, 56]]


def llava_next(name: str) -> tuple[Any, Any]:
    from transformers import (
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessor,
        LlavaNextProcessor,
    )

    if name == "llava_next_llama3":
        tok = tokenizer(
            [*_LLAMA3, "<image>"], "<|eot_id|>", "<|pad|>", "<|begin_of_text|>", image_token="<image>"
        )
        chat = template("<image>\n", _LLAMA3_TURN, start="<|begin_of_text|>", answer=_LLAMA3_ANSWER)
    else:
        tok = tokenizer(["<s>", "</s>", "<pad>", "<image>"], "</s>", "<pad>", "<s>", image_token="<image>")
        chat = template("<image>\n", "{role}: {content} ", answer="ASSISTANT:")
    kind = "llama"
    if BACKBONES[name].alternates:
        kind = "mistral"
        chat = template("<image>\n", "[INST] {content} [/INST]", start="<s>", alternates=True)
    images = LlavaNextImageProcessor(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=_PINPOINTS
    )
    processor = LlavaNextProcessor(
        images, tok, patch_size=14, vision_feature_select_strategy="default", chat_template=chat,
        num_additional_image_tokens=1,
    )  # fmt: skip
    config = LlavaNextConfig(
        vision_config={"model_type": "clip_vision_model", **clip()},
        text_config={"model_type": kind, **text(tok, sliding_window=None)},
        image_token_index=tok.image_token_id, image_grid_pinpoints=_PINPOINTS, image_seq_length=4,
    )  # fmt: skip
    return LlavaNextForConditionalGeneration(config), processor


def llava_onevision(name: str) -> tuple[Any, Any]:
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
    )

    tok = tokenizer(
        [*_CHATML, "<image>", "<video>"],
        "<|im_end|>",
        "<|endoftext|>",
        image_token="<image>",
        video_token="<video>",
    )
    images = LlavaOnevisionImageProcessor(size={"height": 28, "width": 28}, image_grid_pinpoints=_PINPOINTS)
    processor = LlavaOnevisionProcessor(
        images, tok, LlavaOnevisionVideoProcessor(), num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=template("<image>\n", _CHATML_TURN, answer=_CHATML_ANSWER),
    )  # fmt: skip
    config = LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **clip()},
        text_config={"model_type": "qwen2", **text(tok)},
        image_token_index=tok.image_token_id, video_token_index=tok.video_token_id,
        image_grid_pinpoints=_PINPOINTS,
    )  # fmt: skip
    return LlavaOnevisionForConditionalGeneration(config), processor


def mllama(name: str) -> tuple[Any, Any]:
    from transformers import (
        MllamaConfig,
        MllamaForConditionalGeneration,
        MllamaImageProcessor,
        MllamaProcessor,
    )

    tok = tokenizer(
        [*_LLAMA3, "<|python_tag|>", "<|image|>"],
        "<|eot_id|>",
        "<|pad|>",
        "<|begin_of_text|>",
        image_token="<|image|>",
    )
    images = MllamaImageProcessor(size={"height": 28, "width": 28}, max_image_tiles=2)
    chat = template("<|image|>", _LLAMA3_TURN, start="<|begin_of_text|>", answer=_LLAMA3_ANSWER)
    # the image token is the first id past the vocabulary, as in the published model
    rows = tok.convert_tokens_to_ids("<|image|>")
    ratios = [[1, 1], [1, 2], [2, 1]]
    vision = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_global_layers": 1, "attention_heads": 2,
        "intermediate_size": 32, "vision_output_dim": 32, "image_size": 28, "patch_size": 14,
        "max_num_tiles": 2, "intermediate_layers_indices": [0], "supported_aspect_ratios": ratios,
    }  # fmt: skip
    config = MllamaConfig(
        vision_config=vision, text_config=text(tok, vocab_size=rows, cross_attention_layers=[1]),
        image_token_index=rows,
    )  # fmt: skip
    return MllamaForConditionalGeneration(config), MllamaProcessor(images, tok, chat_template=chat)


def qwen_vl(name: str) -> tuple[Any, Any]:
    import transformers
    from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    tok = tokenizer(_QWEN, "<|im_end|>", "<|endoftext|>")
    limits = {"shortest_edge": 28 * 28, "longest_edge": 16 * 28 * 28}
    chat = template("<|vision_start|><|image_pad|><|vision_end|>", _CHATML_TURN, answer=_CHATML_ANSWER)
    prefix = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}[
        BACKBONES[name].family
    ]
    video = Qwen2VLVideoProcessor() if prefix != "Qwen3VL" else transformers.Qwen3VLVideoProcessor()
    processor = getattr(transformers, f"{prefix}Processor")(
        Qwen2VLImageProcessor(size=limits), tok, video, chat_template=chat
    )
    ids = {
        f"{key}_token_id": tok.convert_tokens_to_ids(token)
        for key, token in zip(("vision_start", "vision_end", "image", "video"), _QWEN[3:], strict=True)
    }
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    towers = {
        "qwen2_vl": {"depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2},
        "qwen2_5_vl": {
            "depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32,
            "window_size": 112, "fullatt_block_indexes": [1],
        },
        "qwen3_vl": {
            "depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32,
            "patch_size": 14, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1],
        },
    }  # fmt: skip
    config = getattr(transformers, f"{prefix}Config")(
        text_config=text(tok, rope_parameters=rope), vision_config=towers[BACKBONES[name].family], **ids
    )
    return getattr(transformers, f"{prefix}ForConditionalGeneration")(config), processor


def internvl(name: str) -> tuple[Any, Any]:
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
    )

    named = {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }  # fmt: skip
    tok = tokenizer([*_CHATML, *named.values()], "<|im_end|>", "<|endoftext|>", **named)
    images = GotOcr2ImageProcessor(size={"height": 28, "width": 28}, crop_to_patches=True, max_patches=2)
    processor = InternVLProcessor(
        images, tok, InternVLVideoProcessor(), image_seq_length=1,
        chat_template=template("<IMG_CONTEXT>\n", _CHATML_TURN, answer=_CHATML_ANSWER),
    )  # fmt: skip
    vision = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
        "image_size": [28, 28], "patch_size": [14, 14],
    }  # fmt: skip
    config = InternVLConfig(
        vision_config=vision, text_config={"model_type": "qwen2", **text(tok)}, image_seq_length=1,
        image_token_id=tok.context_image_token_id, tie_word_embeddings=False,
    )  # fmt: skip
    return InternVLForConditionalGeneration(config), processor


def gemma3(name: str) -> tuple[Any, Any]:
    from transformers import (
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3ImageProcessor,
        Gemma3Processor,
    )

    named = {
        "image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>",
    }  # fmt: skip
    special = ["<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>", *named.values()]
    tok = tokenizer(special, "<eos>", "<pad>", "<bos>", **named)
    chat = template(
        "<start_of_image>", "<start_of_turn>{role}\n{content}<end_of_turn>\n", start="<bos>",
        answer="<start_of_turn>model\n", alternates=True,
    )  # fmt: skip
    images = Gemma3ImageProcessor(size={"height": 28, "width": 28})
    processor = Gemma3Processor(images, tok, chat_template=chat, image_seq_length=4)
    ropes = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
    }
    layers = text(
        tok, sliding_window=16, rope_parameters=ropes, query_pre_attn_scalar=8,
        layer_types=["sliding_attention", "full_attention"] * (LAYERS // 2),
    )  # fmt: skip
    config = Gemma3Config(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **clip()},
        text_config=layers, mm_tokens_per_image=4, image_token_index=tok.image_token_id,
        boi_token_index=tok.boi_token_id, eoi_token_index=tok.eoi_token_id, tie_word_embeddings=False,
    )  # fmt: skip
    return Gemma3ForConditionalGeneration(config), processor


def idefics3(name: str) -> tuple[Any, Any]:
    import transformers

    prefix = {"idefics3": "Idefics3", "smolvlm": "SmolVLM"}[BACKBONES[name].family]
    named = {
        "image_token": "<image>", "fake_image_token": "<fake_token_around_image>",
        "end_of_utterance_token": "<end_of_utterance>", "global_image_token": "<global-img>",
    }  # fmt: skip
    tok = tokenizer([*_IDEFICS, "<pad>"], "<end_of_utterance>", "<pad>", "<|im_start|>", **named)
    chat = template(
        "<image>", "{role}: {content}<end_of_utterance>\n", start="<|im_start|>", answer="Assistant:"
    )
    images = getattr(transformers, f"{prefix}ImageProcessor")(
        size={"longest_edge": 56}, max_image_size={"longest_edge": 28}
    )
    video = (transformers.SmolVLMVideoProcessor(),) if prefix == "SmolVLM" else ()
    processor = getattr(transformers, f"{prefix}Processor")(
        images, tok, *video, image_seq_len=1, chat_template=chat
    )
    config = getattr(transformers, f"{prefix}Config")(
        vision_config=clip(), text_config={"model_type": "llama", **text(tok)}, scale_factor=2,
        image_token_id=tok.image_token_id,
    )  # fmt: skip
    return getattr(transformers, f"{prefix}ForConditionalGeneration")(config), processor


def pixtral(name: str) -> tuple[Any, Any]:
    from transformers import (
        LlavaConfig,
        LlavaForConditionalGeneration,
        Mistral3Config,
        Mistral3ForConditionalGeneration,
        PixtralImageProcessor,
        PixtralProcessor,
    )

    merge = 2 if name == "mistral_small_3" else 1
    tok = tokenizer(_MISTRAL, "</s>", "<pad>", "<s>", image_token="[IMG]")
    chat = template("[IMG]", "[INST]{content}[/INST]", start="<s>", alternates=True)
    images = PixtralImageProcessor(
        size={"longest_edge": 56}, patch_size={"height": 14 * merge, "width": 14 * merge}
    )
    processor = PixtralProcessor(images, tok, patch_size=14, spatial_merge_size=merge, chat_template=chat)
    vision = {
        "model_type": "pixtral", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 56, "patch_size": 14, "head_dim": 8,
    }  # fmt: skip
    parts: dict[str, Any] = {
        "vision_config": vision, "image_token_index": tok.image_token_id, "vision_feature_layer": -1,
        "text_config": {"model_type": "mistral", **text(tok, sliding_window=None)},
    }  # fmt: skip
    if merge == 2:
        config = Mistral3Config(spatial_merge_size=2, tie_word_embeddings=False, **parts)
        return Mistral3ForConditionalGeneration(config), processor
    config = LlavaConfig(vision_feature_select_strategy="full", **parts)
    return LlavaForConditionalGeneration(config), processor


def qwen2_text(name: str) -> tuple[Any, Any]:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tok = tokenizer(_CHATML, "<|im_end|>", "<|endoftext|>")
    tok.chat_template = template("", _CHATML_TURN, answer=_CHATML_ANSWER)
    return Qwen2ForCausalLM(Qwen2Config(**text(tok))), tok


_QWEN_TEXT = [name for name, row in BACKBONES.items() if row.family == "qwen2"]
_QWEN_VL = [name for name, row in BACKBONES.items() if row.family in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")]
#: How each row that transformers can build is built; rows of one family and one format share a model.
BUILDERS: dict[str, Callable[[str], tuple[Any, Any]]] = {
    **dict.fromkeys(_QWEN_VL, qwen_vl),
    **dict.fromkeys(_QWEN_TEXT, qwen2_text),
    "llava_1_5": llava,
    **dict.fromkeys(("llava_1_6", "llava_1_6_vicuna", "llava_next_llama3"), llava_next),
    "llava_onevision": llava_onevision,
    "llama_3_2_vision": mllama,
    **dict.fromkeys(("internvl3", "internvl3_5"), internvl),
    "gemma3": gemma3,
    **dict.fromkeys(("smolvlm", "idefics3"), idefics3),
    **dict.fromkeys(("pixtral", "mistral_small_3"), pixtral),
}
#: Rows that differ only in size stand for each other.
DISTINCT = (
    "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen2_5",
    *(name for name in BUILDERS if name not in (*_QWEN_VL, *_QWEN_TEXT, "internvl3_5")),
)  # fmt: skip


def build(name: str, seed: int = 0) -> HFBackbone:
    """A row's backbone with random weights."""
    import torch

    torch.manual_seed(seed)
    model, processor = BUILDERS[name](name)
    return HFBackbone(BACKBONES[name], lively(model), processor)
