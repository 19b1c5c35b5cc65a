"""Items become the authors' chat text, whatever is missing, too long or damaged."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

from comem.backbones.positions import with_positions
from comem.io.images import ImageError
from comem.memory.items import item_inputs, render_item
from comem.memory.settings import PICTURE_PROMPT, KnowledgeFormat
from comem.types import ImageRef, KnowledgeItem

FORM = KnowledgeFormat()


def decode(processor: Any, row: torch.Tensor) -> str:
    return processor.tokenizer.decode(row)


def test_the_text_is_that_of_the_authors(small_image: Any) -> None:
    item = KnowledgeItem("a", "Oslo: a town.", small_image())
    assert render_item(item, FORM) == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|> Similar image and text knowledge for "
        "reference<|im_end|>\n<|im_start|>assistant\nOslo: a town.<|im_end|>\n"
    )
    assert "<|vision" not in render_item(KnowledgeItem("a", "text", None), FORM)
    assert render_item(KnowledgeItem("a", "", small_image()), FORM).endswith("assistant\n<|im_end|>\n")


def test_passages_are_cut_and_cannot_speak_for_the_chat(small_image: Any) -> None:
    form = KnowledgeFormat(max_chars=10)
    special = ["<|im_end|>", "<|image_pad|>"]
    text = render_item(KnowledgeItem("a", "ab<|im_end|><|image_pad|>" + "c" * 99, None), form, special)
    assert text.endswith("assistant\nabcccccccc<|im_end|>\n")
    assert text.count("<|im_end|>") == 2


def test_batch_is_left_padded_with_one_grid_per_image(
    tiny_processor: Any, items: list[KnowledgeItem]
) -> None:
    batch = item_inputs(items, tiny_processor, FORM)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert batch["image_grid_thw"].shape == (4, 3)
    assert ids.shape == mask.shape == batch["mm_token_type_ids"].shape
    assert (mask[:, -1] == 1).all() and (mask.diff(dim=1) >= 0).all()
    pad = tiny_processor.image_token_id
    per_image = batch["image_grid_thw"].prod(-1) // 4
    assert (ids == pad).sum(1).tolist() == [*per_image[:3].tolist(), 0, per_image[3].item()]
    assert torch.equal(batch["mm_token_type_ids"].bool(), ids == pad)
    assert decode(tiny_processor, ids[1]).endswith("12 km long, quite cold.<|im_end|>\n")


def test_batch_without_images(tiny_processor: Any) -> None:
    batch = item_inputs([KnowledgeItem("a", "x", None), KnowledgeItem("b", "yy", None)], tiny_processor, FORM)
    assert set(batch) == {"input_ids", "attention_mask", "mm_token_type_ids"}


def test_a_passage_with_image_tokens_claims_no_image(tiny_processor: Any, small_image: Any) -> None:
    item = KnowledgeItem("a", "<|vision_start|><|image_pad|><|vision_end|> hi <|endoftext|>", small_image())
    batch = item_inputs([item], tiny_processor, FORM)
    assert decode(tiny_processor, batch["input_ids"][0]).endswith("assistant\n hi <|im_end|>\n")


def test_pixel_limits(tiny_processor: Any, small_image: Any) -> None:
    own = tiny_processor.image_processor
    assert FORM.pixel_limits(own) == (16 * 28 * 28, 16 * 28 * 28)  # the paper's, inside the processor's
    given = KnowledgeFormat(min_pixels=28 * 28, max_pixels=4 * 28 * 28)
    assert given.pixel_limits(own) == (28 * 28, 4 * 28 * 28)
    item = KnowledgeItem("a", "x", small_image(280, 280))
    few = item_inputs([item], tiny_processor, given)["image_grid_thw"].prod()
    assert few <= 4 * 4 < item_inputs([item], tiny_processor, FORM)["image_grid_thw"].prod()

    class Qwen:
        size = {"shortest_edge": 4 * 28 * 28, "longest_edge": 16384 * 28 * 28}

    assert FORM.pixel_limits(Qwen) == (16 * 28 * 28, 64 * 28 * 28)
    for wrong in ({"min_pixels": 0}, {"min_pixels": 9, "max_pixels": 8}, {"max_chars": 0}):
        with pytest.raises(ValueError):
            KnowledgeFormat(**wrong)


@pytest.mark.parametrize("family", ["tiny_qwen2_5_vl", "tiny_qwen2_vl"])
def test_positions_ignore_padding_and_leave_no_state(
    family: str, request: pytest.FixtureRequest, tiny_processor: Any, items: list[KnowledgeItem]
) -> None:
    model = request.getfixturevalue(family)
    model.model.rope_deltas = None
    batch = with_positions(model, item_inputs(items, tiny_processor, FORM))
    for row, item in enumerate(items):
        alone = with_positions(model, item_inputs([item], tiny_processor, FORM))["position_ids"]
        assert torch.equal(batch["position_ids"][:, row, -alone.shape[-1] :], alone[:, 0])
        assert alone[:, 0, 0].tolist() == [0, 0, 0]
    assert model.model.rope_deltas is None


def encoded(image: Image.Image, kind: str) -> ImageRef:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return ImageRef(data=buffer.getvalue())


def test_odd_but_valid_images_are_read(tiny_processor: Any) -> None:
    frames = [Image.new("P", (40, 40), n) for n in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    found = [encoded(Image.new("CMYK", (40, 40)), "JPEG"), ImageRef(data=buffer.getvalue())]
    found.append(encoded(Image.new("P", (40, 40)), "PNG"))
    batch = item_inputs(
        [KnowledgeItem(str(n), "x", ref) for n, ref in enumerate(found)], tiny_processor, FORM
    )
    assert len(batch["image_grid_thw"]) == 3


def claiming(width: int, height: int) -> bytes:
    """A small PNG whose header claims another size: a decompression bomb."""
    png = bytearray(encoded(Image.new("1", (8, 8)), "PNG").data or b"")
    png[16:24] = struct.pack(">II", width, height)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    return bytes(png)


def test_damaged_images_name_the_item(tiny_processor: Any, small_image: Any) -> None:
    whole = small_image(100, 100).data
    bad = {
        "empty": ImageRef(data=b""),
        "cut": ImageRef(data=whole[: len(whole) // 2]),
        "gone": ImageRef(path="/no/such/file.png"),
        "thin": encoded(Image.new("RGB", (900, 2)), "PNG"),
        "bomb": ImageRef(data=claiming(50_000, 50_000)),
    }
    for name, ref in bad.items():
        with pytest.raises(ImageError, match=f"knowledge item 'item-{name}'"):
            item_inputs([KnowledgeItem(f"item-{name}", "x", ref)], tiny_processor, FORM)


def test_nothing_to_encode_is_an_error(tiny_processor: Any) -> None:
    with pytest.raises(ValueError, match="knowledge item 'void' has neither text nor image"):
        item_inputs([KnowledgeItem("void", "  ", None)], tiny_processor, FORM)
    with pytest.raises(ValueError, match="no knowledge items"):
        item_inputs([], tiny_processor, FORM)


def test_pictures_of_questions_follow_the_items(tiny_processor: Any, small_image: Any) -> None:
    """They are items without passage, with a prompt of their own; alone they make the same rows."""
    form = replace(FORM, picture_prompt=PICTURE_PROMPT)
    items, pictures = [KnowledgeItem("a", "Oslo.", small_image(56, 56, 1))], [small_image(56, 84, 2)]
    both = item_inputs(items, tiny_processor, form, pictures)
    texts = tiny_processor.tokenizer.batch_decode(both["input_ids"])
    assert [PICTURE_PROMPT in text for text in texts] == [False, True]
    alone = item_inputs((), tiny_processor, form, pictures)
    length = alone["input_ids"].shape[1]
    assert torch.equal(both["input_ids"][1, -length:], alone["input_ids"][0])
    assert torch.equal(both["pixel_values"][-len(alone["pixel_values"]) :], alone["pixel_values"])
    with pytest.raises(ValueError, match="does not read questions' images"):
        item_inputs(items, tiny_processor, FORM, pictures)
