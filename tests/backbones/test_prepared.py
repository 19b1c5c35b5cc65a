"""A prepared model: the same values and gradients, and nothing left on it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from comem.backbones.prepared import Prepared
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
    with Prepared(model, kernels=True):
        assert sum("forward" in vars(norm) for norm in norms(model)) == len(norms(model)) > 5
        after = both()
    for mine, theirs in zip(after, before, strict=True):
        assert mine.dtype == theirs.dtype == dtype
        assert float((mine - theirs).detach().float().norm() / theirs.detach().float().norm()) < close


def test_a_model_with_fused_norms_answers_the_same() -> None:
    model, ids = build_tiny_qwen2_5_vl(), torch.randint(0, 256, (2, 9))
    with torch.no_grad():
        before = model(input_ids=ids).logits
        with Prepared(model, kernels=True):
            torch.testing.assert_close(model(input_ids=ids).logits, before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sides", [(12, 19), (19, 12), (19, 21)])
@pytest.mark.parametrize("bias", [True, False])
def test_aligned_products_are_the_same(sides: tuple[int, int], bias: bool) -> None:
    linear = torch.nn.Linear(*sides, bias=bias)
    model = torch.nn.Sequential(linear, torch.nn.Linear(8, 16))
    x = torch.randn(3, 5, sides[0], requires_grad=True)

    def both() -> list[torch.Tensor]:
        model.zero_grad()
        x.grad = None
        out = linear(x)
        out.square().sum().backward()
        return [out, x.grad, linear.weight.grad.clone()]  # type: ignore[list-item, union-attr]

    before = both()
    with Prepared(model, kernels=True):
        assert ["forward" in vars(layer) for layer in model] == [True, False]  # an aligned one stays
        after = both()
    for mine, theirs in zip(after, before, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
    assert model.state_dict()["0.weight"].shape == (sides[1], sides[0])  # the weights are untouched


def test_lora_on_an_aligned_layer_is_added_to_its_rows() -> None:
    """As the encoder does it in half precision, and as training does it: in place, on a view."""
    from comem.memory.lora import ADAPTER, adapters_on, add_lora, cheaper_order, lora_layers

    model = build_tiny_qwen2_5_vl()
    model.model.visual.blocks[0].mlp.gate_proj = torch.nn.Linear(32, 60)
    add_lora(model.to(torch.bfloat16)).eval()
    layer: Any = lora_layers(model)["model.visual.blocks.0.mlp.gate_proj"]
    torch.nn.init.normal_(layer.lora_B[ADAPTER].weight)
    x = torch.randn(7, 32, dtype=torch.bfloat16)
    with adapters_on(model):
        before = layer(x).float().detach()
        prepared = Prepared(layer, kernels=True)
        close = 2e-2 * float(before.abs().max())
        with prepared:
            assert sum("forward" in vars(module) for module in layer.modules()) == 2  # and LoRA's own B
            assert float((layer(x).float().detach() - before).abs().max()) < close
            with torch.no_grad(), cheaper_order(model, 7):
                assert float((layer(x).float() - before).abs().max()) < close


def test_nothing_changes_on_a_cpu() -> None:
    model = build_tiny_qwen2_5_vl()
    with Prepared(model):
        assert not any("forward" in vars(module) for module in model.modules())


def test_nothing_is_left_whoever_closes_last_and_after_an_error() -> None:
    model = build_tiny_qwen2_5_vl()
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    first, second = Prepared(model, kernels=True), Prepared(model, kernels=True)
    first.__enter__()
    with pytest.raises(RuntimeError, match="inside"), second:
        first.__exit__(None, None, None)
        assert second.active and "forward" in vars(norms(model)[0])  # one is still open
        assert model.config.text_config._attn_implementation != "sdpa"
        raise RuntimeError("inside")
    assert not first.active and model.config.text_config._attn_implementation == "sdpa"
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    with second:  # and again
        assert "forward" in vars(norms(model)[0])


def test_a_modules_own_forward_stays() -> None:
    """Liger sets its kernels so."""
    model = build_tiny_qwen2_5_vl()
    norm = norms(model)[0]
    norm.forward = own = norm.forward
    with Prepared(model, kernels=True):
        assert norm.forward is own
    assert norm.forward is own
