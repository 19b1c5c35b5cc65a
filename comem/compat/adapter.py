"""Loads layout C of the authors' checkpoints: a raw run folder of their training (authors_code.md 7.2).

It holds `adapter_model.safetensors` with LoRA tensors of the encoder, often also of the "frozen" reader
(defect C3), and the trained Q-Former, there or in `non_lora_state_dict.safetensors`, made of a pickle
(`comem.compat.inspect.missing_qformer`). The reader here is the clean base: its LoRA is left out, as the
paper describes, and counted in the notes.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from comem.compat.checkpoint import QFORMER_PREFIX, current_name, qformer_config
from comem.compat.inspect import REST, missing_qformer, part_of
from comem.compat.peft_settings import as_ours, read_peft_settings
from comem.memory.bank import read_tensors
from comem.memory.lora import add_lora, load_lora_state
from comem.memory.qformer import QFormer
from comem.memory.qformer_encoder import QFormerEncoder
from comem.memory.settings import KnowledgeFormat

log = logging.getLogger(__name__)


def load_authors_adapter(
    folder: str | Path, model: nn.Module, processor: Any = None,
    form: KnowledgeFormat = KnowledgeFormat(),  # noqa: B008 (frozen)
) -> tuple[QFormerEncoder, list[str]]:  # fmt: skip
    """Load a raw run folder onto its base model, which becomes encoder and reader in one copy.

    Args:
        folder: with adapter_model.safetensors and adapter_config.json.
        model: the base that was trained (Qwen2-VL or Qwen2.5-VL), without LoRA.
        processor: its processor.
        form: how items are written.

    Returns:
        The encoder, and notes for the user.

    Raises:
        ValueError: no Q-Former, weights that ZeRO-3 left out (C4), another base, or settings that are not
            supported here; names the file.
    """
    path = Path(folder) / "adapter_model.safetensors"
    tensors = read_tensors(path)
    if (rest := path.with_name(REST)).is_file():
        tensors |= {name: tensor for name, tensor in read_tensors(rest).items() if QFORMER_PREFIX in name}
    settings = read_peft_settings(Path(folder) / "adapter_config.json")
    lora, qformer, reader_count = _sort(path, tensors)
    lora_settings, lora = as_ours(Path(folder) / "adapter_config.json", settings, lora)
    lora = {current_name(name): tensor for name, tensor in lora.items()}
    config = qformer_config(path, {name: tuple(t.shape) for name, t in qformer.items()}, {})
    table: Any = model.get_input_embeddings().weight  # type: ignore[operator]
    former = QFormer(config).to(device=table.device, dtype=table.dtype)
    former.load_state_dict(qformer)
    add_lora(model, lora_settings)
    with torch.no_grad():
        load_lora_state(model, lora, str(path))
    notes = [f"{reader_count} LoRA tensors of the reader were left out (C3)"] if reader_count else []
    for note in notes:
        log.warning("%s: %s", path, note)
    return QFormerEncoder(model, processor, former, lora_settings, form).eval(), notes


def _sort(path: Path, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """LoRA of the encoder and Q-Former by plain names, and how many of the reader were passed over."""
    parts: dict[str, dict[str, Tensor]] = {"encoder": {}, "qformer": {}, "first": {}, "reader": {}}
    for stored, tensor in tensors.items():
        if tensor.numel() == 0:
            raise ValueError(
                f"{path}: {stored} is empty: ZeRO-3 left the weights out (authors_code.md C4); they are only "
                "in non_lora_state_dict.bin, a pickle: convert that to safetensors where you trust it"
            )
        part, name = part_of(stored)
        parts[part][name] = tensor
    if not parts["qformer"]:
        raise ValueError(f"{path}: {missing_qformer(path.parent)}")
    return parts["encoder"], parts["qformer"], len(parts["reader"])
