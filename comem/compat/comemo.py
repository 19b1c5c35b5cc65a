"""CoMemo's checkpoints: the authors' layout read onto InternVL and our blocks, and written anew.

What a name of theirs is here stands in reference/comemo.md 3 and 10. InternLM2 is Llama with queries, keys
and values of a group interleaved in one matrix, so its decoder becomes one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from comem.backbones.comemo import (
    IMAGE_TOKEN,
    SECTION,
    CoMemo,
    CoMemoBackbone,
    CoMemoConfig,
    backbone,
    open_folder,
    stop_at_turns,
)
from comem.backbones.image_positions import PositionScheme
from comem.backbones.media import BlockSizes, MediaBlocks, every
from comem.backbones.specs import BackboneError, BackboneSpec
from comem.io.files import read_json
from comem.memory.bank import stream_tensors, tensor_files, tensor_shapes

#: Nine tokens behind InternLM2's 92,544 in their order, of which this is the third.
_INTERNLM2_TOKENS, _NEW_TOKENS, _CONTEXT_AT = 92_544, 9, 2
_MIXIN = ("mixin_every_n_layers", "language_dim", "vision_dim", "head_dim", "num_heads", "intermediate_size")
_DECODER = {
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_BLOCK = {
    "attn_gate": "attn_gate",
    "ff_gate": "ff_gate",
    "cross_attention_norm.weight": "norm",
    "ffn_norm_2.weight": "ff_norm",
    "cross_attn.to_q.weight": "to_q.weight",
    "cross_attn.to_kv.weight": "to_kv.weight",
    "cross_attn.to_out.weight": "to_out.weight",
    "ffn_2.w1.weight": "w1.weight",
    "ffn_2.w2.weight": "w2.weight",
    "ffn_2.w3.weight": "w3.weight",
}
_VISION_LAYER = {
    "attn.proj": "attention.projection_layer",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "ls1": "lambda_1",
    "ls2": "lambda_2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_VISION = {
    "embeddings.class_embedding": "embeddings.cls_token",
    "embeddings.position_embedding": "embeddings.position_embeddings",
    "embeddings.patch_embedding.weight": "embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embedding.bias": "embeddings.patch_embeddings.projection.bias",
}
_PROJECTOR = {"0": "layer_norm", "1": "linear_1", "3": "linear_2"}


def is_comemo(folder: str | Path) -> bool:
    """Whether a folder holds a CoMemo checkpoint of the authors'."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        return False
    about = read_json(path)
    return "mixin_config" in about or "CoMemo" in "".join(map(str, about.get("architectures") or ()))


def block_sizes(path: Path, about: Mapping[str, Any]) -> BlockSizes:
    """Sizes of the blocks, from the config alone: no tensor tells heads from their width.

    Raises:
        ValueError: a size is not there, or the widths differ.
    """
    mixin, layers = about.get("mixin_config") or {}, int(about["llm_config"]["num_hidden_layers"])
    if missing := [name for name in _MIXIN if mixin.get(name) is None]:
        raise ValueError(
            f"{path}: mixin_config says no {', '.join(missing)}: a checkpoint's tensors show only the "
            "product of heads "
            "and width of a head, so nothing is guessed; take the config.json that belongs to the weights"
        )
    widths = {int(mixin["language_dim"]), int(mixin["vision_dim"]), int(about["llm_config"]["hidden_size"])}
    if len(widths) > 1:
        raise ValueError(
            f"{path}: widths {sorted(widths)}: media and decoder share a norm, so they have to be one"
        )
    return BlockSizes(
        width=widths.pop(),
        heads=int(mixin["num_heads"]),
        head_dim=int(mixin["head_dim"]),
        intermediate=int(mixin["intermediate_size"]),
        layers=every(int(mixin["mixin_every_n_layers"]), layers),
    )


def model_config(path: Path, about: Mapping[str, Any], image_token_id: int) -> Any:
    """The config of transformers' InternVL for a config of theirs.

    Raises:
        ValueError: a setting that this model does not have; names it.
    """
    from transformers import InternVLConfig, InternVLVisionConfig, LlamaConfig

    vision, text = about["vision_config"], about["llm_config"]
    scaling = text.get("rope_scaling") or {}
    rope = {"rope_type": "default", "rope_theta": float(text.get("rope_theta", 10_000))}
    if scaling:
        rope |= {
            "rope_type": scaling.get("type", scaling.get("rope_type")),
            "factor": float(scaling["factor"]),
        }
    own = {
        name: text[name]
        for name in (
            "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "hidden_act", "max_position_embeddings", "rms_norm_eps",
        )
    }  # fmt: skip
    ids = {name: text.get(name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    bias = bool(text.get("bias", False))
    tower = {
        name: vision[name]
        for name in (
            "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act",
            "layer_norm_eps", "image_size", "patch_size",
        )
    }  # fmt: skip
    downsample = float(about.get("downsample_ratio", 0.5))
    side = int(tower["image_size"] // tower["patch_size"] * downsample)
    return InternVLConfig(
        vision_config=InternVLVisionConfig(
            **tower, attention_bias=bool(vision.get("qkv_bias", True)), norm_type=vision.get("norm_type",
            "layer_norm"), use_qk_norm=bool(vision.get("qk_normalization", False)), use_mean_pooling=True,
        ),
        text_config=LlamaConfig(
            **own, **ids, rope_parameters=rope, attention_bias=bias, mlp_bias=False, tie_word_embeddings=False
        ),
        image_token_id=image_token_id,
        image_seq_length=side * side,
        downsample_ratio=downsample,
        vision_feature_layer=int(about.get("select_layer", -1)),
        tie_word_embeddings=False,
    )  # fmt: skip


def _check_supported(path: Path, about: Mapping[str, Any]) -> None:
    """Refuse what would be computed otherwise."""
    text, vision = about["llm_config"], about["vision_config"]
    faults = []
    if text.get("architectures", ["InternLM2ForCausalLM"]) != ["InternLM2ForCausalLM"]:
        faults.append(f"llm_config.architectures={text['architectures']} (InternLM2ForCausalLM)")
    if about.get("ps_version", "v2") != "v2":
        faults.append(f"ps_version={about['ps_version']!r} (v2)")
    if about.get("force_image_size", vision["image_size"]) != vision["image_size"]:
        faults.append(f"force_image_size={about['force_image_size']} ({vision['image_size']})")
    if text.get("bias"):
        faults.append("llm_config.bias=true (false)")
    if faults:
        raise ValueError(
            f"{path}: {'; '.join(faults)}: the value in brackets is the only one that is known here"
        )


def image_token(folder: Path, about: Mapping[str, Any], tokenizer: Any = None) -> int:
    """The id of `<IMG_CONTEXT>`.

    Raises:
        ValueError: neither the tokenizer nor the config says.
    """
    given = about.get("golden", {}).get("special_token_ids", {}).get(IMAGE_TOKEN)
    if given is None and tokenizer is not None:
        given = tokenizer.get_vocab().get(IMAGE_TOKEN)
    if given is None:
        given = about.get("img_context_token_id")
    if given is None and about["llm_config"]["vocab_size"] == _INTERNLM2_TOKENS + _NEW_TOKENS:
        given = _INTERNLM2_TOKENS + _CONTEXT_AT
    if given is None:
        raise ValueError(
            f"{folder}: no tokenizer that knows {IMAGE_TOKEN}: copy the tokenizer's files beside it"
        )
    return int(given)


def read_authors(
    folder: str | Path, dtype: torch.dtype | None = None, positions: PositionScheme = "dhr_released",
    tokenizer: Any = None,
) -> CoMemo:  # fmt: skip
    """A checkpoint of the authors' in their layout.

    Args:
        folder: with config.json and safetensors files.
        dtype: of the model; None as stored.
        positions: how ids are counted: their training counted as "dhr_released" does.
        tokenizer: of the checkpoint, asked for the id of `<IMG_CONTEXT>`.

    Raises:
        ValueError: a config that says too little or something unknown, or tensors that do not fit it.
    """
    from transformers import InternVLForConditionalGeneration
    from transformers.initialization import no_init_weights

    folder = Path(folder)
    path = folder / "config.json"
    about = read_json(path)
    if missing := [name for name in ("vision_config", "llm_config") if not isinstance(about.get(name), dict)]:
        raise ValueError(f"{path}: no {', '.join(missing)}: not the config of a CoMemo checkpoint")
    _check_supported(path, about)
    sizes = block_sizes(path, about)
    files = tensor_files(folder)
    _check_blocks(path, sizes, tensor_shapes(files))
    config = model_config(path, about, image_token(folder, about, tokenizer))
    dtype = dtype or next(stream_tensors(files))[1].dtype
    with no_init_weights():
        model = InternVLForConditionalGeneration._from_config(config, dtype=dtype)
    blocks = MediaBlocks(sizes).to(dtype)
    _fill(folder, config, {"model": model, "blocks": blocks}, files)
    return CoMemo(model.eval(), blocks.eval(), _settings(sizes, about, positions))


def _settings(
    sizes: BlockSizes, about: Mapping[str, Any], positions: PositionScheme = "dhr_released"
) -> CoMemoConfig:
    """How a config of theirs has images cut and counted."""
    most = int(about.get("max_dynamic_patch", 12)) if about.get("dynamic_image_size", True) else 0
    least = int(about.get("min_dynamic_patch", 1))
    return CoMemoConfig(sizes, positions=positions, min_tiles=least, max_tiles=most)


def _check_blocks(path: Path, sizes: BlockSizes, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """The config's blocks are those of the tensors."""
    found = {int(name.split(".")[3]) for name in shapes if ".gated_cross_attn_layer." in name}
    if found != set(sizes.layers):
        raise ValueError(
            f"{path}: mixin_every_n_layers means blocks before layers {list(sizes.layers)}, the tensors "
            "have them before "
            f"{sorted(found)}: this config belongs to other weights"
        )


def _fill(folder: Path, config: Any, targets: Mapping[str, nn.Module], files: list[Path]) -> None:
    """Copy every stored tensor to its place, one at a time."""
    slots = {
        f"{part}.{name}": value
        for part, module in targets.items()
        for name, value in module.state_dict().items()
    }
    unseen = {name for name in slots if not name.endswith("rotary_emb.inv_freq")}
    for stored, tensor in stream_tensors(files):
        for name, value in ours(stored, tensor, config):
            slot = slots.get(name)
            if slot is None or slot.shape != value.shape:
                what = "is not known" if slot is None else f"should have shape {tuple(slot.shape)}"
                raise ValueError(
                    f"{folder}: {stored} {tuple(value.shape)} {what}: config.json is of another model"
                )
            slot.copy_(value)
            unseen.discard(name)
    if unseen:
        raise ValueError(
            f"{folder}: {len(unseen)} tensors are missing, first {min(unseen)}: copy the files again"
        )


def ours(stored: str, tensor: Tensor, config: Any) -> Iterator[tuple[str, Tensor]]:
    """What a tensor of theirs is here: names that start with "model." or "blocks.", and values."""
    part, _, rest = stored.partition(".")
    if part == "mlp1":
        number, _, kind = rest.partition(".")
        yield f"model.model.multi_modal_projector.{_PROJECTOR.get(number, number)}.{kind}", tensor
    elif part == "vision_model":
        yield from _vision(rest, tensor)
    elif part == "language_model":
        yield from _language(rest, tensor, config.text_config)
    else:
        yield stored, tensor


def _vision(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A tensor of InternViT."""
    place = "model.model.vision_tower."
    if name in _VISION:
        yield place + _VISION[name], tensor
        return
    found = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+?)(?:\.(weight|bias))?", name)
    layer, inner, kind = found.groups() if found else ("", name, None)
    if inner == "attn.qkv":
        for projection, value in zip("qkv", tensor.chunk(3), strict=True):
            yield f"{place}encoder.layer.{layer}.attention.{projection}_proj.{kind}", value
        return
    if inner in ("attn.q_norm", "attn.k_norm"):
        inner_name = inner.replace("attn.", "attention.")
    else:
        inner_name = _VISION_LAYER.get(inner, inner)
    yield f"{place}encoder.layer.{layer}.{inner_name}" + (f".{kind}" if kind else ""), tensor


def _language(name: str, tensor: Tensor, text: Any) -> Iterator[tuple[str, Tensor]]:
    """A tensor of InternLM2, or of a block."""
    place = "model.model.language_model."
    plain = {
        "model.tok_embeddings.weight": place + "embed_tokens.weight",
        "model.norm.weight": place + "norm.weight",
        "output.weight": "model.lm_head.weight",
    }
    if name in plain:
        yield plain[name], tensor
        return
    found = re.fullmatch(r"model\.layers\.(\d+)\.(decoder_layer|gated_cross_attn_layer)\.(.+)", name)
    if found is None:
        yield f"{place}{name}", tensor
        return
    layer, kind, inner = found.groups()
    if kind == "gated_cross_attn_layer":
        yield f"blocks.blocks.{layer}.{_BLOCK.get(inner, inner)}", tensor
    elif inner == "attention.wqkv.weight":
        for projection, value in zip("qkv", split_wqkv(tensor, text), strict=True):
            yield f"{place}layers.{layer}.self_attn.{projection}_proj.weight", value
    else:
        own = inner.removesuffix(".weight")
        yield f"{place}layers.{layer}.{_DECODER.get(own, own)}.weight", tensor


def split_wqkv(fused: Tensor, text: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of InternLM2's matrix: per key head its queries, its key, its value."""
    groups = text.num_key_value_heads
    each = text.num_attention_heads // groups
    width = text.hidden_size // text.num_attention_heads
    if fused.shape[0] != groups * (each + 2) * width:
        raise ValueError(f"wqkv has {fused.shape[0]} rows, the config means {groups * (each + 2) * width}")
    parts = fused.view(groups, each + 2, width, -1)
    queries, keys, values = parts[:, :each], parts[:, each], parts[:, each + 1]
    return queries.flatten(0, 2), keys.flatten(0, 1), values.flatten(0, 1)


def read_tokenizer(folder: str | Path) -> Any:
    """The tokenizer that lies beside a checkpoint, without code of the hub.

    Raises:
        BackboneError: none of its files is there, or it knows no image token.
    """
    from transformers import PreTrainedTokenizerFast

    folder = Path(folder)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise BackboneError(
            f"{folder}: no tokenizer.json, no tokenizer.model: copy the tokenizer's files beside it"
        )
    if not (folder / "tokenizer.json").is_file() and find_spec("sentencepiece") is None:
        raise BackboneError(f"{folder / 'tokenizer.model'} needs the package: pip install sentencepiece")
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise BackboneError(
            f"{folder}: the tokenizer cannot be read ({str(error).splitlines()[0]})"
        ) from error
    if IMAGE_TOKEN not in tokenizer.get_vocab():
        raise BackboneError(f"{folder}: the tokenizer does not know {IMAGE_TOKEN}: not CoMemo's")
    return tokenizer


@dataclass(frozen=True)
class CoMemoFindings:
    """What a CoMemo checkpoint holds.

    Attributes:
        config: as it would be written.
        parameters: of the model, and of its blocks.
        decoder: width and layers.
        refusal: empty; what cannot be converted raises.
    """

    config: CoMemoConfig
    parameters: tuple[int, int]
    decoder: tuple[int, int]
    refusal: str = ""

    def lines(self) -> list[tuple[str, str]]:
        """Labels and values, for printing."""
        sizes = self.config.blocks
        layers = ", ".join(map(str, sizes.layers))
        return [
            ("layout", "CoMemo: image memory by gated cross-attention"),
            (
                "decoder",
                f"width {self.decoder[0]}, {self.decoder[1]} layers, {self.parameters[0] / 1e6:,.1f} M "
                "with ViT",
            ),
            ("blocks", f"before layers {layers}: {self.parameters[1] / 1e6:,.1f} M"),
            ("heads", f"{sizes.heads} of width {sizes.head_dim}, feed-forward {sizes.intermediate}"),
            ("positions", f"{self.config.positions}; decoded tokens: {self.config.decode_positions}"),
        ]


def convert_comemo(
    source: Path, out: Path | None, dtype: torch.dtype | None, **changes: Any
) -> tuple[CoMemoFindings, tuple[str, ...]]:
    """Look into a checkpoint, and write our model folder of it where one is named.

    Args:
        source: of the authors' layout.
        out: new or empty; None only looks.
        dtype: of what is written; None as stored.
        changes: of `CoMemoConfig`: positions, decode_positions.

    Returns:
        What was found, and notes.

    Raises:
        ValueError: as `read_authors`.
    """
    try:
        tokenizer, notes = read_tokenizer(source), list[str]()
    except BackboneError as error:
        tokenizer, notes = None, [f"no tokenizer was written, so the folder cannot chat yet: {error}"]
    comemo = read_authors(source, dtype, tokenizer=tokenizer)
    if tokenizer is not None:
        stop_at_turns(comemo.model, tokenizer)
    comemo = CoMemo(comemo.model, comemo.blocks, replace(comemo.config, **changes))
    text = comemo.model.config.text_config
    counts = tuple(sum(p.numel() for p in part.parameters()) for part in (comemo.model, comemo.blocks))
    found = CoMemoFindings(comemo.config, cast(Any, counts), (text.hidden_size, text.num_hidden_layers))
    if out is not None:
        comemo.save(out, backbone(_NO_SPEC, comemo, tokenizer, "cpu").processor if tokenizer else None)
    return found, tuple(notes)


_NO_SPEC = BackboneSpec("comemo", "", "comemo")


def load(spec: BackboneSpec, dtype: Any, device: Any, trust_remote_code: bool) -> CoMemoBackbone:
    """A model folder of ours, or a checkpoint in the authors' layout; no remote code is ever run.

    Args:
        spec: the row, or a folder's.
        dtype: as of `load_backbone`.
        device: where the model goes.
        trust_remote_code: not needed, and passed over.

    Raises:
        BackboneError: it cannot be reached or read.
    """
    folder = Path(spec.source)
    if not folder.is_dir():
        folder = _from_hub(spec)
    if SECTION in read_json(folder / "config.json"):
        return open_folder(replace(spec, source=str(folder)), dtype, device)
    try:
        tokenizer = read_tokenizer(folder)
        comemo = read_authors(folder, None if dtype == "auto" else dtype, tokenizer=tokenizer)
    except BackboneError:
        raise
    except ValueError as error:
        raise BackboneError(str(error)) from error
    stop_at_turns(comemo.model, tokenizer)
    return backbone(spec, comemo, tokenizer, device)


def unloaded(spec: BackboneSpec) -> CoMemoBackbone:
    """As `load`, on the meta device: no weights are read.

    Raises:
        ValueError: as `load`.
    """
    from transformers import AutoConfig, InternVLForConditionalGeneration

    folder = Path(spec.source)
    if not folder.is_dir():
        folder = _from_hub(spec, weights=False)
    about, tokenizer = read_json(folder / "config.json"), read_tokenizer(folder)
    if SECTION in about:
        settings, config = CoMemoConfig.of(about[SECTION]), AutoConfig.from_pretrained(folder)
    else:
        path = folder / "config.json"
        _check_supported(path, about)
        settings = _settings(block_sizes(path, about), about)
        config = model_config(path, about, image_token(folder, about, tokenizer))
    with torch.device("meta"):
        model, blocks = InternVLForConditionalGeneration._from_config(config), MediaBlocks(settings.blocks)
    return backbone(spec, CoMemo(model, blocks, settings), tokenizer, "meta")


def _from_hub(spec: BackboneSpec, weights: bool = True) -> Path:
    """The files of a hub repository, in its cache."""
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "tokenizer.model", *["*.safetensors"] * weights]
    try:
        found = snapshot_download(spec.source, allow_patterns=wanted)
    except (OSError, ValueError) as error:
        raise BackboneError(
            f"{spec.source} cannot be loaded ({str(error).splitlines()[0]}): download it once with "
            f"`hf download {spec.source}`, or give the path of a local folder"
        ) from error
    return Path(found)
