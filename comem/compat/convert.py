"""From a checkpoint of the authors' to an encoder folder of ours, and the reader beside it where wanted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor

from comem.backbones.hf import HFBackbone, load_backbone
from comem.compat.adapter import load_authors_adapter
from comem.compat.checkpoint import CompatOptions, load_authors_checkpoint
from comem.compat.inspect import Findings
from comem.io.files import new_folder
from comem.memory.items import KnowledgeFormat
from comem.memory.qformer_encoder import QFormerEncoder


@dataclass(frozen=True)
class ConvertSettings:
    """How a checkpoint is converted.

    Attributes:
        base: the model that was trained: a row of BACKBONES, a hub id or a folder.
        question_vision: whose vision tower the reader gets, see `CompatOptions`.
        dtype: of what is written; "auto" as stored.
        fold: fold the LoRA of a raw run folder into the weights, instead of keeping an adapter.
        form: how items are written for the encoder.
    """

    base: str = ""
    question_vision: str = "reader"
    dtype: str = "auto"
    fold: bool = False
    form: KnowledgeFormat = KnowledgeFormat()


def convert_checkpoint(
    source: str | Path, out: str | Path, found: Findings, settings: ConvertSettings,
    reader: str | Path | None = None,
) -> list[str]:  # fmt: skip
    """Write an encoder folder.

    Args:
        source: a folder of the authors' layout A or C.
        out: the encoder folder; new or empty.
        found: what `inspect_checkpoint` says of the source.
        settings: how.
        reader: where the reader of layout A is written, as a model folder; None leaves it out, and the plain
            base answers, as the paper describes.

    Returns:
        Notes for the user.

    Raises:
        ValueError: it cannot be converted, or a folder holds something already.
    """
    if found.refusal:
        raise ValueError(found.refusal)
    for folder in (out, reader):
        if (
            folder is not None
            and Path(folder).exists()
            and (not Path(folder).is_dir() or any(Path(folder).iterdir()))
        ):
            raise ValueError(f"{folder} exists and is not empty; give another folder, or remove it")
    if found.layout == "C":
        return _run_folder(Path(source), Path(out), settings, reader)
    return _merged(Path(source), Path(out), settings, reader)


def _run_folder(source: Path, out: Path, settings: ConvertSettings, reader: Any) -> list[str]:
    """Layout C: an adapter beside its base, or folded into it."""
    if not settings.base:
        raise ValueError(f"{source} is a raw run folder: name the model that was trained (--base)")
    if reader is not None:
        raise ValueError("a raw run folder has no reader's weights to write: the base is the reader")
    backbone = load_backbone(settings.base, dtype=settings.dtype)
    encoder, info = load_authors_adapter(source, backbone.model, backbone.processor, settings.form)
    (encoder.merge() if settings.fold else encoder).save(out)
    return list(info.notes)


def _merged(source: Path, out: Path, settings: ConvertSettings, reader: str | Path | None) -> list[str]:
    """Layout A: the encoder with its own weights; the reader's where wanted."""
    options = CompatOptions(question_vision=settings.question_vision)  # type: ignore[arg-type]
    dtype = None if settings.dtype == "auto" else getattr(torch, settings.dtype)
    model, qformer, own_reader, _ = load_authors_checkpoint(source, options, dtype)
    processor = _processor(source, settings.base)
    QFormerEncoder(model, processor, qformer, None, settings.form).save(out)
    notes = []
    if processor is None:
        notes.append(f"{source} has no processor, and no --base was named: add the base's files to {out}")
    if reader is None:
        notes.append(
            "the reader was not written: the plain base answers (--reader DIR writes the stored one)"
        )
    else:
        with new_folder(reader) as temporary:
            own_reader.save_pretrained(temporary)
            if processor is not None:
                processor.save_pretrained(temporary)
    return notes


def _processor(source: Path, base: str) -> Any:
    """The processor that lies beside the checkpoint, else the base's, else none."""
    if (source / "preprocessor_config.json").is_file() or (source / "processor_config.json").is_file():
        return AutoProcessor.from_pretrained(source)
    if not base:
        return None
    from comem.backbones.specs import resolve_backbone

    return AutoProcessor.from_pretrained(resolve_backbone(base).source)


def base_weights_of(base: str) -> dict[str, torch.Tensor]:
    """The base's weights by name, as stored, to compare with."""
    backbone: HFBackbone = load_backbone(base, dtype="auto", device="cpu")
    weights: dict[str, torch.Tensor] = backbone.model.state_dict()
    return weights
