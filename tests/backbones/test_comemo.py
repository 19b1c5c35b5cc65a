"""CoMemo as a backbone: prompts, images on both paths, batches, packed rows, folders, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import comem
from comem.backbones.base import GenerationConfig
from comem.backbones.comemo import CoMemo
from comem.backbones.image_positions import LayoutError
from comem.backbones.prepared import Prepared, Segments
from comem.memory.injection import prefix_for
from comem.types import ImageRef, Message
from tests.backbones.tiny_comemo import tiny_comemo

SHORT = GenerationConfig(max_new_tokens=6)


@pytest.fixture(scope="module")
def backbone() -> Any:
    return tiny_comemo()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[ImageRef]:
    folder, found = tmp_path_factory.mktemp("images"), []
    for number, size in enumerate(((112, 56), (60, 60), (50, 100))):
        picture = Image.effect_noise(size, 90).convert("RGB")
        picture.save(folder / f"{number}.png")
        found.append(ImageRef(str(folder / f"{number}.png")))
    return found


def chat(*content: Any) -> list[Message]:
    return [Message("user", content)]


def logits(comemo: CoMemo, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad(), comemo.attach(inputs) as ready:
        return comemo.model(**ready).logits  # type: ignore[no-any-return]


def test_the_prompt_is_the_authors_form(backbone: Any, images: list[ImageRef]) -> None:
    inputs = backbone.process([chat(images[0], images[1], "What differs?")])
    first, second = 3 * 4, 4  # 2 × 1 tiles and a thumbnail; one tile
    context = "<IMG_CONTEXT>"
    wanted = (
        "<|im_start|>system\nBe brief.<|im_end|><|im_start|>user\n"
        f"Image-1: <img>{context * first}</img>\nImage-2: <img>{context * second}</img>\nWhat differs?"
        "<|im_end|><|im_start|>assistant\n"
    )
    assert inputs["input_ids"][0].tolist() == backbone.process.tokenizer(wanted)["input_ids"]
    assert inputs["image_grids"].tolist() == [[2, 1], [1, 1]]
    assert inputs["image_counts"].tolist() == [2]


def test_a_batch_answers_as_single_conversations_do(backbone: Any, images: list[ImageRef]) -> None:
    chats = [
        chat(images[0], images[2], "What differs?"),
        chat("Who are you?"),
        [*chat(images[1], "A?"), Message("assistant", ("yes",)), *chat("And this?", images[2])],
    ]
    together = [answer.text for answer in backbone.generate(chats, config=SHORT)]
    assert together == [backbone.generate([one], config=SHORT)[0].text for one in chats]
    assert len(set(together)) == 3


def test_batch_logits_are_those_of_single_rows(backbone: Any, images: list[ImageRef]) -> None:
    chats = [chat(images[0], images[2], "What differs?"), chat("Who are you?"), chat(images[1], "A?")]
    batch = backbone.process(chats)
    together = logits(backbone.comemo, batch)
    for row, one in enumerate(chats):
        alone = logits(backbone.comemo, backbone.process([one]))[0]
        assert torch.allclose(together[row, -len(alone) :], alone, atol=2e-5)


def test_text_alone_is_the_base_bitwise(backbone: Any) -> None:
    inputs = backbone.process([chat("Who are you?")])
    with torch.no_grad():
        base = backbone.model(**inputs).logits
    assert torch.equal(logits(backbone.comemo, inputs), base)


def test_with_gates_at_zero_images_are_read_in_the_sequence_alone(images: list[ImageRef]) -> None:
    closed = tiny_comemo(gate=0.0)
    inputs = closed.process([chat(images[0], "A?")])
    context = CoMemo(closed.model, closed.comemo.blocks, closed.comemo.config, image_path="context")
    assert torch.equal(logits(closed.comemo, inputs), logits(context, inputs))
    opened = tiny_comemo()
    assert (logits(opened.comemo, inputs) - logits(closed.comemo, inputs)).abs().max() > 1e-3


def test_positions_count(backbone: Any, images: list[ImageRef]) -> None:
    inputs = backbone.process([chat(images[0], images[2], "A?")])
    found = [logits(backbone.using(positions=how).comemo, inputs) for how in ("dhr", "dhr_released", "plain")]
    assert all((one - two).abs().max() > 1e-3 for one, two in zip(found, [*found[1:], found[0]], strict=True))


def test_decoding_continues_or_jumps(backbone: Any, images: list[ImageRef]) -> None:
    inputs = backbone.process([chat(images[0], "A?")])
    steps = []
    for how in ("continue", "released"):
        comemo = backbone.using(decode_positions=how).comemo
        with torch.no_grad(), comemo.attach(inputs) as ready:
            out = comemo.model.generate(
                **ready, max_new_tokens=3, min_new_tokens=3, do_sample=False, output_logits=True,
                return_dict_in_generate=True, pad_token_id=0,
            )  # fmt: skip
        steps.append(torch.cat(out.logits))
        if how == "continue":  # prefill and decoding are one forward over the whole
            whole = {**inputs, "input_ids": torch.cat([inputs["input_ids"], out.sequences[:, :-1]], dim=1)}
            whole["attention_mask"] = torch.ones_like(whole["input_ids"])
            assert torch.allclose(steps[0], logits(comemo, whole)[0, -3:], atol=1e-5)
    assert torch.allclose(steps[0][0], steps[1][0], atol=1e-6)
    assert not torch.allclose(steps[0][1], steps[1][1], atol=1e-4)


def test_packed_rows_are_the_single_ones(backbone: Any, images: list[ImageRef]) -> None:
    chats = [chat(images[0], "A?"), chat("Who?"), chat(images[1], images[2], "What differs?")]
    samples = [backbone.process([one]) for one in chats]
    comemo = backbone.comemo
    with (
        torch.no_grad(),
        Prepared(comemo.model, packs=True),
        comemo.attach_packed(samples) as (ready, lengths),
    ):
        packed = comemo.model(**ready, segments=Segments.of(lengths), use_cache=False).logits[0]
    for part, sample in zip(packed.split(lengths), samples, strict=True):
        assert torch.allclose(part, logits(comemo, sample)[0], atol=2e-5)


def test_a_soft_prefix_goes_in_front_of_images(backbone: Any, images: list[ImageRef]) -> None:
    memory = torch.randn(4, backbone.hidden_size)
    chats = [chat(images[0], "A?"), chat("Who?")]
    how = {"config": SHORT, "injection": prefix_for(backbone)}
    both = [answer.text for answer in backbone.generate(chats, [memory, None], **how)]
    assert both == [
        backbone.generate([c], [m], **how)[0].text for c, m in zip(chats, [memory, None], strict=True)
    ]
    assert both[0] != backbone.generate(chats[:1], config=SHORT)[0].text


def test_a_saved_folder_opens_and_answers_the_same(
    backbone: Any, images: list[ImageRef], tmp_path: Path
) -> None:
    other = backbone.using(positions="dhr_released", decode_positions="released")
    other.comemo.save(tmp_path / "model", other.processor)
    again = comem.load_backbone(tmp_path / "model")
    assert again.comemo.config == other.comemo.config
    asked = [chat(images[0], images[2], "What differs?")]
    assert again.generate(asked, config=SHORT)[0].text == other.generate(asked, config=SHORT)[0].text
    assert "comemo" not in vars(other.model.config)
    (tmp_path / "model" / "blocks.safetensors").unlink()
    with pytest.raises(ValueError, match=r"blocks\.safetensors"):
        comem.load_backbone(tmp_path / "model")


def test_inputs_that_do_not_fit_are_refused(backbone: Any, images: list[ImageRef]) -> None:
    inputs = backbone.process([chat(images[0], "A?")])
    comemo = backbone.comemo
    for change, message in (
        ({"image_grids": torch.tensor([[2, 2]])}, "placeholders for 20"),
        ({"pixel_values": inputs["pixel_values"][:-1]}, "a thumbnail is missing"),
        ({"image_counts": torch.tensor([2])}, "2 images in the rows"),
        ({"pixel_values": None}, "no pixel_values"),
        ({"input_ids": inputs["input_ids"][:, :-40]}, "was cut"),
    ):
        broken = {**inputs, **change}
        broken["attention_mask"] = torch.ones_like(broken["input_ids"])
        with pytest.raises(LayoutError, match=message), comemo.attach(broken):
            pass


def test_options_are_checked(backbone: Any) -> None:
    for change, message in (
        ({"positions": "dhrr"}, "known: dhr"),
        ({"decode_positions": "jump"}, "known: continue"),
        ({"min_tiles": 5, "max_tiles": 4}, "min_tiles <= max_tiles"),
    ):
        with pytest.raises(ValueError, match=message):
            backbone.using(**change)
