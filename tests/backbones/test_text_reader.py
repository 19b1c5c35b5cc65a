"""A Qwen-VL's language model as a text-only folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from comem.backbones.hf import HFBackbone, load_backbone
from comem.backbones.specs import BACKBONES, BackboneError
from comem.backbones.text_reader import text_config_of, text_reader_of
from comem.types import Message
from tests.backbones.tiny import build


@pytest.mark.parametrize("row", ["qwen2_vl", "qwen2_5_vl"])
def test_text_gets_the_same_logits(row: str, tmp_path: Path) -> None:
    backbone = build(row)
    text_reader_of(backbone, tmp_path)
    reader = load_backbone(tmp_path)
    assert reader.spec.family == "qwen2" and not reader.spec.sees_images
    inputs = backbone.process([[Message("user", ("Who was it?",))]])
    ours = reader.process([[Message("user", ("Who was it?",))]])
    assert torch.equal(inputs["input_ids"], ours["input_ids"])
    with torch.no_grad():
        torch.testing.assert_close(reader.model(**ours).logits, backbone.model(**inputs).logits)


def test_it_is_small_and_its_own(tiny_qwen2_5_vl: Any, tiny_processor: Any, tmp_path: Path) -> None:
    template = tiny_processor.tokenizer.chat_template
    text_reader_of(HFBackbone(BACKBONES["qwen2_5_vl"], tiny_qwen2_5_vl, tiny_processor), tmp_path)
    assert tiny_processor.tokenizer.chat_template == template, "the given processor stays as it was"
    reader = load_backbone(tmp_path)
    language = tiny_qwen2_5_vl.get_decoder().num_parameters() + tiny_qwen2_5_vl.lm_head.weight.numel()
    assert reader.model.num_parameters() == language


def test_another_language_model_is_refused() -> None:
    with pytest.raises(BackboneError, match="language model of a 'llava' is no Qwen2"):
        text_config_of(build("llava_1_5").model.config)
