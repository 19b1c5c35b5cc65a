"""From knowledge items to what the encoder reads: chat text, pixels, one left-padded batch.

An item is a two-turn chat without a system turn (authors_code.md 1.2): the user shows the image and
says what it is, the assistant "answers" with the passage. The question is never part of it, so a
memory depends on its item alone.

For Qwen-VL models the text is the authors', mark for mark; for every other model its own chat template
writes the same two turns; some encoders read the item alone (`KnowledgeFormat.style`). A model that sees no
images reads an item's text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from comem.backbones.base import ChatProcessor, special_tokens
from comem.backbones.positions import pinned
from comem.backbones.specs import BackboneSpec
from comem.io.files import harmless, marks
from comem.io.images import ImageError, open_image
from comem.memory.settings import KnowledgeFormat
from comem.types import ImageRef, KnowledgeItem, Message

IMAGE_SLOT = "<|vision_start|><|image_pad|><|vision_end|>"


def render_item(item: KnowledgeItem, form: KnowledgeFormat, special: Iterable[str] = ()) -> str:
    """The chat text of one item.

    Args:
        item: with a text, an image or both.
        form: how items are written.
        special: tokens removed from the passage, which could otherwise end its own turn or claim an image;
            none can form of what is left.

    Raises:
        ValueError: if the item has neither text nor image.
    """
    passage = harmless(item.text, marks(special), "")[: form.max_chars]
    _refuse_empty(item, item.image is not None, passage)
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
        image, `pixel_values` and `image_grid_thw` `(images, 3)`; of other models than Qwen-VL what their
        processor returns.

    Raises:
        ValueError: no items, an item without anything, or an image that cannot be read; names the item.
    """
    if not items and not question_images:
        raise ValueError("no knowledge items to encode")
    shown = [KnowledgeItem("image of the question", "", image) for image in question_images]
    if form.style == "template":
        written = [(item, form) for item in items]
        written += [(item, form.of_question_image()) for item in shown]
        chat = item_writer(processor, form)
        turns = [_turns(item, how, chat.spec) for item, how in written]
        return chat(turns, add_generation_prompt=False)
    special = special_tokens(processor)
    if form.style == "bare":
        return _bare(items, processor, form, special)
    if form.max_tiles or form.max_side:
        raise ValueError("max_tiles, max_side: Qwen-VL's images are limited by min_pixels and max_pixels")
    texts = [render_item(item, form, special) for item in items]
    texts += [render_item(item, form.of_question_image()) for item in shown]
    images = [_pixels(item) for item in (*items, *shown) if item.image is not None]
    limits = form.pixel_limits(processor.image_processor)
    kwargs: dict[str, Any] = {}
    if images and limits:
        low, high = limits
        kwargs = {"images": images, "images_kwargs": {"size": {"shortest_edge": low, "longest_edge": high}}}
    batch = processor(
        text=texts, text_kwargs={"padding": True, "padding_side": "left"}, return_tensors="pt", **kwargs
    )
    inputs = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
    if "mm_token_type_ids" not in inputs:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == processor.image_token_id).int()
    return inputs


def _bare(
    items: Sequence[KnowledgeItem], processor: Any, form: KnowledgeFormat, special: Iterable[str]
) -> dict[str, Tensor]:
    """Items alone behind the mark that every text of the model starts with: `[mark][image][passage]`."""
    sees = getattr(processor, "image_processor", None) is not None
    slot = str(processor.image_token) if sees else ""
    slot = IMAGE_SLOT if slot in IMAGE_SLOT else slot
    mark = first_mark(processor)
    texts, images = [], []
    for item in items:
        passage = harmless(item.text, marks(special), "")
        shown = sees and item.image is not None
        _refuse_empty(item, shown, passage)
        if shown:
            images.append(_pixels(item))
        texts.append(f"{mark}{slot if shown else ''}{passage[: form.max_chars]}")
    kwargs: dict[str, Any] = {"images": images} if images else {}
    limits = form.pixel_limits(processor.image_processor) if images else None
    if limits is not None:
        kwargs["images_kwargs"] = {"size": {"shortest_edge": limits[0], "longest_edge": limits[1]}}
    batch = processor(
        text=texts, padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt", **kwargs
    )
    return {name: value for name, value in batch.items() if isinstance(value, Tensor)}


def first_mark(processor: Any) -> str:
    """The token that a model's texts start with: where attention rests, and no word of the item is.

    Raises:
        ValueError: the tokenizer names none, and there is no chat template that shows one.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    if tokenizer.bos_token:
        return str(tokenizer.bos_token)
    template = getattr(processor, "chat_template", None) or tokenizer.chat_template
    if template:
        chat = [{"role": "user", "content": "a"}]
        text = tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False)
        return str(tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"][:1]))
    if not tokenizer.eos_token:
        raise ValueError("the tokenizer has no mark for a text's start or end, and no chat template")
    return str(tokenizer.eos_token)


def item_writer(processor: Any, form: KnowledgeFormat) -> ChatProcessor:
    """What writes items by the model's own chat template, images within the form's limits.

    Raises:
        BackboneError: the processor knows no such limits.
    """
    images = getattr(processor, "image_processor", None)
    limits = form.pixel_limits(images)
    low, high = limits or (form.min_pixels, form.max_pixels)
    spec = BackboneSpec(
        type(processor).__name__, "", "", sees_images=images is not None, pixel_limits=limits is not None
    )
    return ChatProcessor(spec, processor, low, high, form.max_tiles, form.max_side)


def _turns(item: KnowledgeItem, form: KnowledgeFormat, spec: BackboneSpec) -> list[Message]:
    """An item as a dialogue: the user shows what it is, the assistant answers with the passage."""
    if item.image is None or not spec.sees_images:
        image: tuple[ImageRef, ...] = ()
    else:
        image = (replace(item.image, pixels=_pixels(item)),)
    passage = item.text[: form.max_chars]
    _refuse_empty(item, bool(image), passage)
    asked = Message("user", (*image, form.prompt.strip()))
    return [asked, Message("assistant", (passage,))]


def _refuse_empty(item: KnowledgeItem, shown: bool, passage: str) -> None:
    if shown or passage.strip():
        return
    if item.image is not None:
        raise ValueError(
            f"knowledge item {item.id!r} has an image alone, and the encoder's model sees none: give it a "
            "text, or take an encoder that sees images"
        )
    raise ValueError(f"knowledge item {item.id!r} has neither text nor image: nothing to remember")


def _pixels(item: KnowledgeItem) -> Image.Image:
    try:
        image = open_image(item.image)  # type: ignore[arg-type]
    except ImageError as error:
        raise ImageError(f"knowledge item {item.id!r}: {error}") from error
    return image


def to_device(inputs: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The batch on a device; to a GPU out of pinned memory, so that nobody waits for the copies."""
    return {name: value.to(device, non_blocking=True) for name, value in pinned(inputs, device).items()}
