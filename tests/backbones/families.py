"""Model families beyond the rows of `tiny.py`: random models and processors, built without a hub."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any

import pytest
from backbones.seeing import SEEING
from backbones.tiny import (
    _CHATML,
    _CHATML_ANSWER,
    _CHATML_TURN,
    _LLAMA3,
    _LLAMA3_ANSWER,
    _LLAMA3_TURN,
    BUILDERS,
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


def causal(family: str, **changes: Any) -> Callable[[int], tuple[Any, Any]]:
    """A text-only family by its `model_type`, with ChatML."""

    def build(layers: int) -> tuple[Any, Any]:
        from transformers import CONFIG_MAPPING, AutoModelForCausalLM

        tok = tokenizer(_CHATML, "<|im_end|>", "<|endoftext|>")
        tok.chat_template = template("", _CHATML_TURN, answer=_CHATML_ANSWER)
        config = CONFIG_MAPPING[family](**text(tok, num_hidden_layers=layers, **changes))
        return AutoModelForCausalLM.from_config(config), tok

    return build


#: Model and processor of a family, by a short name, for so many layers.
FAMILIES: dict[str, Callable[[int], tuple[Any, Any]]] = {
    "llama": llama,
    "llama3": llama3,
    "gemma3_text": gemma3_text,
    "qwen3": qwen3,
}
_WINDOWS: dict[str, Any] = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16}
_LINEAR: dict[str, Any] = {
    "layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 4,
    "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
_EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LOCAL: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}

#: Text families that no row declares, whether keys and values can stand in front, and what their configs
#: need. They cannot with states, learned positions, or rotary pairs that lie side by side.
CAUSAL: dict[str, tuple[bool, dict[str, Any]]] = {
    "mistral": (True, {"sliding_window": None}),
    "mixtral": (True, _LOCAL),
    "qwen3_moe": (True, _EXPERTS),
    "phi3": (True, {}),
    "granite": (True, {}),
    "olmo2": (True, {}),
    "olmo3": (True, _WINDOWS),
    "olmoe": (True, _EXPERTS),
    "smollm3": (True, {}),
    "gemma": (True, {}),
    "gemma2": (True, {**_WINDOWS, "query_pre_attn_scalar": 8}),
    "starcoder2": (True, {}),
    "stablelm": (True, {}),
    "gpt_oss": (True, {**_WINDOWS, **_LOCAL}),
    "nemotron": (True, {}),
    "hunyuan_v1_dense": (True, {}),
    "seed_oss": (True, {}),
    "apertus": (True, {}),
    "jais2": (True, {}),
    "arcee": (True, {}),
    "gemma3n_text": (
        True,
        {
            **_WINDOWS, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 320,
            "num_kv_shared_layers": 0, "laurel_rank": 4, "activation_sparsity_pattern": [0.0, 0.0],
        },
    ),
    "exaone4": (True, {"layer_types": ["full_attention", "full_attention"], "sliding_window": None}),
    "cohere2": (False, _WINDOWS),
    "glm4": (False, {}),
    "ernie4_5": (False, {}),
    "helium": (False, {}),
    "lfm2": (False, {"layer_types": ["conv", "full_attention"], "block_ff_dim": 64}),
    "qwen3_next": (False, {**_LINEAR, **_EXPERTS, "shared_expert_intermediate_size": 32}),
    "qwen3_5_text": (False, _LINEAR),
    "minimax": (False, {**_LOCAL, "layer_types": ["linear_attention", "full_attention"], "block_size": 8}),
    "mamba2": (False, {"state_size": 8, "num_heads": 8, "expand": 2, "n_groups": 1, "chunk_size": 8}),
    "gpt2": (False, {}),
    "gpt_neox": (False, {}),
    "opt": (False, {"word_embed_proj_dim": 32, "ffn_dim": 64}),
    "bloom": (False, {}),
    "rwkv": (False, {"attention_hidden_size": 32}),
    "deepseek_v2": (
        False,
        {
            "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
            "v_head_dim": 8, "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
            "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1,
        },
    ),
    "granite_swa": (False, {}),
    "llama4_text": (
        False, {"num_local_experts": 2, "intermediate_size_mlp": 64, "attention_chunk_size": 64}
    ),
}  # fmt: skip


#: Families of the rows of `tiny.py`, by a row's name.
ROWS = (
    "qwen3_vl",
    "internvl3",
    "gemma3",
    "smolvlm",
    "llava_onevision",
    "llava_1_5",
    "llava_1_6",
    "mistral_small_3",
)


def sampled(names: Iterable[str], always: Iterable[str]) -> list[Any]:
    """Names as parameters; those that are not run always wait for COMEM_TEST_FAMILIES=all."""
    chosen, everything = set(always), os.environ.get("COMEM_TEST_FAMILIES") == "all"
    rest = pytest.mark.skipif(not everything, reason="set COMEM_TEST_FAMILIES=all")
    return [pytest.param(name, marks=() if name in chosen else rest) for name in names]


def here(family: str) -> bool:
    """Whether the installed transformers has the family."""
    from transformers import CONFIG_MAPPING

    return family in CONFIG_MAPPING and (family != "perception_lm" or find_spec("timm") is not None)


def make(name: str, layers: int = 2, seed: int = 0) -> tuple[Any, Any]:
    """A family's random model, large enough in its weights to be told apart, and its processor."""
    import torch

    torch.manual_seed(seed)
    if name in SEEING:
        model, processor = SEEING[name][1]()
    elif name in CAUSAL:
        model, processor = causal(name, **CAUSAL[name][1])(layers)
    else:
        model, processor = FAMILIES[name](layers) if name in FAMILIES else BUILDERS[name](name)
    return lively(model), processor


def save(name: str, folder: Any, layers: int = 2, seed: int = 0) -> str:
    """The same as a model folder."""
    model, processor = make(name, layers, seed)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)
