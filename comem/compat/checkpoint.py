"""The reader of the authors' text-only variant (Qwen2.5-Instruct), sized by the tensors that are stored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.initialization import no_init_weights

from comem.backbones.specs import load_model_config
from comem.io.files import read_json
from comem.memory.bank import stream_tensors, tensor_files, tensor_shapes
from comem.memory.qformer import QFormer, QFormerConfig


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


FAMILIES = ("qwen2_vl", "qwen2_5_vl")
QFORMER_PREFIX = "knowledge_processor."
READER_PREFIX = "model_inf."


#: Whose vision tower, token embeddings and head serve the question: the reader's own, as in the paper, or
#: the tuned encoder's, as in the authors' code: released weights were trained so (authors_code.md 1.1).
QuestionVision = Literal["reader", "encoder"]


def load_authors_checkpoint(
    folder: str | Path, question_vision: QuestionVision = "reader", dtype: torch.dtype | None = None
) -> tuple[PreTrainedModel, QFormer, PreTrainedModel]:
    """Load a folder of layout A.

    Args:
        folder: holds config.json and one or several safetensors files.
        question_vision: with "encoder" only the reader's layers are its own.
        dtype: of the models; None for that of the stored weights.

    Returns:
        The encoder (LoRA merged in), the Q-Former and the reader.

    Raises:
        ValueError: another layout, a missing or damaged file, or tensors that do not fit the config;
            names the file and the remedy.
    """
    if question_vision not in get_args(QuestionVision):
        allowed = ", ".join(get_args(QuestionVision))
        raise ValueError(f"question_vision={question_vision!r}: allowed are {allowed}")
    folder = Path(folder)
    files = tensor_files(folder)
    shapes = tensor_shapes(files)
    _check_layout(folder, list(shapes))
    config = read_model_config(folder)
    dtype = dtype or next(stream_tensors(files))[1].dtype
    encoder = _unset_model(config, dtype)
    reads_text = not any(name.startswith(f"{READER_PREFIX}visual.") for name in shapes)
    reader = text_reader(config, shapes, READER_PREFIX, dtype) if reads_text else _unset_model(config, dtype)
    own = {n.removeprefix(QFORMER_PREFIX): s for n, s in shapes.items() if n.startswith(QFORMER_PREFIX)}
    given = read_json(folder / "config.json").get("qformer", {})
    qformer = QFormer(qformer_config(folder, own, given)).to(dtype)
    _fill(folder, files, {READER_PREFIX: reader, QFORMER_PREFIX: qformer, "": encoder})
    if question_vision == "encoder":
        share_question_side(encoder, reader)
    return encoder.eval(), qformer.eval(), reader.eval()


def share_question_side(encoder: PreTrainedModel, reader: PreTrainedModel) -> None:
    """Let the encoder's vision tower, token embeddings and head serve the reader (authors_code.md 1.1)."""
    if hasattr(reader.base_model, "visual"):  # a text model has none
        reader.base_model.visual = encoder.base_model.visual
    reader.set_input_embeddings(encoder.get_input_embeddings())
    reader.lm_head = encoder.lm_head


def _check_layout(folder: Path, names: list[str]) -> None:
    if not any(name.startswith(QFORMER_PREFIX) for name in names):
        if any(".lora_A." in name for name in names):
            raise ValueError(f"{folder}: a LoRA folder without Q-Former: no memory can be computed from it")
        raise ValueError(
            f"{folder}: a plain merged model without Q-Former ({QFORMER_PREFIX}*): the authors' merge script "
            "drops it (authors_code.md C2); merge again from the run folder, whose Q-Former is intact"
        )
    if any(".lora_A." in name for name in names):
        raise ValueError(f"{folder}: a raw run folder: load it with load_authors_adapter and its base model")
    if not any(name.startswith(READER_PREFIX) for name in names):
        raise ValueError(f"{folder}: has no reader ({READER_PREFIX}*): the checkpoint is incomplete")


def read_model_config(folder: Path) -> PretrainedConfig:
    """The model's config: of transformers, or the short form of the golden folders ("family": …)."""
    path = folder / "config.json"
    raw = read_json(path)
    family = raw.get("family", raw.get("model_type"))
    if family not in FAMILIES:
        raise ValueError(f"{path}: unknown model family {family!r}; allowed are {', '.join(FAMILIES)}")
    if "family" not in raw:
        return load_model_config(folder)
    text = dict(raw["text"])
    text["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": text.pop("rope_theta"),
        "mrope_section": text.pop("mrope_section"),
    }
    ids = {name: value for name, value in raw.items() if name.endswith("_token_id")}
    text["pad_token_id"] = ids.pop("pad_token_id", None)
    # Without these the config assumes the ids of Qwen's full vocabulary.
    text["bos_token_id"] = text["eos_token_id"] = None
    tied = bool(text.pop("tie_word_embeddings", False))
    return AutoConfig.for_model(
        family, text_config=text, vision_config=raw["vision"], tie_word_embeddings=tied, **ids
    )


def qformer_config(
    source: Path, shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, int]
) -> QFormerConfig:
    """A Q-Former's sizes from its tensors' shapes.

    Args:
        source: for messages.
        shapes: by plain names (`latents`, `proj_in.weight`, …).
        given: heads and depth, which leave no trace in the shapes; by default the authors' 16 and 8.
    """

    def shape(key: str) -> tuple[int, ...]:
        if key not in shapes:
            raise ValueError(f"{source}: the Q-Former has no {key}: incomplete, copy the files again")
        return shapes[key]

    _, queries, width = shape("latents")
    heads = given.get("heads", 16)
    return QFormerConfig(
        hidden_size=width,
        num_queries=queries,
        depth=given.get("depth", 8),
        heads=heads,
        dim_head=shape("layers.0.to_q.weight")[0] // heads,
        ff_mult=shape("layers.1.1.weight")[0] // width,
        output_size=shape("proj_out.weight")[0],
    )


def _unset_model(config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The model with its buffers made and its weights unset."""
    with no_init_weights():
        return AutoModelForImageTextToText.from_config(config, dtype=dtype)


def current_name(name: str) -> str:
    """A tensor's name in transformers 5.x: `model.layers.0…` has become `model.language_model.layers.0…`."""
    if name.startswith("visual."):
        return f"model.{name}"
    if name.startswith("model.") and not name.startswith(("model.language_model.", "model.visual.")):
        return f"model.language_model.{name.removeprefix('model.')}"
    return name


def _fill(folder: Path, files: list[Path], targets: Mapping[str, nn.Module]) -> None:
    """Copy every stored tensor to its place in the module that its prefix names, one at a time."""
    slots = {prefix: module.state_dict() for prefix, module in targets.items()}
    unseen = {(prefix, name) for prefix in slots for name in slots[prefix]}
    for stored, tensor in stream_tensors(files):
        prefix = next(p for p in targets if stored.startswith(p))  # "", the encoder's, comes last
        plain = stored.removeprefix(prefix)
        name = plain if plain in slots[prefix] else current_name(plain)
        slot = slots[prefix].get(name)
        if slot is None or slot.shape != tensor.shape:
            what = "is not known" if slot is None else f"should have shape {tuple(slot.shape)}"
            raise ValueError(
                f"{folder}: {stored} {tuple(tensor.shape)} {what}: config.json is of another model"
            )
        slot.copy_(tensor)
        unseen.discard((prefix, name))
    for prefix, module in targets.items():
        if getattr(getattr(module, "config", None), "tie_word_embeddings", False):
            unseen.discard((prefix, "lm_head.weight"))  # the same tensor as the embeddings
    if unseen:
        first = "".join(min(unseen))
        raise ValueError(f"{folder}: {len(unseen)} tensors are missing, first {first}: copy the files again")
