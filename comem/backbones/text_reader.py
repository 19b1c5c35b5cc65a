"""A Qwen-VL's language model as a text-only reader of its own: an ordinary Qwen2 model folder.

The published text-only readers (Qwen2.5-Instruct) are such folders. This makes one of any Qwen2-VL or
Qwen2.5-VL at hand, so that training and answering with a text-only reader can be tried without a download:
the embedded model has no text-only sibling.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from comem.backbones.hf import HFBackbone
from comem.backbones.specs import BackboneError

_KEPT = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps",
    "bos_token_id", "eos_token_id", "pad_token_id",
)  # fmt: skip
_TEXT_TYPES = ("qwen2_vl_text", "qwen2_5_vl_text")


def text_config_of(config: Any) -> Any:
    """A Qwen-VL's config as that of its language model alone, a `Qwen2Config`.

    Text has the same position on all three axes of M-RoPE, which is then plain RoPE.

    Raises:
        BackboneError: the language model is not Qwen2's.
    """
    from transformers import Qwen2Config

    text = config.get_text_config()
    if text.model_type not in _TEXT_TYPES:
        raise BackboneError(
            f"the language model of a {config.model_type!r} is no Qwen2: give a Qwen2-VL or a Qwen2.5-VL"
        )
    rope = {name: value for name, value in text.rope_parameters.items() if name != "mrope_section"}
    kept = {name: getattr(text, name) for name in _KEPT}
    tied = bool(getattr(config, "tie_word_embeddings", False))
    return Qwen2Config(**kept, rope_parameters=rope, tie_word_embeddings=tied)


@torch.no_grad()
def text_reader_of(backbone: HFBackbone, folder: str | Path) -> None:
    """Write the backbone's language model and tokenizer as a text-only model folder.

    Args:
        backbone: a Qwen2-VL or Qwen2.5-VL without adapters.
        folder: to write; a text question gets the same logits from it as from the backbone.

    Raises:
        BackboneError: another family.
    """
    from transformers import Qwen2ForCausalLM

    model = backbone.model
    reader: Any = Qwen2ForCausalLM(text_config_of(model.config)).to(model.dtype)
    reader.model.load_state_dict(model.get_decoder().state_dict())
    reader.lm_head.weight.copy_(model.get_output_embeddings().weight)
    reader.generation_config = model.generation_config
    tokenizer = backbone.process.tokenizer
    template = tokenizer.chat_template
    tokenizer.chat_template = backbone.processor.chat_template
    try:
        reader.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    finally:
        tokenizer.chat_template = template
