"""Vectors over stretches of an item: their start, invariances, the encoder on them and its folder."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from memory.conftest import tame, trained

from comem.backbones.hf import HFBackbone
from comem.backbones.specs import resolve_backbone
from comem.memory.encoder import ENCODERS, load_encoder
from comem.memory.lora import LoraSettings, lora_layers
from comem.memory.settings import KnowledgeFormat, QFormerSettings
from comem.memory.stretch_encoder import StretchEncoder, lowest_layers
from comem.memory.stretches import StretchConfig, StretchFormer, stretches
from comem.types import KnowledgeItem

CONFIG = StretchConfig(32, num_queries=4, depth=2, heads=4, output_scale=0.5, most=16)


@torch.no_grad()
def lively() -> StretchFormer:
    former = StretchFormer(CONFIG)
    for parameter in former.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    return former


def given(n: int = 2, length: int = 11) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(n, length, 32), torch.randn(n, length, 32), torch.ones(n, length, dtype=torch.bool)


def test_a_fresh_one_writes_the_means_of_the_stretches_embeddings() -> None:
    hidden, embedded, mask = given(1, 10)
    memory = StretchFormer(CONFIG)(hidden, embedded, mask)[0]
    parts = [embedded[0, at] for at in ([0, 1, 2], [3, 4], [5, 6, 7], [8, 9])]  # token t lies in 4t // 10
    means = torch.stack([part.mean(0) for part in parts])
    expected = 0.5 * 32**0.5 * means / means.norm(dim=-1, keepdim=True)
    assert torch.allclose(memory, expected, atol=1e-5)


@pytest.mark.parametrize("count", [1, 3, 4, 7, 16])
def test_stretches_cover_an_item_in_order(count: int) -> None:
    own, end = stretches(torch.ones(1, 13, dtype=torch.bool), count)
    assert own[0].diff().min() >= 0 and own[0, 0] == 0 and own.max() == min(count - 1, 12 * count // 13)
    last = [max(t for t in range(13) if own[0, t] == stretch) for stretch in own[0].tolist()]
    assert end[0].tolist() == [stop - t for t, stop in enumerate(last)]


def test_neither_padding_nor_neighbours_are_seen() -> None:
    former = lively()
    hidden, embedded, mask = given()
    alone = torch.cat([former(hidden[i : i + 1], embedded[i : i + 1], mask[i : i + 1]) for i in range(2)])
    assert torch.allclose(former(hidden, embedded, mask), alone, atol=1e-5)
    for side in ((3, 0), (0, 3)):
        wide = [torch.nn.functional.pad(x, (0, 0, *side), value=1e4) for x in (hidden, embedded)]
        padded = former(*wide, torch.nn.functional.pad(mask, side))
        assert torch.allclose(padded, alone, atol=1e-5)


def test_any_number_of_vectors_by_the_same_weights_and_no_more_than_the_most() -> None:
    former, (hidden, embedded, mask) = lively(), given()
    for count in (1, 5, 16):
        assert former(hidden, embedded, mask, count).shape == (2, count, 32)
    with pytest.raises(ValueError, match="17 vectors an item"):
        former(hidden, embedded, mask, 17)
    with pytest.raises(ValueError, match="not a multiple of heads"):
        StretchConfig(32, heads=9)


@pytest.fixture()
def text_backbone(tiny_qwen2: Any, tiny_processor: Any, tmp_path: Path) -> HFBackbone:
    folder = tmp_path / "model"
    model = tame(copy.deepcopy(tiny_qwen2))
    model.save_pretrained(folder)
    tokenizer = copy.deepcopy(tiny_processor.tokenizer)
    tokenizer._processor_class = None  # nobody's part
    tokenizer.save_pretrained(folder)
    model.config._name_or_path = str(folder)
    return HFBackbone(resolve_backbone(folder), model, tokenizer)


def make(backbone: HFBackbone, **sizes: Any) -> StretchEncoder:
    settings = QFormerSettings(num_queries=4, depth=2, heads=4, ff_mult=2, layers=1, **sizes)
    encoder = ENCODERS["stretches"].build(backbone, lora=LoraSettings(4, 8, 0.0), qformer=settings)
    with torch.no_grad():
        for parameter in encoder.qformer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return trained(encoder).eval()  # type: ignore[return-value]


ITEMS = [KnowledgeItem("a", "The tower of Bryeth is 46 m high.", None), KnowledgeItem("b", "A river.", None)]


def test_reads_with_the_lowest_layers_alone_and_leaves_the_model_as_it_was(text_backbone: HFBackbone) -> None:
    encoder, model = make(text_backbone), text_backbone.model
    assert {name.split(".layers.")[1][0] for name in lora_layers(model)} == {"0"}
    layers, before = model.model.layers, model(torch.tensor([[1, 2, 3]])).logits
    bank = encoder.encode(ITEMS)
    assert model.model.layers is layers and len(layers) == 2 and not layers[0]._forward_pre_hooks
    assert torch.equal(model(torch.tensor([[1, 2, 3]])).logits, before)
    with torch.no_grad():  # what the layers above do is nothing to it
        for parameter in layers[1].parameters():
            parameter.zero_()
    again = encoder.encode(ITEMS)
    assert torch.equal(bank.embeddings, again.embeddings)
    with lowest_layers(model, 1) as seen:
        model.model(torch.tensor([[1, 2, 3]]))
    assert torch.equal(seen[0], model.get_input_embeddings()(torch.tensor([[1, 2, 3]])))


def test_memory_of_an_item_does_not_depend_on_the_batch(text_backbone: HFBackbone) -> None:
    encoder = make(text_backbone)
    with torch.no_grad():
        both = encoder(encoder.inputs(ITEMS))
        alone = torch.cat([encoder(encoder.inputs([item])) for item in ITEMS])
        more = encoder(encoder.inputs(ITEMS), 7)
    assert torch.allclose(both, alone, atol=1e-5) and more.shape == (2, 7, 64)


def test_folder_opens_as_what_it_is(text_backbone: HFBackbone, tmp_path: Path) -> None:
    encoder = make(text_backbone)
    encoder.save(tmp_path / "memory")
    about = json.loads((tmp_path / "memory" / "comem_encoder.json").read_text())
    assert about["encoder"] == "stretches" and about["lora"]["layers"] == 1 == about["qformer"]["layers"]
    opened = load_encoder(tmp_path / "memory")
    assert isinstance(opened, StretchEncoder) and opened.fingerprint() == encoder.fingerprint()
    with torch.no_grad():
        assert torch.allclose(opened(opened.inputs(ITEMS)), encoder(encoder.inputs(ITEMS)), atol=1e-6)


def test_another_number_of_vectors_is_another_encoder(text_backbone: HFBackbone) -> None:
    encoder = make(text_backbone)
    before = encoder.fingerprint()
    encoder.set_vectors(6)
    assert encoder.num_vectors == 6 and encoder.fingerprint() != before
    assert encoder.encode(ITEMS).embeddings.shape == (2, 6, 64)
    encoder.set_vectors(4)
    assert encoder.fingerprint() == before


def test_images_are_read_in_their_place(base_model: Any, tiny_processor: Any, items: Any) -> None:
    config = StretchConfig(64, num_queries=4, depth=1, heads=4)
    form = KnowledgeFormat(style="bare")
    encoder = StretchEncoder.new(base_model, tiny_processor, LoraSettings(4, 8, 0.0), config, form).eval()
    with torch.no_grad():
        both = encoder(encoder.inputs(items))
        alone = torch.cat([encoder(encoder.inputs([item])) for item in items])
    assert torch.allclose(both, alone, atol=1e-4)
    first = encoder.inputs(items[:1])["input_ids"][0].tolist()
    assert tiny_processor.tokenizer.decode(first[:2]) == "<|im_start|><|vision_start|>"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": 9}, "the model has 2"),
        ({"elastic": (2,)}, "not `elastic`"),
        ({"image": True}, "question_picture"),
    ],
)
def test_what_this_kind_cannot_do_is_refused(
    text_backbone: HFBackbone, settings: dict[str, Any], message: str
) -> None:
    form = KnowledgeFormat(picture_prompt="an image" if "image" in settings else None)
    qformer = QFormerSettings(depth=1, heads=4, layers=settings.get("layers", 0))
    with pytest.raises(ValueError, match=message):
        ENCODERS["stretches"].build(
            text_backbone, qformer=qformer, form=form, elastic=settings.get("elastic", ())
        )


def test_the_q_former_reads_with_all_layers(text_backbone: HFBackbone) -> None:
    with pytest.raises(ValueError, match="only encoder=stretches"):
        ENCODERS["qformer"].build(text_backbone, qformer=QFormerSettings(depth=1, heads=4, layers=1))
