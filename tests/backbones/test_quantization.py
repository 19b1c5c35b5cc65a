"""The 4-bit base: what is asked of bitsandbytes, and who is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from comem.backbones import hf as quantization
from comem.backbones.hf import quantization_config
from comem.backbones.specs import BackboneError


def test_none_is_none_and_others_are_named() -> None:
    assert quantization_config("") is None
    with pytest.raises(BackboneError, match="quantization '8bit'; known: 4bit, or empty"):
        quantization_config("8bit")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    with pytest.raises(BackboneError, match="pip install bitsandbytes"):
        quantization_config("4bit")


def test_nf4_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(quantization, "find_spec", lambda name: SimpleNamespace())
    monkeypatch.setattr("transformers.BitsAndBytesConfig", lambda **options: given.update(options))
    quantization_config("4bit")
    assert given["load_in_4bit"] and given["bnb_4bit_quant_type"] == "nf4"
    assert given["bnb_4bit_compute_dtype"] == torch.bfloat16
