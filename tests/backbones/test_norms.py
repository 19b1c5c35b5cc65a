"""RMSNorm in one kernel: the same values and gradients as the modules that it replaces."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from comem.backbones.norms import fuse_norms
from tests.conftest import build_tiny_qwen2_5_vl


def norms(model: Any) -> list[Any]:
    return [module for module in model.modules() if type(module).__name__.endswith("RMSNorm")]


@pytest.mark.parametrize("dtype, close", [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_rms_norm_is_the_same_in_one_kernel(dtype: torch.dtype, close: float) -> None:
    model = build_tiny_qwen2_5_vl().to(dtype)
    plain = norms(model)[0]
    with torch.no_grad():
        plain.weight.uniform_(0.5, 2.0)
    x = torch.randn(2, 5, len(plain.weight), dtype=dtype)

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        inputs = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = plain(inputs)
        (out.float() ** 2).sum().backward()
        return out, inputs.grad  # type: ignore[return-value]

    before = both()
    assert fuse_norms(model) == len(norms(model)) > 5
    for mine, theirs in zip(both(), before, strict=True):
        assert mine.dtype == theirs.dtype == dtype
        assert float((mine - theirs).detach().float().norm() / theirs.detach().float().norm()) < close


def test_a_model_with_fused_norms_answers_the_same() -> None:
    model, ids = build_tiny_qwen2_5_vl(), torch.randint(0, 256, (2, 9))
    with torch.no_grad():
        before = model(input_ids=ids).logits
        fuse_norms(model)
        torch.testing.assert_close(model(input_ids=ids).logits, before, atol=1e-5, rtol=1e-5)
