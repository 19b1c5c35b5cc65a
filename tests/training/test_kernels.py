"""Liger's kernels: called as they want to be, or refused."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import build_tiny_qwen2_5_vl

from comem.backbones.prepared import liger
from comem.backbones.specs import BackboneError


def test_liger_without_package_or_gpu_or_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_tiny_qwen2_5_vl()
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", None)
    with pytest.raises(BackboneError, match="pip install liger-kernel"), liger(model):
        pass
    monkeypatch.setitem(sys.modules, "liger_kernel", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", SimpleNamespace())
    with pytest.raises(BackboneError, match="no kernels for qwen2_5_vl"), liger(model):
        pass
    known = SimpleNamespace(apply_liger_kernel_to_qwen2_5_vl=lambda **_: None)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", known)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackboneError, match="needs a CUDA device"), liger(model):
        pass


def test_liger_is_applied_to_this_model_while_the_context_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = build_tiny_qwen2_5_vl(), []
    norm = next(module for module in model.modules() if type(module).__name__.endswith("RMSNorm"))
    home, name = sys.modules[type(model).__module__], type(norm).__name__

    def patch(model: Any, **given: bool) -> None:
        calls.append(given)
        norm.forward = lambda hidden: hidden
        type(norm).__name__ = "LigerRMSNorm"
        home.Qwen2RMSNorm = None  # type: ignore[attr-defined]

    fake = SimpleNamespace(apply_liger_kernel_to_qwen2_5_vl=patch)
    monkeypatch.setitem(sys.modules, "liger_kernel", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", fake)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    before = vars(home).get("Qwen2RMSNorm")
    with liger(model):
        assert "forward" in vars(norm) and type(norm).__name__ == "LigerRMSNorm"
    assert "forward" not in vars(norm) and type(norm).__name__ == name
    assert vars(home).get("Qwen2RMSNorm") is before
    (given,) = calls
    assert given and not any(given.values())
