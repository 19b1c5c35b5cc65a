"""What a model that no row declares can do, looked up in the model and its processor when it is loaded.

`comem.memory.probe` asks the model itself, by numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from comem.backbones.base import ChatProcessor
from comem.backbones.positions import fresh_positions, keeps_state
from comem.backbones.specs import IMAGE_PASSAGE, PASSAGES, BackboneSpec, takes_pixels
from comem.types import ImageRef, Message

_SIDES = (84, 56)
#: Largest difference of logits, relative to the largest logit, that counts as rounding.
ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
_TEXTS = ("How high is it?", "The tower of Oslo is 72 m high. How high is it?")


def sample_image(width: int = _SIDES[0], height: int = _SIDES[1], shade: int = 90) -> ImageRef:
    """An opened image of which no two columns are alike."""
    picture = Image.new("RGB", (width, height))
    picture.putdata(
        [(x * 5 % 256, y * 7 % 256, (shade + x * y) % 256) for y in range(height) for x in range(width)]
    )
    return ImageRef(path="sample", pixels=picture)


def looked_up(spec: BackboneSpec, model: Any, processor: Any) -> BackboneSpec:
    """The row with the abilities that model and processor show.

    Args:
        spec: a row that is not declared.
        model: as loaded; looked at, and called only where padding may spoil an answer.
        processor: its processor or tokenizer.
    """
    images = getattr(processor, "image_processor", None)
    spec = replace(
        spec,
        sees_images=spec.sees_images and images is not None,
        pixel_limits=takes_pixels(images),
        soft_prefix=not model.config.is_encoder_decoder,
        kv_memory=not keeps_state(model),
    )
    spec = replace(spec, alternates=_alternates(spec, processor))
    if not spec.kv_memory:  # padding may have passed through a state, or through positions of their own
        spec = replace(spec, batches=_batches(spec, model, processor))
    if not spec.sees_images:
        return replace(spec, several_images=False, rag=PASSAGES)
    image, other = sample_image(), sample_image(shade=200)
    several = takes(spec, processor, [[Message("user", (image, "x", other))]])
    mixed = takes(spec, processor, [[Message("user", (image, "x"))], [Message("user", ("x",))]])
    rag = IMAGE_PASSAGE if several else PASSAGES
    return replace(spec, several_images=several, mixed_batches=mixed, rag=rag)


def _alternates(spec: BackboneSpec, processor: Any) -> bool:
    """Whether the chat template refuses two user turns in a row, and takes one."""
    chat = ChatProcessor(spec, processor)
    turn = Message("user", ("x",))
    return bool(template_fault(chat, [turn, turn])) and not template_fault(chat, [turn])


def _batches(spec: BackboneSpec, model: Any, processor: Any) -> bool:
    chat = ChatProcessor(spec, processor)
    try:
        return batch_difference(model, chat) <= ROUNDING.get(model.dtype, 1e-3)
    except Exception:
        return True  # it cannot be asked at all: the first question says why


@torch.no_grad()
def batch_difference(model: Any, process: ChatProcessor) -> float:
    """How far the logits of a padded batch are off those of its rows alone, relative to the largest.

    Three tokens are generated: padding may spoil what is kept for later ones alone.
    """
    chats = [[Message("user", (text,))] for text in _TEXTS]
    together = _steps(model, process, chats)
    worst = 0.0
    for row, chat in enumerate(chats):
        for both, alone in zip(together, _steps(model, process, [chat]), strict=False):
            difference = (both[row] - alone[0]).abs().max() / alone[0].abs().max().clamp(min=1e-9)
            worst = max(worst, float(difference))
            if both[row].argmax() != alone[0].argmax():
                break  # from here on they read different tokens
    return worst


def _steps(model: Any, process: ChatProcessor, chats: Sequence[Sequence[Message]]) -> list[Tensor]:
    """Logits `(b, v)` of each new token."""
    inputs = {name: value.to(model.device) for name, value in process(chats).items()}
    with fresh_positions(model):
        found = model.generate(
            **inputs, max_new_tokens=3, do_sample=False, return_dict_in_generate=True, output_logits=True,
            pad_token_id=process.tokenizer.pad_token_id,
        )  # fmt: skip
    return [step.float() for step in found.logits]


def template_fault(chat: ChatProcessor, turns: Sequence[Message]) -> str:
    """Why the chat template does not write these turns; empty if it does."""
    try:
        chat.text(turns)
    except Exception as error:
        return _first_line(error)
    return ""


def takes(spec: BackboneSpec, processor: Any, chats: Sequence[Sequence[Message]]) -> bool:
    """Whether the processor makes one batch of these dialogues."""
    return not process_fault(spec, processor, chats)


def process_fault(spec: BackboneSpec, processor: Any, chats: Sequence[Sequence[Message]]) -> str:
    """Why the processor does not make one batch of these dialogues; empty if it does."""
    try:
        ChatProcessor(replace(spec, several_images=True, mixed_batches=True), processor)(chats)
    except Exception as error:
        return _first_line(error)
    return ""


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
