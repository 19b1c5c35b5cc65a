"""Checkpoints of the memory-enhanced video model (Memory-Augmented-VLM): names, sizes, loading.

Their weights carry neither the memory's geometry nor a mark of being incomplete (video_memory.md V11): sizes
are read from the tensors, and a tensor that is missing is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoTokenizer,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedModel,
)
from transformers.initialization import no_init_weights

from comem.io.files import read_json
from comem.memory.bank import stream_tensors, tensor_files, tensor_shapes
from comem.memory.video.encoder import Headers, VideoMemoryEncoder, VideoReader
from comem.memory.video.eye import eye_of
from comem.memory.video.recurrent import VideoMemory, temporal_code
from comem.memory.video.settings import VideoMemorySettings

MARK = "model.recurrent_memory_transformer."
_TABLE = "model.positional_encoding.frame_embed"
_TOWER = "model.vision_tower.vision_tower.vision_model."
#: In order; the first that fits names the tensor in our memory ("memory.") or in transformers' model.
_NAMES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (re.escape(MARK) + r"initial_memory$", "memory.initial"),
        (re.escape(MARK) + r"memory_pos_embed$", "memory.slot_code"),
        (re.escape(MARK) + r"layers\.(\d+)\.memory_segment_fusion_attention\.", r"memory.layers.\1.attend."),
        (re.escape(MARK) + r"layers\.(\d+)\.mlp\.0\.", r"memory.layers.\1.up."),
        (re.escape(MARK) + r"layers\.(\d+)\.residual\.dense\.", r"memory.layers.\1.down."),
        (re.escape(MARK) + r"layers\.(\d+)\.residual\.layernorm\.", r"memory.layers.\1.norm."),
        (re.escape(MARK) + r"memory_update_attention\.", "memory.evolve."),
        (r"model\.memory_fuser\.", "memory.fuser."),
        (r"model\.token_type_embedding\.", "memory.token_types."),
        (re.escape(_TOWER), "model.vision_tower."),
        (r"model\.mm_projector\.0\.", "model.multi_modal_projector.linear_1."),
        (r"model\.mm_projector\.2\.", "model.multi_modal_projector.linear_2."),
        (r"model\.(layers|norm|embed_tokens)\.", r"model.language_model.\1."),
    )
)
_PARTS = {
    "q_proj": "query", "k_proj": "key", "v_proj": "value",
    "residual.dense": "out", "residual.layernorm": "norm",
}  # fmt: skip


def our_name(stored: str) -> str:
    """A tensor's name with us: `memory.…` in `VideoMemory`, else in transformers' model."""
    for pattern, name in _NAMES:
        made, hits = pattern.subn(name, stored, count=1)
        if hits:
            stored = made
            break
    if ".attend." in stored or stored.startswith("memory.evolve."):
        head, _, leaf = stored.rpartition(".")
        owner = next(f"{theirs}" for theirs in _PARTS if head.endswith(theirs))
        stored = f"{head.removesuffix(owner)}{_PARTS[owner]}.{leaf}"
    return stored


def is_video(folder: str | Path) -> bool:
    """Whether a folder holds the authors' video model, by the names of its tensors."""
    folder = Path(folder)
    names = ("model.safetensors", "model.safetensors.index.json")
    if not any((folder / name).is_file() for name in names):
        return False
    return f"{MARK}initial_memory" in tensor_shapes(tensor_files(folder))


def memory_settings(
    shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]
) -> tuple[VideoMemorySettings, int, tuple[int, int]]:
    """Sizes, width and grid of the memory in a checkpoint.

    Args:
        shapes: of all stored tensors.
        given: what a config says of what no shape shows (heads, segment, cache); else the authors' values.
    """
    slots, patches, width = shapes[f"{MARK}initial_memory"]
    side = round(patches**0.5)
    if side * side != patches:
        raise ValueError(f"{MARK}initial_memory has {patches} patches: not a square")
    layers = {name.split(".")[3] for name in shapes if name.startswith(f"{MARK}layers.")}
    inner = shapes[f"{MARK}layers.0.mlp.0.weight"][0]
    own = {name: given[name] for name in ("heads", "segment", "cache") if name in given}
    settings = VideoMemorySettings(slots=slots, layers=len(layers), ff_mult=inner // width, **own)
    return settings, width, (side, side)


def model_config(raw: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Any:
    """transformers' config of the model under the memory.

    Args:
        raw: config.json, the authors' or the short form of the golden folders ("text", "vision").
        shapes: of all stored tensors.
    """
    short = "text" in raw
    text = dict(raw["text"]) if short else {k: raw[k] for k in _TEXT if k in raw}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": text.pop("rope_theta", 1000000.0)}
    text |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None} if short else {}
    vision = dict(raw["vision"]) if short else dict(_SIGLIP)
    vision["num_hidden_layers"] = len(
        {
            name.removeprefix(_TOWER).split(".")[2]
            for name in shapes
            if name.startswith(f"{_TOWER}encoder.layers.")
        }
    )
    vision.pop("layers_used", None)
    tied = bool(text.get("tie_word_embeddings", raw.get("tie_word_embeddings", False)))
    return AutoConfig.for_model(
        "llava_onevision",
        text_config={"model_type": "qwen2", **text},
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **vision},
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=tied,
    )


#: SigLIP so400m/14 at 384 pixels, whose sizes stand in no checkpoint of the authors' (video_memory.md 1.2).
_SIGLIP = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16, "image_size": 384,
    "patch_size": 14, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
}  # fmt: skip
_TEXT = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "rope_theta", "max_position_embeddings", "rms_norm_eps", "hidden_act",
    "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id",
)  # fmt: skip


def load_video_checkpoint(
    folder: str | Path, dtype: torch.dtype | None = None
) -> tuple[PreTrainedModel, VideoMemory]:
    """The unmodified LLaVA-OneVision model with the checkpoint's weights, and its memory.

    Args:
        folder: of the authors' layout: config.json and safetensors.
        dtype: None for that of the stored weights.

    Raises:
        ValueError: a tensor is missing, unknown, or has another shape; names it and the remedy.
    """
    folder = Path(folder)
    files = tensor_files(folder)
    shapes = tensor_shapes(files)
    if f"{MARK}initial_memory" not in shapes:
        raise ValueError(f"{folder}: has no {MARK}*: not a checkpoint of the memory-enhanced video model")
    raw = read_json(folder / "config.json")
    settings, width, grid = memory_settings(shapes, raw.get("memory", {}))
    dtype = dtype or next(stream_tensors(files))[1].dtype
    memory = VideoMemory(settings, width, grid).to(dtype)
    with no_init_weights():
        model = AutoModelForImageTextToText.from_config(model_config(raw, shapes), dtype=dtype)
    slots = {**model.state_dict(), **{f"memory.{name}": value for name, value in memory.state_dict().items()}}
    unseen = set(slots)
    with torch.no_grad():
        for stored, tensor in stream_tensors(files):
            if stored == _TABLE:
                _check_table(folder, tensor)
                continue
            slot = slots.get(our_name(stored))
            if slot is None or slot.shape != tensor.shape:
                what = "is not known" if slot is None else f"should have shape {tuple(slot.shape)}"
                raise ValueError(
                    f"{folder}: {stored} {tuple(tensor.shape)} {what}: config.json is of another model"
                )
            slot.copy_(tensor)
            unseen.discard(our_name(stored))
    if model.config.tie_word_embeddings:
        unseen.discard("lm_head.weight")
    unseen = {name for name in unseen if "vision_tower.head." not in name}
    if unseen:
        raise ValueError(
            f"{folder}: {len(unseen)} tensors are missing, first {min(unseen)}: copy the files again, or, "
            "where the checkpoint was saved without its memory, take the one before"
        )
    model.tie_weights()
    return model.eval(), memory.eval()


@dataclass(frozen=True)
class VideoFindings:
    """What a checkpoint of the video model holds.

    Attributes:
        settings: of the memory.
        width: of the reader.
        grid: patches of a frame.
        parameters: of the model, and of the memory.
        refusal: empty; what cannot be converted raises.
    """

    settings: VideoMemorySettings
    width: int
    grid: tuple[int, int]
    parameters: tuple[int, int]
    refusal: str = ""

    def lines(self) -> list[tuple[str, str]]:
        """Labels and values, for printing."""
        sizes = self.settings
        return [
            ("layout", "memory-enhanced video model (Memory-Augmented-VLM)"),
            ("model", f"width {self.width}, {self.parameters[0] / 1e6:,.1f} M"),
            (
                "memory",
                f"{sizes.slots} slots x {self.grid[0]}x{self.grid[1]}, {self.parameters[1] / 1e6:,.1f} M",
            ),
        ]


def convert_video(
    source: Path, out: Path | None, base: str = "", dtype: torch.dtype | None = None
) -> tuple[VideoFindings, tuple[str, ...]]:
    """Read a checkpoint, and write one folder that is a model's and its memory's.

    Args:
        source: of the authors' layout.
        out: None only looks.
        base: whose tokenizer is taken where the checkpoint has none.
        dtype: of what is written; None as stored.
    """
    model, memory = load_video_checkpoint(source, dtype)
    counts = tuple(sum(p.numel() for p in each.parameters()) for each in (model, memory))
    found = VideoFindings(memory.settings, memory.width, memory.grid, (counts[0], counts[1]))
    if out is None:
        return found, ()
    raw, notes = read_json(source / "config.json"), []
    size = model.config.vision_config.image_size
    processor = _processor(Path(base) if base and Path(base).is_dir() else source, size)
    if processor is None:
        notes.append(
            f"{source} has no tokenizer, and no --base folder has one: add a processor's files to {out}"
        )
    ids = raw.get("memory_prompt_ids", _MEMORY_IDS), raw.get("frame_prompt_ids", _FRAMES_IDS)
    eye = eye_of(model, SimpleNamespace(video_processor=video_processor(size)), 0)
    encoder = VideoMemoryEncoder(model, processor, eye, memory, Headers(tuple(ids[0]), tuple(ids[1])))
    encoder.whole = True
    encoder.save(out)
    return found, tuple(notes)


#: The headers as Qwen2's tokenizer writes them (video_memory.md 1.10).
_MEMORY_IDS = (1986, 374, 264, 1550, 11591, 12126, 315, 279, 2766, 25)
_FRAMES_IDS = (9485, 525, 48876, 9124, 14087, 504, 279, 2766, 25)
#: The authors' prompt: ChatML with a system turn (video_memory.md 1).
_CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for part in m['content'] %}"
    "{{ part['text'] if part['type'] == 'text' else '<' + part['type'] + '>' }}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _processor(folder: Path, size: int) -> Any:
    """A processor of a tokenizer's folder, with the authors' pixels and prompt; None without tokenizer."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        return None
    half, square = [0.5, 0.5, 0.5], {"height": size, "width": size}
    marks = {"image_token": "<image>", "video_token": "<video>"}
    tokenizer = AutoTokenizer.from_pretrained(folder, extra_special_tokens=marks)
    images = LlavaOnevisionImageProcessor(size=square, image_mean=half, image_std=half)
    return LlavaOnevisionProcessor(
        images, tokenizer, video_processor(size), chat_template=_CHATML,
        num_image_tokens=(size // 14) ** 2, vision_feature_select_strategy="full",
    )  # fmt: skip


def golden_reader(folder: str | Path) -> VideoReader:
    """A golden folder's model and memory, its headers from config.json.

    The memory in double precision, so that what parity shows is how far the recorded states are from exact:
    in float32 a sum over 15,680 keys differs between processors by more (2e-5 on one, 1e-6 on another).
    """
    raw = read_json(Path(folder) / "config.json")
    model, memory = load_video_checkpoint(folder, torch.float32)
    headers = Headers(tuple(raw["memory_prompt_ids"]), tuple(raw["frame_prompt_ids"]))
    processor = SimpleNamespace(video_processor=video_processor(model.config.vision_config.image_size))
    return VideoReader(model, eye_of(model, processor, 0), memory.double(), headers)


def video_processor(size: int = 384) -> LlavaOnevisionVideoProcessor:
    """The authors' pixels: bicubic to a square, mean and deviation 0.5 (the class's own are CLIP's)."""
    half = [0.5, 0.5, 0.5]
    return LlavaOnevisionVideoProcessor(
        size={"height": size, "width": size}, image_mean=half, image_std=half, do_sample_frames=False
    )


def _check_table(folder: Path, table: torch.Tensor) -> None:
    """The stored temporal code is the sinusoid, which we compute: for any index."""
    ours = temporal_code(torch.arange(len(table)), table.shape[1])
    if not torch.allclose(ours, table.float(), atol=1e-6 if table.dtype == torch.float32 else 1e-2):
        raise ValueError(f"{folder}: {_TABLE} is not the sinusoid of frame numbers: another temporal code")
