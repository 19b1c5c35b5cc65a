"""The table of backbones: what a row's model can do, as data, and how a name finds its row."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from comem.tables import Table, nearest

#: How retrieved items are put into the context: one user turn per item with its image and passage, or
#: one turn per item with the passage alone (models that take one image or none).
RagFormat = Literal["item_turns", "passage_turns"]

#: The committed model of `comem.toy`, an ordinary model folder.
TOY_FOLDER = Path(__file__).parent.parent / "toy" / "weights" / "backbone"


class BackboneError(ValueError):
    """A backbone that cannot be found, read or used as asked; the message names the remedy."""


@dataclass(frozen=True)
class BackboneSpec:
    """One row: where a model is and what it can do. The code asks the row, never the name.

    Attributes:
        name: the row's key, or a folder's name.
        source: hub repository or local folder.
        family: `model_type` in the model's config.json.
        sees_images: False for a text-only receiver; images are then left out of its conversations.
        several_images: whether a conversation may hold more than one image.
        soft_prefix: whether memory can be put in front of its input embeddings.
        pixel_limits: whether its image processor takes a smallest and largest number of pixels.
        rag_format: how retrieved items enter its context.
        passage_chars: cut passages to this many characters in that context.
        model_class: the transformers Auto class that loads the model.
        processor_class: the transformers Auto class that loads processor or tokenizer.
    """

    name: str
    source: str
    family: str
    sees_images: bool = True
    several_images: bool = True
    soft_prefix: bool = True
    pixel_limits: bool = True
    rag_format: RagFormat = "item_turns"
    passage_chars: int | None = None
    model_class: str = "AutoModelForImageTextToText"
    processor_class: str = "AutoProcessor"


def _rows(*specs: BackboneSpec) -> dict[str, BackboneSpec]:
    return {spec.name: spec for spec in specs}


BACKBONES: Table[BackboneSpec] = Table(
    "backbone",
    _rows(
        BackboneSpec("qwen2_5_vl", "Qwen/Qwen2.5-VL-7B-Instruct", "qwen2_5_vl"),  # the paper's
        BackboneSpec("qwen2_5_vl_3b", "Qwen/Qwen2.5-VL-3B-Instruct", "qwen2_5_vl"),
        BackboneSpec("qwen2_5_vl_7b", "Qwen/Qwen2.5-VL-7B-Instruct", "qwen2_5_vl"),
        BackboneSpec("qwen2_5_vl_32b", "Qwen/Qwen2.5-VL-32B-Instruct", "qwen2_5_vl"),
        BackboneSpec("qwen2_5_vl_72b", "Qwen/Qwen2.5-VL-72B-Instruct", "qwen2_5_vl"),
        BackboneSpec("qwen2_vl", "Qwen/Qwen2-VL-7B-Instruct", "qwen2_vl"),  # the paper's
        BackboneSpec("qwen2_vl_2b", "Qwen/Qwen2-VL-2B-Instruct", "qwen2_vl"),
        BackboneSpec("qwen2_vl_7b", "Qwen/Qwen2-VL-7B-Instruct", "qwen2_vl"),
        BackboneSpec("qwen2_vl_72b", "Qwen/Qwen2-VL-72B-Instruct", "qwen2_vl"),
        BackboneSpec("toy", str(TOY_FOLDER), "qwen2_5_vl"),  # embedded: needs no download
    ),
)


def resolve_backbone(name_or_path: str | Path) -> BackboneSpec:
    """The row for a name of the table, a local model folder, or a hub repository that a row names.

    A folder takes the abilities of the first row with the same `model_type`.

    Raises:
        UnknownNameError: the name is in no row and is no folder.
        BackboneError: the folder has no readable config.json, or holds a family without a row.
    """
    name = str(name_or_path)
    if name in BACKBONES:
        return BACKBONES[name]
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _spec_of_family(folder.resolve().name, str(folder), _model_type(folder))
    for spec in BACKBONES.values():
        if spec.source == name:
            return spec
    if folder.is_absolute() or name.startswith((".", "~")):
        known = ", ".join(BACKBONES)
        raise BackboneError(f"{name}: no such model folder; give one with config.json, or one of {known}")
    return BACKBONES[name]  # raises, with the nearest names


def _model_type(folder: Path) -> str:
    path = folder / "config.json"
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BackboneError(f"{folder}: no config.json, so not a model folder") from error
    except (OSError, ValueError) as error:
        raise BackboneError(f"{path}: cannot be read ({error}); copy the model folder again") from error
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(model_type, str):
        raise BackboneError(f"{path}: names no model_type, so not the config of a transformers model")
    return model_type


def _spec_of_family(name: str, source: str, family: str) -> BackboneSpec:
    for spec in BACKBONES.values():
        if spec.family == family:
            return replace(spec, name=name, source=source)
    families = sorted({spec.family for spec in BACKBONES.values()})
    raise BackboneError(f"{source}: model_type {family!r} has no backbone row; {nearest(family, families)}")

