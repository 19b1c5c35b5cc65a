"""The embedded CLIP's model, tokenizer and folder: sizes, and how they are written for open_clip."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from comem.io.files import write_json
from comem.retrieval.embedder import CONFIG_NAME, WEIGHTS_NAME
from comem.toy.world import World
from tools.toy.clip_banners import random_banner

SIZE, VOCABULARY, PAD, START, END = 64, 512, 0, 1, 2
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
MODEL_CFG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": SIZE, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64},
    "text_cfg": {
        "context_length": 48, "vocab_size": VOCABULARY, "width": 96, "heads": 4, "layers": 2,
        "pool_type": "eos", "pad_id": PAD, "eos_id": END, "hf_tokenizer_name": "comem-toy-clip",
    },
}  # fmt: skip
# "squash": the whole image is seen, at any aspect ratio.
PREPROCESS_CFG: dict[str, Any] = {
    "size": SIZE, "mode": "RGB", "mean": MEAN, "std": STD, "interpolation": "bicubic",
    "resize_mode": "squash",
}  # fmt: skip


def build_model(seed: int = 0) -> torch.nn.Module:
    """The untrained model."""
    from open_clip.model import CLIP

    torch.manual_seed(seed)
    return CLIP(**MODEL_CFG)


def build_tokenizer(folder: Path, seed: int = 0) -> None:
    """Trains a byte-level BPE on captions and saves it as an ordinary tokenizer folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    rng = random.Random(f"captions/{seed}")
    captions = [random_banner(rng).caption() for _ in range(3000)]
    captions += [town.arms.caption() for town in World(seed, 500).split("train")]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())  # any text in any language has tokens
    tokenizer.train_from_iterator(
        captions,
        trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", START), ("</s>", END)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=48
    )
    fast.save_pretrained(folder)


def save_model(model: torch.nn.Module, folder: Path) -> None:
    """Writes weights (half precision, but norms and biases in full) and config as open_clip reads them."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().cpu() for key, value in model.state_dict().items() if key != "attn_mask"}
    half = {key: v.half() if v.is_floating_point() and v.dim() > 1 else v for key, v in state.items()}
    save_file({key: value.contiguous().clone() for key, value in half.items()}, folder / WEIGHTS_NAME)
    (folder / WEIGHTS_NAME).chmod(0o644)
    write_json(folder / CONFIG_NAME, {"model_cfg": MODEL_CFG, "preprocess_cfg": PREPROCESS_CFG})


def to_pixels(images: Sequence[Image.Image]) -> torch.Tensor:
    """Square images as a normalised float tensor (n, 3, size, size), as the saved preprocessing does."""
    array = np.stack([np.asarray(image.convert("RGB"), dtype=np.float32) for image in images])
    tensor = torch.from_numpy(array).permute(0, 3, 1, 2) / 255
    return (tensor - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
