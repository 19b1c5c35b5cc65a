"""From knowledge items to what the encoder reads: chat text, pixels, one left-padded batch.

An item is a two-turn chat without a system turn (authors_code.md 1.2): the user shows the image and
says what it is, the assistant "answers" with the passage. The question is never part of it, so a
memory depends on its item alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from comem.backbones.positions import pinned
from comem.io.images import ImageError, open_image
from comem.memory.settings import KnowledgeFormat
from comem.types import ImageRef, KnowledgeItem

IMAGE_SLOT = "<|vision_start|><|image_pad|><|vision_end|>"


def render_item(item: KnowledgeItem, form: KnowledgeFormat, special_tokens: Sequence[str] = ()) -> str:
    """The chat text of one item.

    Args:
        item: with a text, an image or both.
        form: how items are written.
        special_tokens: removed from the passage, which could otherwise end its own turn or claim an image.

    Raises:
        ValueError: if the item has neither text nor image.
    """
    passage = item.text
    for token in special_tokens:
        passage = passage.replace(token, "")
    passage = passage[: form.max_chars]
    if item.image is None and not passage.strip():
        raise ValueError(f"knowledge item {item.id!r} has neither text nor image: nothing to remember")
    image = IMAGE_SLOT if item.image is not None else ""
    return f"<|im_start|>user\n{image}{form.prompt}<|im_end|>\n<|im_start|>assistant\n{passage}<|im_end|>\n"


def item_inputs(
    items: Sequence[KnowledgeItem], processor: Any, form: KnowledgeFormat,
    question_images: Sequence[ImageRef] = (),
) -> dict[str, Tensor]:  # fmt: skip
    """One left-padded batch for the encoder: the items, then the questions' images.

    Args:
        items: at least one, or an image.
        processor: of the encoder's model; expands the image slot to the image's grid.
        form: how items are written.
        question_images: of questions, for a reader that sees none.

    Returns:
        `input_ids`, `attention_mask`, `mm_token_type_ids`, each `(n, l)`, and, if any item has an
        image, `pixel_values` and `image_grid_thw` `(images, 3)`.

    Raises:
        ValueError: no items, an item without anything, or an image that cannot be read; names the item.
    """
    if not items and not question_images:
        raise ValueError("no knowledge items to encode")
    special = _special_tokens(processor.tokenizer)
    shown = [KnowledgeItem("image of the question", "", image) for image in question_images]
    texts = [render_item(item, form, special) for item in items]
    texts += [render_item(item, form.of_question_image()) for item in shown]
    images = [_pixels(item) for item in (*items, *shown) if item.image is not None]
    low, high = form.pixel_limits(processor.image_processor)
    kwargs: dict[str, Any] = {}
    if images:
        kwargs = {"images": images, "images_kwargs": {"size": {"shortest_edge": low, "longest_edge": high}}}
    batch = processor(
        text=texts, text_kwargs={"padding": True, "padding_side": "left"}, return_tensors="pt", **kwargs
    )
    inputs = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
    if "mm_token_type_ids" not in inputs:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == processor.image_token_id).int()
    return inputs


def _special_tokens(tokenizer: Any) -> list[str]:
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted(added | set(tokenizer.all_special_tokens), key=len, reverse=True)


def _pixels(item: KnowledgeItem) -> Image.Image:
    try:
        image = open_image(item.image)  # type: ignore[arg-type]
    except ImageError as error:
        raise ImageError(f"knowledge item {item.id!r}: {error}") from error
    if max(image.size) > 200 * min(image.size):  # the image processor's own limit, which names no item
        raise ImageError(f"knowledge item {item.id!r}: image of {image.size} pixels, sides beyond 200 : 1")
    return image


def to_device(inputs: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The batch on a device; to a GPU out of pinned memory, so that nobody waits for the copies."""
    return {name: value.to(device, non_blocking=True) for name, value in pinned(inputs, device).items()}
