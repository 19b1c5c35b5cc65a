"""Folders of a memory encoder: written atomically, read with errors that name the file and the remedy.

Two kinds, told apart by `kind` in comem_encoder.json:

- "adapter": `adapter.safetensors` (LoRA) + `qformer.safetensors`, and which base they belong to.
- "merged": an ordinary model folder of transformers (LoRA folded in) + `qformer.safetensors`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, AutoProcessor

from comem.backbones.specs import TOY_FOLDER
from comem.io.files import new_folder, write_json
from comem.io.jsonl import read_json
from comem.io.tensors import open_tensors, read_tensors, tensor_files, write_tensors
from comem.memory.encoder import MemoryEncoder, hidden_size
from comem.memory.fingerprint import base_digest
from comem.memory.items import KnowledgeFormat
from comem.memory.lora import LoraSettings, add_lora, load_lora_state, lora_layers, lora_state
from comem.memory.qformer import QFormer, QFormerConfig

if TYPE_CHECKING:
    from comem.backbones.hf import HFBackbone

TOY = "toy"
CONFIG = "comem_encoder.json"
QFORMER = "qformer.safetensors"
ADAPTER = "adapter.safetensors"
VERSION = 1


@dataclass(frozen=True)
class EncoderFiles:
    """An encoder folder, read: its description and trained tensors."""

    folder: Path
    about: Mapping[str, Any]
    qformer: dict[str, Tensor]
    lora: dict[str, Tensor]


def save_encoder(encoder: MemoryEncoder, folder: str | Path) -> None:
    """Write a folder as a whole, or leave what was there.

    Raises:
        StorageError: no space is left.
    """
    folder = Path(folder)
    about = describe(encoder, folder)
    with new_folder(folder) as temporary:
        if about["kind"] == "adapter":
            write_tensors(temporary / ADAPTER, lora_state(encoder.model))
        else:
            encoder.model.save_pretrained(temporary)  # type: ignore[operator]
            if encoder.processor is not None:
                encoder.processor.save_pretrained(temporary)
        write_tensors(temporary / QFORMER, encoder.qformer.state_dict())
        write_json(temporary / CONFIG, about)


def describe(encoder: MemoryEncoder, folder: Path) -> dict[str, Any]:
    """What comem_encoder.json says."""
    config: Any = encoder.model.config
    return {
        "format": "comem-encoder",
        "version": VERSION,
        "kind": "merged" if encoder.lora is None else "adapter",
        "base": {
            "name": _reference(getattr(config, "_name_or_path", "") or "", folder),
            "model_type": config.model_type,
            "hidden_size": hidden_size(encoder.model),
            "digest": base_digest(encoder.model),
        },
        "lora": None if encoder.lora is None else asdict(encoder.lora),
        "qformer": asdict(encoder.qformer.config),
        "form": asdict(encoder.form),
        "fingerprint": encoder.fingerprint(),
        "accepts": list(encoder.accepts),
        "elastic": list(encoder.elastic),
    }


def read_folder(folder: str | Path) -> EncoderFiles:
    """Read description and trained tensors; the base is not touched.

    Raises:
        ValueError: not an encoder folder, or an incomplete one; names the file and the remedy.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise ValueError(_not_an_encoder(folder))
    about = read_json(folder / CONFIG)
    if about.get("format") != "comem-encoder" or about.get("kind") not in ("adapter", "merged"):
        raise ValueError(f"{folder / CONFIG}: does not describe a memory encoder; save the encoder again")
    if about["version"] > VERSION:
        raise ValueError(f"{folder / CONFIG}: version {about['version']}, known is {VERSION}: update comem")
    for name in [QFORMER] + [ADAPTER] * (about["kind"] == "adapter"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name}: missing, no memory can be computed: copy or save it again")
    lora = read_tensors(folder / ADAPTER) if about["kind"] == "adapter" else {}
    return EncoderFiles(folder, about, read_tensors(folder / QFORMER), lora)


def load_encoder(folder: str | Path, reader: nn.Module | None = None, processor: Any = None) -> MemoryEncoder:
    """Load an encoder folder.

    Args:
        folder: of either kind.
        reader: for an adapter folder, the base model: it gets the LoRA (off at rest) and is encoder
            and reader in one copy. None loads the base that the folder names. A merged folder has
            weights of its own and leaves the reader alone.
        processor: of the base; None loads it from where the base is.

    Raises:
        ValueError: as `read_folder`; or the base is another one, or of another width.
    """
    files = read_folder(folder)
    if files.about["kind"] == "merged":
        _refuse_cut_weights(files.folder)
        model = AutoModelForImageTextToText.from_pretrained(files.folder, dtype="auto")
        processor = processor or _processor(files.folder)
    else:
        base = _resolve(files)
        model = reader if reader is not None else _base_model(files, base)
        processor = processor or _processor(base)
    check_base(files, model)
    lora = None if files.about["lora"] is None else LoraSettings(**files.about["lora"])
    table = model.get_input_embeddings().weight
    qformer = QFormer(QFormerConfig(**files.about["qformer"])).to(device=table.device, dtype=table.dtype)
    load_qformer_state(qformer, files)
    if lora is not None and not lora_layers(model):
        add_lora(model, lora)
    load_lora_state(model, files.lora, str(files.folder / ADAPTER))
    form = KnowledgeFormat(**files.about["form"])
    accepts, elastic = tuple(files.about["accepts"]), tuple(files.about.get("elastic", ()))
    return MemoryEncoder(model, processor, qformer, lora, form, accepts, elastic).eval()


def load_weights(encoder: MemoryEncoder, folder: str | Path) -> None:
    """Put a folder's trained tensors into an encoder of the same sizes (to resume a training).

    Raises:
        ValueError: as `load_encoder`.
    """
    files = read_folder(folder)
    check_base(files, encoder.model)
    load_qformer_state(encoder.qformer, files)
    load_lora_state(encoder.model, files.lora, str(files.folder / ADAPTER))


def check_base(files: EncoderFiles, model: nn.Module) -> None:
    """Refuse a base model that the folder was not made on."""
    base, path = files.about["base"], files.folder / CONFIG
    if hidden_size(model) != base["hidden_size"]:
        raise ValueError(
            f"{path}: made for a backbone of width {base['hidden_size']}, this one has {hidden_size(model)}: "
            f"load its own base ({base['name'] or 'unnamed'})"
        )
    if base_digest(model) != base["digest"]:
        raise ValueError(
            f"{path}: made on another base model than the one given: load the base that it names "
            f"({base['name'] or 'unnamed'}) or train an encoder on this one"
        )


@torch.no_grad()
def load_qformer_state(qformer: QFormer, files: EncoderFiles) -> None:
    """Copy the Q-Former's tensors, all or none."""
    own, path = qformer.state_dict(), files.folder / QFORMER
    wrong = sorted(set(own) ^ set(files.qformer))
    wrong = wrong or [name for name in own if own[name].shape != files.qformer[name].shape]
    if wrong:
        raise ValueError(
            f"{path}: {len(wrong)} tensors do not fit the sizes in {CONFIG}, first {wrong[0]}: the file is "
            "of another Q-Former or of another width; copy the folder again"
        )
    for name, tensor in files.qformer.items():
        own[name].copy_(tensor)


def _reference(name: str, folder: Path) -> str:
    """A hub id as it is; a local folder relative to the encoder's, so that both can move together."""
    if os.path.isdir(name):
        return os.path.relpath(os.path.realpath(name), os.path.realpath(folder))
    return name


def _resolve(files: EncoderFiles) -> str:
    name = files.about["base"]["name"]
    local = os.path.normpath(files.folder / name) if name else ""
    return local if os.path.isdir(local) else name


def _refuse_cut_weights(folder: str | Path) -> None:
    """Name a weight file that is missing or half-written; transformers' own error names none."""
    for path in tensor_files(folder):
        with open_tensors(path):
            pass


def _base_model(files: EncoderFiles, base: str) -> nn.Module:
    if os.path.isdir(base):
        _refuse_cut_weights(base)
    try:
        return AutoModelForImageTextToText.from_pretrained(base, dtype="auto")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{files.folder / CONFIG}: its base model {base!r} cannot be loaded ({error}): give `reader`"
        ) from error


def _processor(source: str | Path) -> Any:
    """The processor that lies with the model, if one does (an encoder without can read ready batches)."""
    if not str(source):
        return None
    try:
        return AutoProcessor.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ValueError(f"{source}: no processor to be had there ({error}): give `processor`") from error


def _not_an_encoder(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder}: no such folder; check the path"
    if (folder / "model.safetensors").is_file() or (folder / "model.safetensors.index.json").is_file():
        return (
            f"{folder}: has no {CONFIG}: a model without Q-Former (the authors' plain merge drops it) cannot "
            "make memories; their checkpoints with one become encoder folders by comem convert"
        )
    return f"{folder}: has no {CONFIG}: not a memory encoder; make one with `comem train`"


def toy_memory() -> Path:
    """The embedded memory encoder's folder."""
    return TOY_FOLDER.parent / "memory"


def open_encoder(
    name: str | Path, backbone: HFBackbone | None = None, device: str | None = None
) -> MemoryEncoder:
    """An encoder folder, or the embedded one for "toy".

    An adapter that was made on the backbone's own weights shares them: one copy, LoRA on to encode, off
    to read. Anything else brings its own weights.
    """
    folder = toy_memory() if name == TOY else Path(name)
    about = read_folder(folder).about
    adapter = about["kind"] == "adapter"
    if backbone is not None and adapter and about["base"]["digest"] == base_digest(backbone.model):
        return MemoryEncoder.load(folder, reader=backbone.model, processor=backbone.processor)
    target = device or (backbone.device if backbone else "cuda" if torch.cuda.is_available() else "cpu")
    return MemoryEncoder.load(folder).to(target)
