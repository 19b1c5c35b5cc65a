"""The table of backbones, how a name finds its row, and how what lies there is loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from comem.io.files import read_json
from comem.io.hub import hub_or_cache
from comem.registry import Registry, nearest


class BackboneError(ValueError):
    """A backbone that cannot be found, read or used as asked; the message names the remedy."""


@dataclass(frozen=True)
class RagFormat:
    """How retrieved items enter a model's context: one user turn each, before the question's.

    Attributes:
        images: whether items show their images; False for models that take one image or none.
        passage_first: passage before image in an item's turn.
        passage_chars: longer passages are cut; None for no limit.
    """

    images: bool = True
    passage_first: bool = False
    passage_chars: int | None = None


# The forms of the authors' scripts (authors_code.md 4)
PASSAGE_IMAGE = RagFormat(passage_first=True)  # Qwen-VL, LLaVA-1.6, InternLM-XComposer
IMAGE_PASSAGE = RagFormat()  # mPLUG-Owl3
PASSAGES = RagFormat(images=False)  # LLaVA-NeXT-LLaMA3, Qwen2.5-Instruct
PASSAGES_500 = RagFormat(images=False, passage_chars=500)  # LLaVA-1.5


@dataclass(frozen=True)
class BackboneSpec:
    """One row: where a model is and what it can do.

    Attributes:
        name: the row's key, or a folder's name.
        source: hub repository or local folder.
        family: `model_type` in the model's config.json.
        sees_images: False for a text-only receiver; images are then left out of its conversations.
        several_images: whether a conversation may hold more than one image.
        soft_prefix: whether memory can be put in front of its input embeddings.
        kv_memory: whether keys and values can be put in front of its layers.
        pixel_limits: whether its image processor takes a smallest and largest number of pixels.
        alternates: whether its chat template wants user and assistant in turn; turns of one role that
            follow each other are then written as one.
        mixed_batches: whether its processor takes rows with and without images in one call.
        batches: whether several rows go in one call; otherwise they go one by one.
        rag: how retrieved items enter its context.
        items: how an encoder on it writes an item: "paper", the authors' text in Qwen-VL's marks, or
            "template", its own chat template.
        model_class: the transformers Auto class that loads the model.
        processor_class: the transformers Auto class that loads processor or tokenizer.
        adapter: module with its own `load`, for models whose code lies in their hub repository.
        marked_by: keys that make a config.json this family's, whatever `model_type` says.
        needs: a package beyond this project's, by its name at the package index.
        declared: False for a row that nobody wrote: what it can do is looked up in the loaded model.
    """

    name: str
    source: str
    family: str
    sees_images: bool = True
    several_images: bool = True
    soft_prefix: bool = True
    kv_memory: bool = True
    pixel_limits: bool = False
    alternates: bool = False
    mixed_batches: bool = True
    batches: bool = True
    rag: RagFormat = RagFormat()
    items: Literal["paper", "template"] = "template"
    model_class: str = "AutoModelForImageTextToText"
    processor_class: str = "AutoProcessor"
    adapter: str = ""
    needs: str = ""
    marked_by: tuple[str, ...] = ()
    declared: bool = True


#: The committed model of `comem.toy`, an ordinary model folder.
TOY_FOLDER = Path(__file__).parent.parent / "toy" / "weights" / "backbone"

_qwen_vl = partial(BackboneSpec, pixel_limits=True, rag=PASSAGE_IMAGE, items="paper")
_text = partial(
    BackboneSpec, sees_images=False, several_images=False, rag=PASSAGES,
    model_class="AutoModelForCausalLM", processor_class="AutoTokenizer",
)  # fmt: skip
# states instead of keys, or rotary pairs that lie side by side: no keys and values in front
_hybrid = partial(BackboneSpec, kv_memory=False)
_asked = partial(BackboneSpec, declared=False)
_remote = partial(BackboneSpec, soft_prefix=False, kv_memory=False, model_class="AutoModel")

_comemo = partial(
    BackboneSpec,
    family="comemo",
    marked_by=("comemo", "mixin_config"),
    adapter="comem.compat.comemo",
    kv_memory=False,
    rag=IMAGE_PASSAGE,
    needs="sentencepiece",
)

_ROWS = (
    # the paper's
    _qwen_vl("qwen2_5_vl", "Qwen/Qwen2.5-VL-7B-Instruct", "qwen2_5_vl"),
    _qwen_vl("qwen2_5_vl_3b", "Qwen/Qwen2.5-VL-3B-Instruct", "qwen2_5_vl"),
    _qwen_vl("qwen2_5_vl_7b", "Qwen/Qwen2.5-VL-7B-Instruct", "qwen2_5_vl"),
    _qwen_vl("qwen2_5_vl_32b", "Qwen/Qwen2.5-VL-32B-Instruct", "qwen2_5_vl"),
    _qwen_vl("qwen2_5_vl_72b", "Qwen/Qwen2.5-VL-72B-Instruct", "qwen2_5_vl"),
    _qwen_vl("qwen2_vl", "Qwen/Qwen2-VL-7B-Instruct", "qwen2_vl"),
    _qwen_vl("qwen2_vl_2b", "Qwen/Qwen2-VL-2B-Instruct", "qwen2_vl"),
    _qwen_vl("qwen2_vl_7b", "Qwen/Qwen2-VL-7B-Instruct", "qwen2_vl"),
    _qwen_vl("qwen2_vl_72b", "Qwen/Qwen2-VL-72B-Instruct", "qwen2_vl"),
    _text("qwen2_5", "Qwen/Qwen2.5-7B-Instruct", "qwen2"),
    _text("qwen2_5_3b", "Qwen/Qwen2.5-3B-Instruct", "qwen2"),
    _text("qwen2_5_7b", "Qwen/Qwen2.5-7B-Instruct", "qwen2"),
    _text("qwen2_5_14b", "Qwen/Qwen2.5-14B-Instruct", "qwen2"),
    _text("qwen2_5_32b", "Qwen/Qwen2.5-32B-Instruct", "qwen2"),
    _text("qwen2_5_72b", "Qwen/Qwen2.5-72B-Instruct", "qwen2"),
    BackboneSpec("llava_1_5", "llava-hf/llava-1.5-7b-hf", "llava", several_images=False, rag=PASSAGES_500),
    BackboneSpec(
        "llava_1_6", "llava-hf/llava-v1.6-mistral-7b-hf", "llava_next", alternates=True, rag=PASSAGE_IMAGE
    ),
    BackboneSpec("llava_1_6_vicuna", "llava-hf/llava-v1.6-vicuna-7b-hf", "llava_next", rag=PASSAGE_IMAGE),
    BackboneSpec(
        "llava_next_llama3", "llava-hf/llama3-llava-next-8b-hf", "llava_next",
        several_images=False, rag=PASSAGES,
    ),
    _remote(
        "mplug_owl3", "mPLUG/mPLUG-Owl3-7B-240728", "mplugowl3", adapter="comem.backbones.mplug_owl3",
        rag=IMAGE_PASSAGE,
    ),
    _remote(
        "internlm_xcomposer2_5", "internlm/internlm-xcomposer2d5-7b", "internlm2",
        adapter="comem.backbones.internlm_xcomposer", rag=PASSAGE_IMAGE,
    ),
    # beyond the paper
    _qwen_vl("qwen3_vl", "Qwen/Qwen3-VL-8B-Instruct", "qwen3_vl"),
    BackboneSpec("llava_onevision", "llava-hf/llava-onevision-qwen2-7b-ov-hf", "llava_onevision"),
    BackboneSpec(
        "llama_3_2_vision", "meta-llama/Llama-3.2-11B-Vision-Instruct", "mllama",
        several_images=False, mixed_batches=False, rag=PASSAGES,
    ),
    BackboneSpec("internvl3", "OpenGVLab/InternVL3-8B-hf", "internvl"),
    BackboneSpec("gemma3", "google/gemma-3-4b-it", "gemma3", alternates=True),
    BackboneSpec("smolvlm", "HuggingFaceTB/SmolVLM2-2.2B-Instruct", "smolvlm", needs="num2words"),
    BackboneSpec("idefics3", "HuggingFaceM4/Idefics3-8B-Llama3", "idefics3"),
    BackboneSpec("pixtral", "mistral-community/pixtral-12b", "llava", alternates=True),
    BackboneSpec(
        "mistral_small_3", "mistralai/Mistral-Small-3.1-24B-Instruct-2503", "mistral3", alternates=True
    ),
    # images on a second path, too (docs/comemo.md)
    _comemo("comemo_2b", "CLLBJ16/CoMemo-2B"),
    _comemo("comemo_9b", "CLLBJ16/CoMemo-9B"),
    _qwen_vl("qwen3_vl_moe", "Qwen/Qwen3-VL-30B-A3B-Instruct", "qwen3_vl_moe"),
    _hybrid("qwen3_5", "Qwen/Qwen3.5-27B", "qwen3_5", pixel_limits=True),
    _hybrid("qwen3_5_moe", "Qwen/Qwen3.5-35B-A3B", "qwen3_5_moe", pixel_limits=True),
    _hybrid("lfm2_vl", "LiquidAI/LFM2-VL-1.6B", "lfm2_vl"),
    _hybrid("glm4v", "zai-org/GLM-4.1V-9B-Thinking", "glm4v", pixel_limits=True),
    _hybrid("glm46v", "zai-org/GLM-4.6V-Flash", "glm46v", pixel_limits=True),
    _hybrid("aya_vision", "CohereForAI/aya-vision-8b", "aya_vision"),
    BackboneSpec("internvl3_5", "OpenGVLab/InternVL3_5-8B-HF", "internvl"),
    BackboneSpec("perception_lm", "facebook/Perception-LM-1B", "perception_lm", needs="timm"),
    BackboneSpec("ovis2", "thisisiron/Ovis2-1B-hf", "ovis2"),
    BackboneSpec("vipllava", "llava-hf/vip-llava-7b-hf", "vipllava"),
    BackboneSpec("lighton_ocr", "lightonai/LightOnOCR-1B-1025", "lighton_ocr"),
    # by name; what they can do is looked up in the loaded model
    _asked("gemma3n", "google/gemma-3n-E4B-it", "gemma3n"),
    _asked("gemma4", "google/gemma-4-e2b-it", "gemma4"),
    _asked("lfm3_vl", "LiquidAI/LFM3-VL-2B", "lfm3_vl"),
    _asked("minicpmv4_6", "openbmb/MiniCPM-V-4.6", "minicpmv4_6"),
    _asked("minicpmv4_7", "openbmb/MiniCPM-V-4.7-1B", "minicpmv4_7"),
    _asked("kimi_k25", "moonshotai/Kimi-K2.6", "kimi_k25"),
    _asked("molmo2", "allenai/Molmo2-8B", "molmo2"),
    _asked("fast_vlm", "KamilaMila/FastVLM-7B", "fast_vlm"),
    _asked("llama4", "meta-llama/Llama-4-Scout-17B-16E-Instruct", "llama4"),
    _asked("mistral4", "mistralai/Mistral-Small-4-119B-2603", "mistral4"),
    _asked("granite4_vision", "ibm-granite/granite-4.0-3b-vision", "granite4_vision"),
    _asked("exaone4_5", "LGAI-EXAONE/EXAONE-4.5-33B", "exaone4_5"),
    _asked("ernie4_5_vl", "baidu/ERNIE-4.5-VL-28B-A3B-PT", "ernie4_5_vl_moe"),
    # embedded: needs no download
    BackboneSpec("toy", str(TOY_FOLDER), "qwen2_5_vl", pixel_limits=True, rag=IMAGE_PASSAGE, items="paper"),
)  # fmt: skip

BACKBONES: Registry[BackboneSpec] = Registry("backbone", {row.name: row for row in _ROWS})


def resolve_backbone(name_or_path: str | Path) -> BackboneSpec:
    """The row for a name of the table, a local model folder, or a hub repository that a row names.

    A folder or repository takes the abilities of a row with the same `model_type`: the one whose
    repository's name is part of the path (LLaVA-1.6 and LLaVA-NeXT-LLaMA3 share a type), else the first.
    They are looked up all the same where its language model is one that the row was never tried with.
    Any other family that transformers' Auto classes load gets a row whose abilities are found by looking at
    the model once it is loaded (`comem.backbones.probe`).

    Raises:
        UnknownNameError: the name is in no row and is no folder.
        BackboneError: there is no readable config.json, or it names a family that transformers loads neither
            as image-text model nor as causal language model.
    """
    name = str(name_or_path)
    if name in BACKBONES:
        return BACKBONES[name]
    folder = Path(os.path.expanduser(name))
    if os.path.isdir(folder):
        return _spec_of_family(folder.resolve().name, str(folder), _read_config(folder))
    if folder.suffix == ".gguf" and folder.is_file():
        raise BackboneError(f"{folder}: {_GGUF}")
    for spec in BACKBONES.values():
        if spec.source == name:
            return spec
    if folder.is_absolute() or name.startswith((".", "~")):
        known = ", ".join(BACKBONES)
        raise BackboneError(f"{name}: no such model folder; give one with config.json, or one of {known}")
    if name.count("/") == 1 and (config := _hub_config(name)) is not None:
        return _spec_of_family(name.rpartition("/")[2], name, config)
    return BACKBONES[name]  # raises, with the nearest names


def _hub_config(name: str) -> dict[str, Any] | None:
    """A repository's config.json, from the cache or the hub; None if there is none to be had."""
    from transformers import PreTrainedConfig

    try:
        with hub_or_cache(name):
            return PreTrainedConfig.get_config_dict(name)[0] or None
    except (OSError, ValueError):
        return None


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if any(folder.glob("*.gguf")):
            raise BackboneError(f"{folder}: {_GGUF}") from error
        raise BackboneError(f"{folder}: no config.json, so not a model folder") from error
    except (OSError, ValueError) as error:
        raise BackboneError(f"{path}: cannot be read ({error}); copy the model folder again") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise BackboneError(f"{path}: names no model_type, so not the config of a transformers model")
    return config


_GGUF = (
    "holds GGUF weights only; make an ordinary model folder of them: pip install gguf, then transformers' "
    "from_pretrained(folder, gguf_file=NAME), and save_pretrained of model and tokenizer"
)


def _spec_of_family(name: str, source: str, config: Mapping[str, Any]) -> BackboneSpec:
    family = str(config.get("model_type"))
    rows = [spec for spec in BACKBONES.values() if any(mark in config for mark in spec.marked_by)]
    rows = rows or [spec for spec in BACKBONES.values() if spec.family == family]
    if not rows:
        return _undeclared(name, source, family, config.get("architectures") or ())
    path = str(Path(source).resolve()).lower() if Path(source).is_dir() else source.lower()
    named = (spec for spec in rows if spec.source.rpartition("/")[2].lower() in path)
    row = replace(next(named, rows[0]), name=name, source=source)
    text = config.get("text_config")
    reads = str(text.get("model_type") or "") if isinstance(text, Mapping) else ""
    known = not reads or reads in _READS or reads.startswith(family)
    return row if known or row.adapter or not row.kv_memory else replace(row, declared=False)


#: Language models that the declared rows' families were tried with; with another one a family is asked.
_READS = ("llama", "mistral", "qwen2", "qwen3")


def auto_class(family: str, architectures: Sequence[str] = ()) -> str | None:
    """Which of transformers' Auto classes loads a family with all that it sees; None: neither.

    Args:
        family: a config's `model_type`.
        architectures: of the config: a checkpoint of a family that is in both mappings may be text alone.
    """
    from transformers.models.auto import modeling_auto as auto

    sees = auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(family)
    reads = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(family)
    if reads and (not sees or (reads != sees and reads in architectures)):
        return "AutoModelForCausalLM"
    return "AutoModelForImageTextToText" if sees else None


def _undeclared(name: str, source: str, family: str, architectures: Sequence[str]) -> BackboneSpec:
    """A row for a family that the table does not know."""
    loads = auto_class(family, architectures)
    if loads is None:
        families = sorted({spec.family for spec in BACKBONES.values()})
        raise BackboneError(
            f"{source}: model_type {family!r} is neither an image-text model nor a causal language model of "
            f"this transformers version; {nearest(family, families)}"
        )
    make = _text if loads == "AutoModelForCausalLM" else BackboneSpec
    return make(name, source, family, declared=False)


#: What image processors call the most tiles that they cut an image into.
_TILES = ("max_patches", "max_tiles", "max_num_tiles")


def takes_pixels(images: Any) -> bool:
    """Whether an image processor's size is a range of pixels (Qwen-VL's kind)."""
    size = getattr(images, "size", None) or {}
    return _edge(size, "shortest_edge") is not None and _edge(size, "longest_edge") is not None


def resizes_by_side(images: Any) -> bool:
    """Whether an image processor brings the longer side to a length (Idefics3's kind, Pixtral)."""
    size = getattr(images, "size", None) or {}
    return _edge(size, "longest_edge") is not None and _edge(size, "shortest_edge") is None


def tiles_argument(images: Any) -> str | None:
    """What an image processor calls the most tiles of an image; None for one that cuts none."""
    return next((name for name in _TILES if isinstance(getattr(images, name, None), int)), None)


def _edge(size: Any, name: str) -> int | None:
    return size.get(name) if isinstance(size, Mapping) else getattr(size, name, None)


# Models and processors of transformers, out of folders that strangers have made: the one way to load them.
# Weights are read from safetensors only, whatever else lies there; what is wrong with a folder is an error
# that names it. transformers reads pickles where it finds nothing else, fills missing weights with random
# ones, and raises errors of any kind on files that are not as it expects.

_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_ADAPTER = "adapter_config.json"
ATTENTIONS = ("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention")


def load_model(
    source: str | Path, kind: str, attn: str | None = None, *, needs: str = "", **options: Any
) -> Any:  # fmt: skip
    """A model with all its weights, from safetensors.

    Args:
        source: a folder or a hub repository.
        kind: transformers' class, "AutoModelForImageTextToText".
        attn: "sdpa", "eager", …; None lets transformers choose.
        needs: a package beyond this project's that the model wants.
        options: of `from_pretrained`.

    Raises:
        BackboneError: the weights cannot be reached, are pickled, incomplete, or of another config; an
            attention that is not there; names the remedy.
    """
    import torch
    import transformers

    source = str(source)
    check_attention(attn)
    try:
        with _hub(source):
            refuse_adapter(source)
            _refuse_pickled_shards(source)
            model, info = getattr(transformers, kind).from_pretrained(
                source, attn_implementation=attn, use_safetensors=True, output_loading_info=True, **options
            )
    except (torch.OutOfMemoryError, BackboneError):
        raise
    except Exception as error:  # transformers', of all kinds
        raise BackboneError(_reason(source, error, needs)) from error
    _check_complete(source, info)
    _check_ids(source, model)
    return model


def load_processor(
    source: str | Path, kind: str = "AutoProcessor", *, needs: str = "", **options: Any
) -> Any:  # fmt: skip
    """A processor, or a tokenizer where that is the kind; one without a pad token pads with its end token.

    Args:
        source: a folder or a hub repository.
        kind: transformers' class.
        needs: a package beyond this project's that it wants.
        options: of `from_pretrained`.

    Raises:
        BackboneError: it cannot be reached or read, or knows no text; names the remedy.
    """
    import transformers

    source = str(source)
    try:
        with _hub(source):
            processor = getattr(transformers, kind).from_pretrained(source, **options)
        tokenizer = getattr(processor, "tokenizer", processor)
        known = bool(tokenizer("a b", add_special_tokens=False)["input_ids"])
    except Exception as error:  # transformers', of all kinds
        raise BackboneError(_reason(source, error, needs)) from error
    if not known:
        raise BackboneError(f"{source}: the tokenizer knows no text: tokenizer.json is missing")
    if tokenizer.pad_token_id is None:
        substitute = tokenizer.eos_token or tokenizer.unk_token
        if substitute is None:
            raise BackboneError(
                f"{source}: its tokenizer has neither a pad nor an end token: name a pad_token in"
                " tokenizer_config.json"
            )
        tokenizer.pad_token = substitute
    return processor


def load_model_config(source: str | Path) -> Any:
    """A model's config.

    Args:
        source: a folder or a hub repository.

    Raises:
        BackboneError: it cannot be reached or read; names the remedy.
    """
    import transformers

    try:
        with _hub(source):
            return transformers.AutoConfig.from_pretrained(source)
    except Exception as error:  # transformers', of all kinds
        raise BackboneError(_reason(str(source), error, "")) from error


def check_attention(attn: str | None) -> None:
    """Refuse the name of an attention that transformers does not have; kernels of the hub have a slash.

    Raises:
        BackboneError: names those that there are.
    """
    if attn is None or "/" in attn or attn in ATTENTIONS:
        return
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if attn not in ALL_ATTENTION_FUNCTIONS.valid_keys():
        raise BackboneError(f"attn {attn!r}: give one of {', '.join(ATTENTIONS)}, or leave it out")


def refuse_adapter(source: str) -> None:
    """transformers would apply a PEFT adapter that lies with a model, read from a pickle where it is one.

    Raises:
        BackboneError: one lies there.
    """
    if _file(source, _ADAPTER):
        raise BackboneError(
            f"{source}: a PEFT adapter lies there ({_ADAPTER}), which would change the model: merge it into"
            " its base (peft: merge_and_unload, save_pretrained) and give that folder, or take the file away"
        )


def _refuse_pickled_shards(source: str) -> None:
    """transformers reads the shards that an index names, of whatever kind they are."""
    if (index := _file(source, "model.safetensors.index.json")) is None:
        return
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
    except (AttributeError, KeyError, TypeError) as error:
        raise BackboneError(f"{index}: no index of weights ({error}); copy the model folder again") from error
    odd = [name for name in names if not str(name).endswith(".safetensors")]
    if odd:
        raise BackboneError(
            f"{index}: names {odd[0]!r}, which is no safetensors file; weights are read from no other"
        )


def _file(source: str, name: str) -> Path | None:
    """A file of a model folder or a hub repository; None where it has none of this name."""
    if Path(source).is_dir():
        return path if (path := Path(source) / name).is_file() else None
    from transformers.utils import cached_file

    found = cached_file(
        source, name, _raise_exceptions_for_gated_repo=False, _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_missing_entries=False,
    )  # fmt: skip
    return None if found is None else Path(found)


def _reason(source: str, error: Exception, needs: str) -> str:
    """Why a model is not to be had, and what helps."""
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, ImportError):
        remedy = f": pip install {needs}" if needs else ""
        remedy = ": pip install flash-attn, or take attn=sdpa" if "flash" in said.lower() else remedy
        return f"{source}: a package is missing ({said}){remedy}"
    if Path(source).is_dir():
        names = sorted(path.name for path in Path(source).iterdir())
        pickled = [name for name in names if name.endswith(_PICKLED)]
        if pickled and not any(name.startswith("model") and name.endswith(".safetensors") for name in names):
            return (
                f"{source}: only pickled weights ({pickled[0]}), which can run code when opened and are never"
                " loaded: convert them to model.safetensors where you trust them"
            )
        if _generation_is_at_fault(source):
            return f"{source}: generation_config.json cannot be used ({said}); repair or remove the entry"
        return f"{source}: the model folder is incomplete or damaged ({said}); copy it again"
    return (
        f"{source} cannot be loaded ({said}). Remedies: download it once with `hf download {source}` and set"
        " HF_HOME to the folder that holds its cache; give the path of a local model folder; or use the"
        " embedded model 'toy', which needs no download"
    )


def _check_complete(source: str, info: dict[str, Any]) -> None:
    """transformers fills missing weights with random ones, and goes on."""
    faults = sorted(map(str, [*info["missing_keys"], *info.get("mismatched_keys", ())]))
    if faults:
        raise BackboneError(
            f"{source}: {len(faults)} weights are missing or have another shape, {faults[0]} for one; "
            "the folder is half-written or belongs to another config: copy it again"
        )


def _generation_is_at_fault(source: str) -> bool:
    """Whether a model folder's generation_config.json asks for what transformers itself refuses."""
    from transformers import GenerationConfig

    try:
        GenerationConfig.from_pretrained(source)
    except OSError:  # there is none, or none that is JSON, which transformers passes over
        return False
    except Exception:  # transformers', of all kinds
        return True
    return False


def _check_ids(source: str, model: Any) -> None:
    """transformers looks at its generation config's ids only when it generates."""
    config = getattr(model, "generation_config", None)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        ids = getattr(config, name, None)
        if not all(isinstance(one, int | float) for one in (ids if isinstance(ids, list) else [ids or 0])):
            raise BackboneError(f"{source}: generation_config.json: {name} is {ids!r}, no number; repair it")


def _hub(source: str | Path) -> AbstractContextManager[None]:
    """Nothing for a folder; for a repository, what keeps its clients from trying in vain for minutes."""
    if Path(source).is_dir():
        return nullcontext()
    return hub_or_cache(source)


__all__ = [
    "BACKBONES", "TOY_FOLDER", "BackboneError", "BackboneSpec", "RagFormat", "auto_class", "check_attention",
    "load_model", "load_model_config", "load_processor", "refuse_adapter", "resizes_by_side",
    "resolve_backbone", "takes_pixels", "tiles_argument",
]  # fmt: skip
