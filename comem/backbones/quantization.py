"""A base in 4 bits: NF4 by bitsandbytes, as QLoRA holds its frozen model (Dettmers et al. 2023)."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

from comem.backbones.row import BackboneError

KINDS = ("", "4bit")


def quantization_config(kind: str, dtype: torch.dtype = torch.bfloat16) -> Any:
    """transformers' quantization config, None for none.

    Args:
        kind: "" or "4bit": NF4 with double quantisation, the output layer left as it is.
        dtype: in which the products are computed.

    Raises:
        BackboneError: another kind, or the package is missing.
    """
    if kind not in KINDS:
        raise BackboneError(f"quantization {kind!r}; known: {', '.join(KINDS[1:])}, or empty for none")
    if not kind:
        return None
    if find_spec("bitsandbytes") is None:
        raise BackboneError("quantization=4bit needs the package: pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
