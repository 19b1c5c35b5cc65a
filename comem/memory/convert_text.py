"""The reader of the authors' text-only variant (Qwen2.5-Instruct), sized by the tensors that are stored."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights


def text_reader(
    config: PretrainedConfig, shapes: Mapping[str, tuple[int, ...]], prefix: str, dtype: torch.dtype
) -> PreTrainedModel:
    """The reader with its weights unset.

    Args:
        config: the encoder's: what no tensor shows is as there.
        shapes: of all stored tensors, by name.
        prefix: of the reader's names.
        dtype: of the model.
    """
    text = config.get_text_config()

    def shape(name: str) -> tuple[int, ...]:
        return shapes.get(f"{prefix}{name}", (0, 0))

    own = text.to_dict()
    kept = (
        "num_attention_heads",
        "num_key_value_heads",
        "rms_norm_eps",
        "hidden_act",
        "max_position_embeddings",
    )
    layers = {name.split(".")[3] for name in shapes if name.startswith(f"{prefix}model.layers.")}
    theta = own["rope_parameters"]["rope_theta"]
    ids = ("bos_token_id", "eos_token_id", "pad_token_id")
    made = AutoConfig.for_model(
        "qwen2", vocab_size=shape("model.embed_tokens.weight")[0],
        hidden_size=shape("model.embed_tokens.weight")[1], num_hidden_layers=len(layers),
        intermediate_size=shape("model.layers.0.mlp.gate_proj.weight")[0],
        rope_parameters={"rope_type": "default", "rope_theta": theta}, tie_word_embeddings=False,
        **{name: own.get(name) for name in (*kept, *ids)},
    )  # fmt: skip
    with no_init_weights():
        return AutoModelForCausalLM.from_config(made, dtype=dtype)
