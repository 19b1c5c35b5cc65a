"""From a checkpoint of the authors' to an encoder folder of ours, and the reader beside it where wanted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from comem.backbones.hf import load_backbone
from comem.backbones.specs import load_processor, resolve_backbone
from comem.compat.adapter import load_authors_adapter
from comem.compat.bem import BemFindings, convert_bem, is_bem
from comem.compat.checkpoint import load_authors_checkpoint
from comem.compat.comemo import CoMemoFindings, convert_comemo, is_comemo
from comem.compat.commands import ConvertCheckpointSettings
from comem.compat.inspect import Findings, inspect_checkpoint
from comem.compat.video import VideoFindings, convert_video, is_video
from comem.io.console import print_facts, print_line
from comem.io.files import check_free, new_folder
from comem.memory.qformer_encoder import QFormerEncoder
from comem.memory.settings import KnowledgeFormat


@dataclass(frozen=True)
class ConvertedCheckpoint:
    """What a checkpoint holds, and notes on what was written of it.

    Where `found.refusal` says why it cannot be converted, nothing was written.
    """

    found: Findings | CoMemoFindings | VideoFindings | BemFindings
    notes: tuple[str, ...] = ()


def convert(settings: ConvertCheckpointSettings) -> ConvertedCheckpoint:
    """Look into a checkpoint, and write an encoder folder of it where one is named.

    Example:
        >>> result = convert(ConvertCheckpointSettings(Path("checkpoint-800"), base="qwen2_5_vl_7b"))
        >>> print(result.found.layout, result.found.refusal)

    Raises:
        ValueError: pickled or damaged weights, a folder that holds something already, or no base.
    """
    if is_comemo(settings.source):
        return _comemo(settings)
    if is_video(settings.source):
        return _video(settings)
    if is_bem(settings.source):
        check_free(settings.out)
        return ConvertedCheckpoint(*convert_bem(settings.source, settings.out, settings.base))
    base = load_backbone(settings.base, device="cpu").model.state_dict() if settings.base else None
    found = inspect_checkpoint(settings.source, base)
    if found.refusal or settings.out is None:
        return ConvertedCheckpoint(found)
    del base  # it is read again, or not needed any more
    for folder in (settings.out, settings.reader):
        check_free(folder)
    form = KnowledgeFormat(min_pixels=settings.min_pixels, max_pixels=settings.max_pixels)
    write = _run_folder if found.layout == "C" else _merged
    return ConvertedCheckpoint(found, tuple(write(settings, settings.out, form)))


def _comemo(settings: ConvertCheckpointSettings) -> ConvertedCheckpoint:
    """A CoMemo checkpoint: a model folder that `load_backbone` opens."""
    asked: dict[str, object] = {"--base": settings.base, "--reader": settings.reader, "--fold": settings.fold}
    asked |= {"--min-pixels": settings.min_pixels, "--max-pixels": settings.max_pixels}
    if wrong := [name for name, value in asked.items() if value]:
        raise ValueError(
            f"{settings.source} is a CoMemo checkpoint, whole in itself: leave out {', '.join(wrong)}"
        )
    check_free(settings.out)
    dtype = None if settings.dtype == "auto" else getattr(torch, settings.dtype)
    changes = {"positions": settings.positions, "decode_positions": settings.decode_positions}
    return ConvertedCheckpoint(*convert_comemo(settings.source, settings.out, dtype, **changes))


def _video(settings: ConvertCheckpointSettings) -> ConvertedCheckpoint:
    """A checkpoint of the memory-enhanced video model: a model folder that is its memory's folder, too."""
    if settings.reader is not None or settings.fold:
        raise ValueError(f"{settings.source}: model and memory become one folder: leave out --reader, --fold")
    check_free(settings.out)
    dtype = None if settings.dtype == "auto" else getattr(torch, settings.dtype)
    return ConvertedCheckpoint(*convert_video(settings.source, settings.out, settings.base, dtype))


def _run_folder(settings: ConvertCheckpointSettings, out: Path, form: KnowledgeFormat) -> list[str]:
    """Layout C: an adapter beside its base, or folded into it."""
    if not settings.base:
        raise ValueError(f"{settings.source} is a raw run folder: name the model that was trained (--base)")
    if settings.reader is not None:
        raise ValueError("a raw run folder has no reader's weights to write: the base is the reader")
    backbone = load_backbone(settings.base, dtype=settings.dtype)
    encoder, notes = load_authors_adapter(settings.source, backbone.model, backbone.processor, form)
    (encoder.merge() if settings.fold else encoder).save(out)
    return notes


def _merged(settings: ConvertCheckpointSettings, out: Path, form: KnowledgeFormat) -> list[str]:
    """Layout A: the encoder with its own weights; the reader's where wanted."""
    source, reader = settings.source, settings.reader
    dtype = None if settings.dtype == "auto" else getattr(torch, settings.dtype)
    model, qformer, own_reader = load_authors_checkpoint(source, settings.question_vision, dtype)
    processor = _processor(source, settings.base)
    QFormerEncoder(model, processor, qformer, None, form).save(out)
    notes = []
    if processor is None:
        notes.append(f"{source} has no processor, and no --base was named: add the base's files to {out}")
    if reader is None:
        notes.append("the reader was not written: the plain base answers (--reader DIR writes it)")
        return notes
    with new_folder(reader) as temporary:
        own_reader.save_pretrained(temporary)
        if processor is not None:
            processor.save_pretrained(temporary)
    return notes


def _processor(source: Path, base: str) -> Any:
    """The processor that lies beside the checkpoint, else the base's, else none."""
    if (source / "preprocessor_config.json").is_file() or (source / "processor_config.json").is_file():
        return load_processor(source)
    return load_processor(resolve_backbone(base).source) if base else None


def show_converted(result: ConvertedCheckpoint, settings: ConvertCheckpointSettings) -> None:
    """Print what was found and written.

    Raises:
        ValueError: it cannot be converted; says why, and what to do.
    """
    print_facts(result.found.lines())
    if result.found.refusal:
        raise ValueError(result.found.refusal)
    if settings.out is None:
        return
    reader = [("reader", str(settings.reader))] if settings.reader else []
    print_facts([("written", str(settings.out)), *reader])
    for note in result.notes:
        print_line(f"note: {note}")
