"""What a run says of itself before it starts."""

from __future__ import annotations

from comem.training.plan import Plan


def test_the_share_that_is_trained_is_told_as_it_is() -> None:
    """At Qwen2.5-VL-7B 231.7 M of 8,292 M, where the paper says 1.2 % (authors_code.md 1.6)."""
    plan = Plan(
        model="qwen2_5_vl", examples=15_600, items=46_800, steps=975, base_parameters=8_292_166_656,
        reader="", reader_parameters=0, trained_parameters={"LoRA": 51_822_592, "Q-Former": 179_895_296},
        precision="bf16", weight_bytes=0, token_bytes=0,
    )  # fmt: skip
    lines = dict(plan.lines())
    assert lines["trainable"] == "231.72 M = 2.79 % of the model"
    assert lines["reader"].startswith("the model itself")
