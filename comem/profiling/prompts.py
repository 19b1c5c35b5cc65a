"""Prompts and items of given lengths, as the processor of a Qwen-VL model would hand them over."""

from __future__ import annotations

import io
import math
import statistics
import timeit
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from comem.types import ImageRef, Message

FAMILIES = ("qwen2_5_vl", "qwen2_vl")
_WORDS = 30000  # ids that prompts are made of, at most


@dataclass(frozen=True)
class Lengths:
    """How long everything is, in tokens.

    Attributes:
        item: one knowledge item, its image included.
        question: the question, its image included.
        answer: what is generated.
        item_image, question_image: of the images; square grids. 324 is what the released preprocessing
            makes of 512 × 512 pixels (authors_code.md, section 2).
    """

    item: int = 640
    question: int = 400
    answer: int = 64
    item_image: int = 324
    question_image: int = 256

    @classmethod
    def of(cls, item: int, question: int, answer: int, image: int | None = None) -> Lengths:
        """With images of one size in items and questions, where that is given."""
        images = {} if image is None else {"item_image": image, "question_image": image}
        return cls(item, question, answer, **images)

    def __post_init__(self) -> None:
        for name in ("item", "question"):
            length, image = getattr(self, name), getattr(self, f"{name}_image")
            if image < 1 or math.isqrt(image) ** 2 != image:
                raise ValueError(f"{name} image of {image} tokens: give a square number (324 is 18 × 18)")
            if length < image + 3:
                raise ValueError(
                    f"{name} of {length} tokens with an image of {image}: give at least {image + 3} tokens, "
                    "for the image, its two marks and a word"
                )
        if self.answer < 2:
            raise ValueError(f"answer of {self.answer} tokens: give at least 2, to time decoding")


def patches(image_tokens: int) -> int:
    """Side of the grid of patches behind that many merged tokens."""
    return 2 * math.isqrt(image_tokens)


class PromptMaker:
    """Makes inputs for one model: on the CPU, pinned where the model is on a GPU, pixels in its dtype.

    Args:
        model: of a family in `FAMILIES`.
        lengths: of everything.
        seed: of ids and pixels.

    Attributes:
        placeholder: an id that no prompt contains, for memory positions.

    Raises:
        ValueError: a model of another family.
    """

    def __init__(self, model: Any, lengths: Lengths, seed: int = 0) -> None:
        config = model.config
        if config.model_type not in FAMILIES:
            raise ValueError(
                f"model_type {config.model_type!r}: prompts of given lengths are made for "
                f"{' and '.join(FAMILIES)}"
            )
        table = model.get_input_embeddings().weight
        self.config, self.lengths, self._dtype = config, lengths, table.dtype
        self._pinned = table.device.type == "cuda"
        plain = _plain_ids(config)
        self._words, self.placeholder = plain[:-1][:_WORDS], int(plain[-1])
        self._random = torch.Generator().manual_seed(seed)

    def items(self, count: int) -> dict[str, Tensor]:
        """`count` items as one batch `(n, item)` for the encoder."""
        return self._inputs([[(self.lengths.item, self.lengths.item_image)]] * count)

    def prompts(self, batch: int, items: int = 0) -> dict[str, Tensor]:
        """Questions `(b, items · item + question)`, behind `items` items each."""
        item = (self.lengths.item, self.lengths.item_image)
        question = (self.lengths.question, self.lengths.question_image)
        return self._inputs([[item] * items + [question]] * batch)

    def text(self, batch: int, tokens: int) -> dict[str, Tensor]:
        """Prompts `(b, tokens)` without an image."""
        ids = torch.stack([self._draw(tokens) for _ in range(batch)])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def _inputs(self, rows: list[list[tuple[int, int]]]) -> dict[str, Tensor]:
        """Rows of parts; a part is its length and its image's tokens, image first."""
        ids = torch.stack([torch.cat([self._part(*part) for part in row]) for row in rows])
        sides = [patches(image) for row in rows for _, image in row]
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": (ids == self.config.image_token_id).long(),
            "pixel_values": self._pixels(sides),
            "image_grid_thw": torch.tensor([[1, side, side] for side in sides]),
        }
        return {name: value.pin_memory() for name, value in inputs.items()} if self._pinned else inputs

    def _pixels(self, sides: list[int]) -> Tensor:
        """`(patches, channels · frames · 14 · 14)`: one image of noise, again and again."""
        vision = self.config.vision_config
        width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        noise = torch.rand((max(sides) ** 2, width), generator=self._random) * 2 - 1
        return torch.cat([noise.to(self._dtype)[: side * side] for side in sides])

    def _part(self, length: int, image: int) -> Tensor:
        start, end = self.config.vision_start_token_id, self.config.vision_end_token_id
        pad = torch.tensor([start, *[self.config.image_token_id] * image, end])
        return torch.cat([pad, self._draw(length - len(pad))])

    def _draw(self, count: int) -> Tensor:
        return self._words[torch.randint(len(self._words), (count,), generator=self._random)]


def _plain_ids(config: Any) -> Tensor:
    """Ids without a role."""
    text = config.get_text_config()
    roles = {
        value
        for part in (config, text)
        for name, value in vars(part).items()
        if name.endswith("token_id") and isinstance(value, int)
    }
    return torch.tensor([i for i in range(text.vocab_size) if i not in roles])


_REPEAT, _SIDE = 5, 14  # runs; pixels of a patch


def preprocess_seconds(process: Any, lengths: Lengths) -> dict[str, float]:
    """Median seconds on the CPU for one question and for one item, image included.

    Images are JPEG files of noise, of the pixels that give the image's tokens; words are one letter each.

    Args:
        process: the backbone's `ChatProcessor`.
        lengths: tokens of questions, items and images.
    """
    return {
        "question": _seconds(process, lengths.question, lengths.question_image),
        "item": _seconds(process, lengths.item, lengths.item_image),
    }


def _seconds(process: Any, length: int, image_tokens: int) -> float:
    side, file = _SIDE * patches(image_tokens), io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    turn = Message("user", (ImageRef(data=file.getvalue()), " ".join("a" * (length - image_tokens))))
    seconds = timeit.repeat(lambda: process([[turn]]), number=1, repeat=_REPEAT + 1)
    return statistics.median(seconds[1:])  # the first warms up
