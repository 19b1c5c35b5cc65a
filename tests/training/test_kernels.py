"""Liger's kernels: called as they want to be, or refused."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import build_tiny_qwen2_5_vl

from comem.backbones.specs import BackboneError
from comem.training.kernels import apply_liger


def test_liger_without_package_or_gpu_or_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_tiny_qwen2_5_vl()
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", None)
    with pytest.raises(BackboneError, match="pip install liger-kernel"):
        apply_liger(model)
    monkeypatch.setitem(sys.modules, "liger_kernel", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", SimpleNamespace())
    with pytest.raises(BackboneError, match="no kernels for qwen2_5_vl"):
        apply_liger(model)
    known = SimpleNamespace(apply_liger_kernel_to_qwen2_5_vl=lambda **_: None)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", known)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackboneError, match="needs a CUDA device"):
        apply_liger(model)


def test_liger_is_applied_to_this_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = build_tiny_qwen2_5_vl(), []
    fake = SimpleNamespace(apply_liger_kernel_to_qwen2_5_vl=lambda **given: calls.append(given))
    monkeypatch.setitem(sys.modules, "liger_kernel", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", fake)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    apply_liger(model)
    (given,) = calls
    assert given.pop("model") is model and given and not any(given.values())
