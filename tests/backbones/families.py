"""Model families beyond the rows of `tiny.py`: random models and processors, built without a hub."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from backbones.tiny import (
    BUILDERS,
    _CHATML,
    _CHATML_ANSWER,
    _CHATML_TURN,
    _LLAMA3,
    _LLAMA3_ANSWER,
    _LLAMA3_TURN,
    lively,
    template,
    text,
    tokenizer,
)

_GEMMA = ["<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>"]


def llama(layers: int) -> tuple[Any, Any]:
    """SmolLM2's form: ChatML with a system turn that the template writes by itself."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tok = tokenizer(_CHATML, "<|im_end|>", "<|endoftext|>")
    system = "<|im_start|>system\nYou are helpful.<|im_end|>\n"
    tok.chat_template = template("", _CHATML_TURN, start=system, answer=_CHATML_ANSWER)
    config = LlamaConfig(**text(tok, num_hidden_layers=layers, tie_word_embeddings=True))
    return LlamaForCausalLM(config), tok


def llama3(layers: int) -> tuple[Any, Any]:
    from transformers import LlamaConfig, LlamaForCausalLM

    tok = tokenizer(_LLAMA3, "<|eot_id|>", "<|pad|>", "<|begin_of_text|>")
    tok.chat_template = template("", _LLAMA3_TURN, start="<|begin_of_text|>", answer=_LLAMA3_ANSWER)
    return LlamaForCausalLM(LlamaConfig(**text(tok, num_hidden_layers=layers))), tok


def gemma3_text(layers: int) -> tuple[Any, Any]:
    """Scaled embeddings, windows, a template that wants turns to alternate."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    tok = tokenizer(_GEMMA, "<eos>", "<pad>", "<bos>")
    turn = "<start_of_turn>{role}\n{content}<end_of_turn>\n"
    tok.chat_template = template(
        "", turn, start="<bos>", answer="<start_of_turn>assistant\n", alternates=True
    )
    kinds = ["sliding_attention", "full_attention"] * (layers // 2)
    ropes = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
    }
    config = text(
        tok, num_hidden_layers=layers, sliding_window=16, layer_types=kinds, query_pre_attn_scalar=8,
        rope_parameters=ropes, tie_word_embeddings=True,
    )  # fmt: skip
    return Gemma3ForCausalLM(Gemma3TextConfig(**config)), tok


def qwen3(layers: int) -> tuple[Any, Any]:
    """A template that opens a thought unless it is asked not to."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tok = tokenizer(_CHATML, "<|im_end|>", "<|endoftext|>")
    quiet = "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    chat = template("", _CHATML_TURN, answer=_CHATML_ANSWER + quiet)
    tok.chat_template = chat.replace(
        "<|im_start|>{{ message['role'] }}\n",
        "<|im_start|>{{ message['role'] }}\n{% if message['role'] == 'assistant' and loop.last %}"
        "<think>\n\n</think>\n\n{% endif %}",
    )
    return Qwen3ForCausalLM(Qwen3Config(**text(tok, num_hidden_layers=layers))), tok


#: Model and processor of a family, by a short name, for so many layers.
FAMILIES: dict[str, Callable[[int], tuple[Any, Any]]] = {
    "llama": llama,
    "llama3": llama3,
    "gemma3_text": gemma3_text,
    "qwen3": qwen3,
}
#: Families of the rows of `tiny.py`, by a row's name.
ROWS = ("qwen3_vl", "internvl3", "gemma3", "smolvlm", "llava_onevision", "llava_1_5", "llava_1_6", "mistral_small_3")


def make(name: str, layers: int = 2, seed: int = 0) -> tuple[Any, Any]:
    """A family's random model, large enough in its weights to be told apart, and its processor."""
    import torch

    torch.manual_seed(seed)
    model, processor = FAMILIES[name](layers) if name in FAMILIES else BUILDERS[name](name)
    return lively(model), processor


def save(name: str, folder: Any, layers: int = 2, seed: int = 0) -> str:
    """The same as a model folder."""
    model, processor = make(name, layers, seed)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)
