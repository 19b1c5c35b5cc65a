"""Shared fixtures: tiny random models, a real processor, and the shared data where it is to be had."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the default test run downloads nothing
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SHARED = Path(__file__).resolve().parents[2] / "shared"
SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|fim_pad|>",
]
# Qwen2.5-VL's template without tools and video
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ROWS = 288  # 256 bytes + 15 special tokens + spare rows, as in the real models' tables


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same random state, whichever ran before it."""
    import random

    import numpy
    import torch

    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)


def token_id(name: str) -> int:
    return 256 + SPECIAL_TOKENS.index(name)


def _text_config(layers: int, heads: int = 4) -> dict[str, Any]:
    return {
        "vocab_size": ROWS,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        "bos_token_id": token_id("<|endoftext|>"),
        "eos_token_id": token_id("<|im_end|>"),
        "pad_token_id": token_id("<|endoftext|>"),
    }


_TOKEN_IDS = {
    "image_token_id": token_id("<|image_pad|>"),
    "video_token_id": token_id("<|video_pad|>"),
    "vision_start_token_id": token_id("<|vision_start|>"),
    "vision_end_token_id": token_id("<|vision_end|>"),
}


def build_tiny_qwen2_5_vl(layers: int = 2, seed: int = 0) -> Any:
    """A random Qwen2.5-VL: hidden 64, eager attention on one thread, in eval mode."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 64,
        "patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [1],
    }
    config = Qwen2_5_VLConfig(text_config=_text_config(layers), vision_config=vision, **_TOKEN_IDS)
    torch.manual_seed(seed)
    return _lively(Qwen2_5_VLForConditionalGeneration(config))


def build_tiny_qwen2_vl(layers: int = 2, seed: int = 1) -> Any:
    """A random Qwen2-VL: hidden 64, in eval mode."""
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2}
    config = Qwen2VLConfig(text_config=_text_config(layers), vision_config=vision, **_TOKEN_IDS)
    torch.manual_seed(seed)
    return _lively(Qwen2VLForConditionalGeneration(config))


def build_tiny_qwen2(layers: int = 2, seed: int = 2) -> Any:
    """A random Qwen2 text model: hidden 64, in eval mode."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    text = _text_config(layers)
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0}
    torch.manual_seed(seed)
    return _lively(Qwen2ForCausalLM(Qwen2Config(**text)))


def _lively(model: Any) -> Any:
    """Larger weights than the initialisation's, so that every input visibly moves the logits."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(10.0)
    model.generation_config.do_sample = False
    return model.eval()


def build_tiny_processor() -> Any:
    """A real Qwen2.5-VL processor: byte-level tokenizer, at most 16 image tokens an image."""
    from transformers import (
        Qwen2_5_VLProcessor,
        Qwen2Tokenizer,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    vocab = {character: byte for byte, character in bytes_to_unicode().items()}
    vocab.update({token: 256 + i for i, token in enumerate(SPECIAL_TOKENS)})
    tokenizer = Qwen2Tokenizer(
        vocab=vocab,
        merges=[],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        extra_special_tokens=[t for t in SPECIAL_TOKENS if t not in ("<|im_end|>", "<|endoftext|>")],
    )
    limits = {"shortest_edge": 28 * 28, "longest_edge": 16 * 28 * 28}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=limits),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    )


@pytest.fixture(scope="session")
def tiny_qwen2_5_vl() -> Any:
    """Shared by all tests of the session: leave it as it was found, or build your own."""
    return build_tiny_qwen2_5_vl()


@pytest.fixture(scope="session")
def tiny_qwen2_vl() -> Any:
    return build_tiny_qwen2_vl()


@pytest.fixture(scope="session")
def tiny_qwen2() -> Any:
    return build_tiny_qwen2()


@pytest.fixture(scope="session")
def tiny_processor() -> Any:
    return build_tiny_processor()


@pytest.fixture(scope="session")
def tiny_backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as the Auto classes load it."""
    folder = tmp_path_factory.mktemp("tiny_qwen2_5_vl")
    build_tiny_qwen2_5_vl().save_pretrained(folder)
    build_tiny_processor().save_pretrained(folder)
    return folder


def _shared(*parts: str) -> Path:
    folder = SHARED.joinpath(*parts)
    if not folder.is_dir():
        pytest.skip(f"optional data folder ../shared/{'/'.join(parts)} is absent")
    return folder


@pytest.fixture(scope="session")
def flags_dir() -> Path:
    return _shared("data", "flags")


@pytest.fixture(scope="session")
def infoseek_dir() -> Path:
    return _shared("data", "infoseek")


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    return _shared("golden")


@pytest.fixture()
def small_image() -> Any:
    """`small_image(width, height, seed)` draws a random RGB picture as PNG bytes in an ImageRef."""
    import io

    import numpy
    from PIL import Image

    from comem.types import ImageRef

    def draw(width: int = 56, height: int = 56, seed: int = 0) -> ImageRef:
        pixels = numpy.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=numpy.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        return ImageRef(data=buffer.getvalue())

    return draw


@pytest.fixture()
def full_disk() -> Any:
    """`with full_disk(1000):` no file can grow beyond so many bytes; the system's own refusal, EFBIG."""
    import resource  # Python ignores SIGXFSZ, so that a write fails instead of killing the process
    from contextlib import contextmanager

    @contextmanager
    def limited(most: int) -> Any:
        before, written = resource.getrlimit(resource.RLIMIT_FSIZE), sys.dont_write_bytecode
        sys.dont_write_bytecode = True  # a module imported meanwhile would leave a cut file in __pycache__
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            sys.dont_write_bytecode = written

    return limited
